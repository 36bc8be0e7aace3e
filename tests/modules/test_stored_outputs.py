"""A student of stored answers is the student of the teacher, bit for bit; answers to anything else are refused."""

from dataclasses import asdict

import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch.utils.data import DataLoader

from ida_lightning import InputError, Mixing
from ida_lightning.methods import (
    AddedTermCallback,
    CutMixPickCallback,
    DataSelectionCallback,
    IsotonicSoftLabelCallback,
    LabelRevisionCallback,
    OrderPenaltyCallback,
    TeacherLabelCallback,
    TruthBlendCallback,
    ValueExchangeCallback,
)
from ida_lightning.modules import DistillationModule, TeacherOutputs
from tests.helpers.data import BlobsDataModule
from tests.helpers.networks import TinyNet
from tests.helpers.trainers import trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:teacher. .* is close to chance"),  # a random teacher is enough here
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no"),
    pytest.mark.filterwarnings("ignore:Encountered `nan` values"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
]
METHODS = {
    "kd": lambda folder: [],
    "isotonic": lambda folder: [IsotonicSoftLabelCallback()],
    "logits": lambda folder: [IsotonicSoftLabelCallback(space="logits", share=0.5)],
    "added": lambda folder: [AddedTermCallback(IsotonicSoftLabelCallback(), 0.5)],
    "penalty": lambda folder: [OrderPenaltyCallback()],
    "revision": lambda folder: [LabelRevisionCallback()],
    "blend": lambda folder: [TruthBlendCallback(0.3)],
    "exchange": lambda folder: [ValueExchangeCallback()],
    "selection": lambda folder: [DataSelectionCallback("violation", folder=str(folder / "scores"))],
    "labels": lambda folder: [TeacherLabelCallback()],
    "picking": lambda folder: [CutMixPickCallback()],
}
POOLS = {"labels": 1, "picking": 2}


def a_teacher():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return TinyNet(width=16).eval()


class Fit:
    """One fit of a student, from the same start each time."""

    def __init__(
        self, tmp_path, outputs=None, callbacks=(), pool=0, teacher=None, data=None, ckpt_path=None, **options
    ):
        torch.manual_seed(1)
        self.data = data or BlobsDataModule(batch_size=16, mixing=Mixing("cutmix"), pool=pool)
        given = a_teacher() if teacher is None else teacher
        self.module = DistillationModule(given, TinyNet(), 4, 1, 8, teacher_outputs=outputs)
        self.trainer = trainer(tmp_path, callbacks=list(callbacks), **{"max_epochs": 2, **options})
        self.trainer.fit(self.module, self.data, ckpt_path=ckpt_path)
        self.weights = self.module.student.state_dict()
        self.answers = self.module.answers

    def same_as(self, other):
        return all(torch.equal(a, b) for a, b in zip(self.weights.values(), other.weights.values(), strict=True))


@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns_the_same_from_stored_answers(tmp_path, method):
    options = {"pool": POOLS.get(method, 0)}
    live = Fit(tmp_path, callbacks=METHODS[method](tmp_path), **options)
    recorded = Fit(tmp_path, TeacherOutputs(tmp_path / "a", "record"), METHODS[method](tmp_path), **options)
    replayed = Fit(tmp_path, TeacherOutputs(tmp_path / "a", "replay"), METHODS[method](tmp_path), **options)
    assert recorded.same_as(live)
    assert replayed.same_as(live)
    assert (live.answers.live, recorded.answers.live, replayed.answers.live) == (8, 8, 0)
    assert (replayed.module.teacher.network is None) == (method != "selection"), "only built where it is needed"
    metrics = [{key: float(value) for key, value in fit.trainer.callback_metrics.items()} for fit in (live, replayed)]
    assert metrics[0] == metrics[1]


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_other_precisions(tmp_path, precision):
    live = Fit(tmp_path, precision=precision)
    Fit(tmp_path, TeacherOutputs(tmp_path / "a", "record"), precision=precision)
    replayed = Fit(tmp_path, TeacherOutputs(tmp_path / "a"), precision=precision)
    assert replayed.same_as(live)
    assert replayed.answers.live == 0
    with pytest.raises(InputError, match=r"expected teacher.precision '.*', with which .* was recorded, got '32-true'"):
        Fit(tmp_path, TeacherOutputs(tmp_path / "a"))


def test_accumulated_batches(tmp_path):
    live = Fit(tmp_path, accumulate_grad_batches=2)
    Fit(tmp_path, TeacherOutputs(tmp_path / "a"))
    assert Fit(tmp_path, TeacherOutputs(tmp_path / "a", "replay"), accumulate_grad_batches=2).same_as(live)


class Stop(Callback):
    """Crashes a fit in front of a batch, after a checkpoint."""

    def __init__(self, epoch, batch):
        self.at = epoch, batch

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if (trainer.current_epoch, batch_idx) == self.at:
            raise RuntimeError("stopped")


