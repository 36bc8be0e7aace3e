"""The streaming data module in fits: what is seen, what goes on exactly, and what needs a length."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from lightning.pytorch.callbacks import Callback

from ida_lightning import InputError, Mixing
from ida_lightning.__main__ import main
from ida_lightning.callbacks import PredictionsCallback, SpeedCallback
from ida_lightning.data import Crops, StreamingDataModule
from ida_lightning.data_facts import facts_from
from ida_lightning.methods import CRDCallback, DataSelectionCallback
from ida_lightning.modules import ClassificationModule, DistillationModule, TeacherOutputs
from ida_lightning.studies.audit.measure import training_batches
from ida_lightning.studies.audit.run import audit
from ida_lightning.studies.export.source import pictures_for
from tests.helpers.comparisons import CONTROL, rows_of, set_up, write_comparison
from tests.helpers.data import Keep, same
from tests.helpers.networks import TinyNet
from tests.helpers.streams import Pixels
from tests.helpers.trainers import trainer

pytestmark = pytest.mark.filterwarnings("ignore:teacher. .* is close to chance")  # a random teacher is enough here
CLASSES = ["top", "bottom", "TOP", "BOTTOM"]


def data_of(train=None, val=17, **options):
    val = Pixels(val, known=False) if val else None
    options = {"batch_size": 8, "num_workers": 0, "mixing": Mixing("cutmix"), "crops": Crops(8, 0.5), **options}
    return StreamingDataModule(train or Pixels(), val, class_names=CLASSES, **options)


def networks():
    torch.manual_seed(1)
    return DistillationModule(TinyNet(channels=3), TinyNet(channels=3), 4, 3, 8)


def test_a_fit_sees_every_image_once_an_epoch_and_mixes_it(tmp_path):
    module, data = Keep(3), data_of()
    trainer(tmp_path, max_epochs=2, num_sanity_val_steps=0).fit(module, data)
    epochs = [module.batches["train"][:6], module.batches["train"][6:]]
    ids = [torch.cat([batch.index for batch in batches]).tolist() for batches in epochs]
    assert [sorted(rows) for rows in ids] == 2 * [list(range(48))]
    assert ids[0] != ids[1]
    mix = epochs[0][0].label_mix
    assert mix.labels.shape == (8, 2), "with the order of the labels, as everywhere"
    assert torch.equal(mix.labels[:, 0], epochs[0][0].index % 4)
    val = torch.cat([batch.index for batch in module.batches["val"]]).tolist()
    assert val == 2 * list(range(17)), "in order, the last batch smaller"


def test_draws_are_those_of_seed_epoch_batch_and_rank(tmp_path):
    module, data = Keep(3), data_of()
    trainer(tmp_path).fit(module, data)
    loaded = data_of()
    loaded.setup("fit")
    for number, (raw, kept) in enumerate(zip(loaded.train_dataloader(), module.batches["train"], strict=True)):
        assert same(loaded.mix(raw, loaded.batch_generator(0, number)), kept)
    first = next(iter(loaded.train_dataloader()))
    again = loaded.train_dataloader()
    again.set_epoch(1)
    shared = {row: at for at, row in enumerate(first.index.tolist())}
    other = torch.cat([batch.inputs[batch.index == row] for batch in again for row in shared if row in batch.index])
    assert len(other) == 8
    assert not torch.equal(first.inputs, other), "other crops in another epoch"


class Save(Callback):
    """Writes a checkpoint after every step."""

    def __init__(self, folder):
        self.folder = folder

    def on_train_batch_end(self, trainer, *args):
        trainer.save_checkpoint(self.folder / f"{trainer.global_step}.ckpt")


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_run_is_the_uninterrupted_one(tmp_path, workers):
    epochs, steps = (1, (3,)) if workers else (2, (3, 6, 9))

    def run(*callbacks, step=None):
        torch.manual_seed(2)
        module = Keep(3)
        fit = trainer(tmp_path, max_epochs=epochs, callbacks=list(callbacks))
        path = None if step is None else tmp_path / f"{step}.ckpt"
        fit.fit(module, data_of(num_workers=workers), ckpt_path=path, weights_only=True)
        return module

    whole = run(Save(tmp_path))
    for step in steps:  # in the middle of an epoch, between two, in the middle of the second
        rest = run(step=step)
        assert len(rest.batches["train"]) == 6 * epochs - step
        assert all(map(same, rest.batches["train"], whole.batches["train"][step:]))
        assert all(map(torch.equal, rest.state_dict().values(), whole.state_dict().values()))


CHANGED = {
    "workers": ({"num_workers": 1}, r"num_workers: expected 0, as this run had when it stopped .*, got 1"),
    "batch": ({"batch_size": 4}, r"batch_size: expected 8, .* got 4"),
    "shards": ({"train": Pixels(52)}, r"train: expected [0-9a-f]+, as this run had"),
    "engine": ({"train": Pixels(resumes=False)}, r"ckpt_path: expected the end of an epoch, as Pixels cannot begin"),
    "length": ({"train": Pixels(known=False)}, r"train.images: expected their number where a run is gone on with"),
}


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stopped")
    trainer(folder, max_steps=3, callbacks=[Save(folder)]).fit(Keep(3), data_of())
    return folder / "3.ckpt"


@pytest.mark.parametrize("case", CHANGED.values(), ids=list(CHANGED))
def test_what_cannot_go_on_exactly_is_refused(tmp_path, stopped, case):
    options, message = case
    with pytest.raises(InputError, match=rf"{message}.*; allow_inexact_resume: true"):
        trainer(tmp_path, max_steps=6).fit(Keep(3), data_of(**options), ckpt_path=stopped, weights_only=True)
    module = Keep(3)
    with pytest.warns(UserWarning, match="images of the epoch may be repeated or left out"):
        trainer(tmp_path, max_steps=6).fit(
            module, data_of(**options, allow_inexact_resume=True), ckpt_path=stopped, weights_only=True
        )
    assert len(module.batches["train"]) == 3


def test_without_a_length_steps_are_counted(tmp_path):
    module, unknown = Keep(3), Pixels(known=False)
    callbacks = [SpeedCallback()]
    trainer(tmp_path, max_epochs=-1, max_steps=9, callbacks=callbacks).fit(module, data_of(unknown))
    ids = [row for batch in module.batches["train"] for row in batch.index.tolist()]
    assert sorted(ids[:48]) == list(range(48)), "six batches, then the next epoch"
    assert len(ids) == 72
    with pytest.raises(InputError, match=r"trainer.max_steps: expected a number .* \(data.train.images of a stream\)"):
        trainer(tmp_path, max_epochs=2).fit(Keep(3), data_of(unknown))


@pytest.mark.parametrize("known", [True, False])
def test_the_audit_goes_over_a_stream(tmp_path, known):
    data = data_of(Pixels(known=known))
    data.setup("fit")
    places = [(epoch, number) for epoch, number, _ in training_batches(data, 8, torch.device("cpu"))]
    assert places == [(0, number) for number in range(6)] + [(1, 0), (1, 1)]


@pytest.mark.slow
def test_the_audit_of_a_stream(tmp_path):
    data = data_of(Pixels(known=False))
    report, _ = audit(trainer(tmp_path), networks(), data, batches=2, out=str(tmp_path / "audit"))
    assert report.facts["data"]["rows"] == 16


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_a_comparison_on_a_stream():
    set_up()
    stream = {"class_path": "tests.helpers.streams.Pixels", "init_args": {"images": 48}}
    options = {"train": stream, "val": stream, "test": stream, "class_names": CLASSES, "crops": {"image_size": 8}}
    data = {"class_path": "StreamingDataModule", "init_args": {**options, "batch_size": 8, "num_workers": 0}}
    for name in ("fit.yaml", "teacher.yaml"):
        config = yaml.safe_load(Path(name).read_text())
        Path(name).write_text(yaml.safe_dump({**config, "data": data}))
    control = {"trainer": {"callbacks": [CONTROL]}}
    main(write_comparison(seeds=[0], methods={"kd_aug": {}, "control": control}))
    assert {row["method"] for row in rows_of("results")} == {"kd_aug", "control"}


def test_an_export_is_compared_on_the_first_images():
    data = data_of()
    described = SimpleNamespace(image_input=facts_from(data).image_input)
    pictures = pictures_for(SimpleNamespace(description=described), SimpleNamespace(datamodule=data), 5)
    assert pictures.labels.tolist() == [0, 1, 2, 3, 0]
    assert pictures.pixels.shape == (5, 3, 8, 8)


def test_what_asks_by_number_refuses_a_stream(tmp_path):
    for callback, message in (
        (
            DataSelectionCallback("random", folder=tmp_path),
            "training images that can be asked for by number, got a stream",
        ),
        (CRDCallback(), "knows every image by its position"),
    ):
        with pytest.raises(InputError, match=message):
            trainer(tmp_path, callbacks=[callback]).fit(networks(), data_of())


@pytest.mark.parametrize("mode", ["record", "replay"])
def test_stored_answers_need_a_length(tmp_path, mode):
    def fit(train, mode="record"):
        torch.manual_seed(1)
        outputs = TeacherOutputs(str(tmp_path / "answers"), mode=mode)
        module = DistillationModule(TinyNet(channels=3), TinyNet(channels=3), 4, 3, 8, teacher_outputs=outputs)
        trainer(tmp_path, max_steps=2, max_epochs=-1).fit(module, data_of(train))
        return module.answers

    if mode == "replay":
        fit(Pixels())
        assert fit(Pixels(), mode).replayed == 2, "with a length they work"
    with pytest.raises(InputError, match=r"teacher_outputs: expected .*data.train.images|other"):
        fit(Pixels(known=False), mode)


@pytest.mark.filterwarnings("ignore:Couldn't infer the batch indices")  # which are of samplers
def test_predictions_go_by_id(tmp_path):
    data = StreamingDataModule(Pixels(), test=Pixels(10), class_names=CLASSES, num_workers=0, crops=Crops(8))
    module = ClassificationModule(TinyNet(channels=3), 4, 3, 8)
    module.allow_untrained = True
    path = tmp_path / "predictions.csv"
    trainer(tmp_path, callbacks=[PredictionsCallback(str(path))]).predict(module, data)
    assert [int(line.split(",")[0]) for line in path.read_text().splitlines()[1:]] == list(range(10))


def test_bad_arguments():
    with pytest.raises(InputError, match="train: expected an ImageStream such as WebDatasetStream, got "):
        StreamingDataModule("shards")
    with pytest.raises(InputError, match="class_names: expected them, the training shards do not say"):
        StreamingDataModule(Pixels())
    for options, message in (
        ({"crops": Crops}, "crops: expected a Crops"),
        ({"allow_inexact_resume": 1}, "allow_inexact_resume: expected true or false"),
    ):
        with pytest.raises(InputError, match=message):
            data_of(**options)
    for options, message in (
        ({"image_size": 0}, "image_size"),
        ({"min_scale": 2.0}, "min_scale"),
        ({"std": (1, 0, 1)}, "std"),
    ):
        with pytest.raises(InputError, match=message):
            Crops(**options)


class Count(DistillationModule):
    """Writes down which images its process had."""

    ids = ()

    def training_step(self, batch, batch_idx):
        self.ids = [*self.ids, *batch.index.tolist()]
        return super().training_step(batch, batch_idx)

    def on_train_end(self):
        folder = self.trainer.default_root_dir
        np.save(f"{folder}/ids{self.global_rank}.npy", np.array(self.ids).reshape(2, -1))


@pytest.mark.skipif(torch.cuda.is_initialized(), reason="Lightning refuses to fork once CUDA is initialised")
def test_two_processes_of_two_workers_share_a_stream(tmp_path):
    torch.manual_seed(1)
    module = Count(TinyNet(channels=3), TinyNet(channels=3), 4, 3, 8)
    data = data_of(Pixels(22), val=9, batch_size=2, num_workers=2)
    fit = trainer(tmp_path, devices=2, strategy="ddp_fork", max_epochs=2)
    fit.fit(module, data)
    epochs = np.concatenate([np.load(tmp_path / f"ids{rank}.npy") for rank in (0, 1)], 1)
    assert epochs.shape == (2, 16), "two batches of two a worker"
    assert all(len(set(epoch.tolist())) == 16 for epoch in epochs), "no image twice"
    # Validation has three batches in one process and two in the other.
    (alone,) = trainer(tmp_path).validate(module, data_of(val=9, batch_size=9), verbose=False)
    assert float(fit.callback_metrics["student/val_acc"]) == alone["student/val_acc"]
    assert float(fit.callback_metrics["student/val_nll"]) == pytest.approx(alone["student/val_nll"], rel=1e-5)