@pytest.mark.parametrize("at", [(0, 3), (1, 1)])
def test_a_stopped_recording_goes_on_in_the_middle_of_an_epoch(tmp_path, at):
    live, outputs = Fit(tmp_path), TeacherOutputs(tmp_path / "a")
    keep = ModelCheckpoint(tmp_path / "c", every_n_train_steps=1, save_top_k=-1, filename="{step}")
    with pytest.raises(RuntimeError, match="stopped"):
        Fit(tmp_path, outputs, [keep, Stop(*at)], enable_checkpointing=True)
    last = tmp_path / "c" / f"step={4 * at[0] + at[1] - 1}.ckpt"  # one batch is trained again
    resumed = Fit(tmp_path, outputs, ckpt_path=last)
    assert resumed.same_as(live)
    assert (resumed.answers.live, resumed.answers.store.recorded.read) == (8 - 4 * at[0] - at[1], 1)
    replayed = Fit(tmp_path, TeacherOutputs(tmp_path / "a", "replay"))
    assert replayed.same_as(live)
    assert not list((tmp_path / "a").glob("*.part"))


def test_a_longer_run_records_what_is_missing(tmp_path):
    Fit(tmp_path, TeacherOutputs(tmp_path / "a"), max_epochs=1, limit_train_batches=2)
    longer = Fit(tmp_path, TeacherOutputs(tmp_path / "a"))
    assert longer.same_as(Fit(tmp_path))
    assert longer.answers.live == 6
    with pytest.raises(InputError, match=r"expected the answers to epoch 2, batch 0 of process 0 in .*, found none"):
        Fit(tmp_path, TeacherOutputs(tmp_path / "a", "replay"), max_epochs=3)


def test_a_damaged_epoch_is_recorded_again_or_named(tmp_path):
    live = Fit(tmp_path, TeacherOutputs(tmp_path / "a"))
    file = tmp_path / "a" / "epoch_0001-rank_0.npy"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"epoch 1, batch 3 of process 0 in .*, found none that is whole; mode: auto"):
        Fit(tmp_path, TeacherOutputs(tmp_path / "a", "replay"))
    again = Fit(tmp_path, TeacherOutputs(tmp_path / "a"))
    assert again.same_as(live)
    assert again.answers.live == 1


OTHERS = {
    "teacher.fingerprint": lambda: {"teacher": TinyNet(width=16).eval()},
    "pictures.seed": lambda: {"data": BlobsDataModule(16, Mixing("cutmix"), seed=9)},
    "pictures.batch_size": lambda: {"data": BlobsDataModule(8, Mixing("cutmix"))},
    "pictures.mixing.kind": lambda: {"data": BlobsDataModule(16, Mixing("mixup"))},
    "pictures.pool": lambda: {"data": BlobsDataModule(16, Mixing("cutmix"), pool=1)},
}


@pytest.mark.parametrize("mode", ["auto", "record", "replay"])
@pytest.mark.parametrize("key", OTHERS)
def test_answers_of_others_are_refused_and_stay(tmp_path, key, mode):
    folder = tmp_path / "a"
    Fit(tmp_path, TeacherOutputs(folder), max_epochs=1)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(InputError, match=rf"teacher_outputs: expected {key} .*, with which .* was recorded, got"):
        Fit(tmp_path, TeacherOutputs(folder, mode), **OTHERS[key]())
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_other_data_and_other_draws_are_noticed(tmp_path, monkeypatch):
    class Brighter(BlobsDataModule):
        def load(self):
            splits = super().load()
            splits["train"].images[0, 0, 0, 0] += 1
            return splits

    Fit(tmp_path, TeacherOutputs(tmp_path / "a"), max_epochs=1)
    with pytest.raises(InputError, match=r"teacher_outputs: expected pictures.train '"):
        Fit(tmp_path, TeacherOutputs(tmp_path / "a"), data=Brighter(16, Mixing("cutmix")))
    monkeypatch.setattr(BlobsDataModule, "normalise", lambda self, images: images / 255)
    with pytest.raises(InputError, match=r"expected the images of epoch 0, batch 0 that .* was recorded with"):
        Fit(tmp_path, TeacherOutputs(tmp_path / "a"))


def test_loaders_have_no_pictures_to_store_answers_to(tmp_path):
    data = BlobsDataModule(16)
    data.setup("fit")
    module = DistillationModule(a_teacher(), TinyNet(), 4, 1, 8, teacher_outputs=TeacherOutputs(tmp_path / "a"))
    with pytest.raises(InputError, match=r"teacher_outputs: expected a MixingDataModule, .*, got loaders"):
        trainer(tmp_path).fit(module, DataLoader(data.splits["train"], 16))


def test_no_room_is_said_before_the_first_step(tmp_path, monkeypatch):
    monkeypatch.setattr("ida_lightning.teacher_outputs.store.OutputStore.free_bytes", lambda self: 1000)
    with pytest.raises(InputError, match=r"teacher_outputs.folder: expected room for 2 epochs x 4 batches x 16 rows"):
        Fit(tmp_path, TeacherOutputs(tmp_path / "a"))
    assert not list((tmp_path / "a").glob("epoch*"))


def test_a_cycle_shows_the_same_pictures_again(tmp_path):
    seen = []

    class Watch(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            seen.append((batch.index.tolist(), batch.inputs.sum().item()))

    fit = Fit(tmp_path, TeacherOutputs(tmp_path / "a", cycle=2), [Watch()], max_epochs=5)
    assert seen[:4] != seen[4:8]
    assert seen[8:12] == seen[:4]
    assert seen[16:] == seen[:4]
    assert fit.answers.live == 8
    assert fit.answers.store.recorded.read == 12
    assert len(list((tmp_path / "a").glob("epoch*"))) == 2


def test_a_cycle_ends_with_its_fit(tmp_path):
    def shown(**options):
        fit = Fit(tmp_path, data=data, max_epochs=2, **options)
        return fit.weights["6.weight"]

    data = BlobsDataModule(16, Mixing("cutmix"), seed=3)
    before = shown()
    during = shown(outputs=TeacherOutputs(tmp_path / "a", cycle=1))
    assert not torch.equal(before, during)
    assert torch.equal(shown(), before), "the data module shows new pictures in every epoch again"


@pytest.mark.parametrize("options", [{"precision": "half"}, {"top_k": 3}, {"top_k": 3, "precision": "half"}])
def test_small_answers_teach_recorder_and_students_the_same(tmp_path, options):
    outputs = TeacherOutputs(tmp_path / "a", **options)
    recorded = Fit(tmp_path, outputs, [IsotonicSoftLabelCallback()])
    replayed = Fit(tmp_path, outputs, [IsotonicSoftLabelCallback()])
    assert replayed.same_as(recorded)
    assert replayed.answers.live == 0
    rate = replayed.trainer.callback_metrics.get("train/inexact_rate")
    assert (rate is not None) == ("top_k" in options)


def test_top_k_belongs_to_its_temperature(tmp_path):
    Fit(tmp_path, TeacherOutputs(tmp_path / "a", top_k=3), max_epochs=1)
    torch.manual_seed(1)
    outputs = TeacherOutputs(tmp_path / "a", top_k=3)
    module = DistillationModule(a_teacher(), TinyNet(), 4, 1, 8, teacher_outputs=outputs, temperature=2.0)
    with pytest.raises(InputError, match=r"expected answers.temperature 4.5, .*, got 2.0"):
        trainer(tmp_path).fit(module, BlobsDataModule(16, Mixing("cutmix")))


def test_a_checkpoint_keeps_the_options_as_plain_values(tmp_path):
    outputs = TeacherOutputs(str(tmp_path / "a"))
    module = DistillationModule("test_resnet", "test_resnet", 4, 1, 8, teacher_outputs=outputs)
    assert module.hparams["teacher_outputs"] == asdict(outputs)
    again = DistillationModule(**{**module.hparams, "teacher": "test_resnet"})
    assert again.answers.options == outputs


def test_rows_without_numbers_are_stored_as_they_are(tmp_path):
    class Broken(TinyNet):
        def forward(self, inputs):
            logits = super().forward(inputs)
            return torch.where((logits[:, :1] > 0), torch.nan, logits) if len(inputs) > 1 else logits

    def fit(outputs):
        torch.manual_seed(1)
        teacher = Broken().eval()
        module = DistillationModule(teacher, TinyNet(), 4, 1, 8, teacher_outputs=outputs, nonfinite="skip")
        trainer(tmp_path).fit(module, BlobsDataModule(16, Mixing("cutmix")))
        return module.student.state_dict()

    with pytest.warns(UserWarning, match="rows left out"):
        live, _, replayed = fit(None), fit(TeacherOutputs(tmp_path / "a")), fit(TeacherOutputs(tmp_path / "a"))
    assert all(torch.equal(a, b) for a, b in zip(live.values(), replayed.values(), strict=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"folder": ""}, "teacher_outputs.folder: expected a path"),
        ({"folder": 3}, "teacher_outputs.folder: expected a path, got int"),
        ({"folder": "a", "mode": "write"}, "teacher_outputs.mode: expected one of record, replay, auto, got 'write'"),
        ({"folder": "a", "cycle": 0}, "teacher_outputs.cycle: expected .*, got 0"),
        ({"folder": "a", "top_k": 1}, "top_k: expected .*, got 1"),
        ({"folder": "a", "precision": "full"}, "precision: expected one of exact, half, got 'full'"),
    ],
)
def test_refused(options, message):
    with pytest.raises(InputError, match=message):
        TeacherOutputs(**options)
