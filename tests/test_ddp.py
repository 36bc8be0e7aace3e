"""Two real processes."""

import csv
import json
import re
import sys
from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from torch import nn
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader, DistributedSampler

from ida_lightning import InputError, Mixing
from ida_lightning.callbacks import ExportCallback, PredictionsCallback
from ida_lightning.data.loading import EpochSampler
from ida_lightning.methods import Contrast, CRDCallback, InnerMixingCallback, IsotonicSoftLabelCallback
from ida_lightning.metrics import violated_rows
from ida_lightning.modules import ClassificationModule, DistillationModule, Teacher, TeacherOutputs, sharding
from ida_lightning.modules.evaluation import rows_that_count
from tests.helpers.data import BlobsDataModule
from tests.helpers.kinds import CLASSES, NETWORKS, KindsDataModule, Sentences
from tests.helpers.networks import TinyNet
from tests.helpers.trainers import trainer

pytestmark = [
    pytest.mark.skipif(torch.cuda.is_initialized(), reason="Lightning refuses to fork once CUDA is initialised"),
    pytest.mark.filterwarnings("ignore:teacher. .* is close to chance"),  # a random teacher is enough here
    # Two processes share one test split; evaluating on one is Lightning's advice for final figures.
    pytest.mark.filterwarnings("ignore:Using `DistributedSampler` with the dataloaders"),
]


def full_tensor(tensor):
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def held(tensor):
    """Return what this process holds of a parameter."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


class Report(Callback):
    """Every process writes down what only it can see."""

    def __init__(self, folder):
        self.folder = folder
        self.seen = {"weights": [], "index": [], "loss": []}

    def on_train_start(self, trainer, pl_module):
        self.seen["wrapped"] = type(trainer.model).__name__
        self.seen["find_unused"] = getattr(trainer.model, "find_unused_parameters", None)
        self.seen["synchronised"] = [name for name, _ in trainer.model.named_parameters()]

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.seen["weights"].append(batch.label_mix.weights.flatten().tolist())
        self.seen["index"].append(batch.index.tolist())
        self.seen["loss"].append(float(trainer.callback_metrics["train/loss"]))

    def on_fit_end(self, trainer, pl_module):
        self.seen["metrics"] = {name: float(value) for name, value in trainer.callback_metrics.items()}
        for name, network in (("student", pl_module.student), ("teacher", pl_module.teacher.network)):
            whole = [full_tensor(tensor) for tensor in network.state_dict().values()]
            self.seen[name] = [float(tensor.double().sum()) for tensor in whole]
        self.seen["fingerprint"] = pl_module.teacher.fingerprint
        self.seen["held"] = sum(held(parameter).numel() for parameter in pl_module.teacher.network.parameters())
        self.seen["projectors"] = [float(p.detach().double().sum()) for p in pl_module.method_networks.parameters()]
        banks = [callback.banks for callback in trainer.callbacks if isinstance(callback, CRDCallback)]
        self.seen["banks"] = [float(bank.double().sum()) for each in banks for bank in each.values()]
        (self.folder / f"rank{trainer.global_rank}.json").write_text(json.dumps(self.seen))


def fit(tmp_path, name, teacher, student=None, data=None, callbacks=(), outputs=None, **options):
    folder = tmp_path / name
    folder.mkdir()
    torch.manual_seed(1)
    module = DistillationModule(teacher, student or TinyNet(), 4, 1, 8, teacher_outputs=outputs)
    data = data or BlobsDataModule(batch_size=8, mixing=Mixing("cutmix"))
    callbacks = [Report(folder), IsotonicSoftLabelCallback(), *callbacks]
    run = trainer(tmp_path, max_epochs=2, callbacks=callbacks, **options)
    run.fit(module, data)
    return run, [json.loads(file.read_text()) for file in sorted(folder.glob("rank*.json"))]


def test_students_agree_teachers_stay_and_draws_differ(tmp_path):
    teacher = TinyNet()
    before = [float(tensor.double().sum()) for tensor in teacher.state_dict().values()]
    run, (first, second) = fit(tmp_path, "two", teacher, devices=2, strategy="ddp_fork")
    assert first["wrapped"] == "DistributedDataParallel"
    assert first["find_unused"] is False, "every parameter of the student has a gradient in every step"
    assert all(name.startswith("module.student.") for name in first["synchronised"])
    # Buffers of the student are its own on every process until the next forward; parameters are equal.
    is_parameter = [name in dict(TinyNet().named_parameters()) for name in TinyNet().state_dict()]
    pairs = zip(first["student"], second["student"], is_parameter, strict=True)
    assert all(a == b for a, b, parameter in pairs if parameter)
    assert first["teacher"] == second["teacher"] == before
    assert len(first["index"]) == len(second["index"]) == 8
    for epoch in range(2):
        batches = [batch for seen in (first, second) for batch in seen["index"][4 * epoch : 4 * epoch + 4]]
        assert sorted(chain(*batches)) == list(range(64)), "each process has its own share of the images"
    assert all(a != b for a, b in zip(first["weights"], second["weights"], strict=True)), (
        "each process mixes its own way"
    )
    assert run.callback_metrics["train/violation_rate_corrected"] == 0

    crd = CRDCallback(contrast=Contrast(dimensions=8, negatives=20))
    _, again = fit(tmp_path, "again", TinyNet(), callbacks=[crd], devices=2, strategy="ddp_fork")
    assert [seen["weights"] for seen in again] == [first["weights"], second["weights"]]
    assert len(again[0]["banks"]) == 2
    for name in ("banks", "projectors"):
        assert again[0][name] == again[1][name], "what a method learns and remembers is the same on both"


def test_answers_are_the_same_whole_shared_out_and_stored(tmp_path, monkeypatch):
    monkeypatch.setattr(sharding, "_LEAST", 8)  # else so small a network is gathered at once
    two, folder = {"devices": 2, "strategy": "ddp_fork"}, tmp_path / "answers"
    network = TinyNet(width=9)  # no two shares are equal
    torch.save(network.state_dict(), tmp_path / "teacher.pt")
    teacher = Teacher("tests.helpers.networks.TinyNet", tmp_path / "teacher.pt", {"width": 9}, strategy="shard")
    _, live = fit(tmp_path, "live", replace(teacher, strategy="replicate"), **two)
    _, recorded = fit(tmp_path, "record", teacher, outputs=TeacherOutputs(folder, "record"), **two)
    for name in ("fingerprint", "teacher", "student", "loss", "metrics"):
        assert [seen[name] for seen in recorded] == [seen[name] for seen in live]
    weights = sum(parameter.numel() for parameter in network.parameters())
    assert [seen["held"] for seen in live] == [weights, weights]
    first, second = (seen["held"] for seen in recorded)
    assert first + second == weights
    assert 0.45 * weights < second < first, "the first process has the odd rows"
    names = {f"epoch_000{epoch}-rank_{rank}.npy" for epoch in (0, 1) for rank in (0, 1)}
    assert {path.name for path in folder.glob("epoch*")} == names
    before = {name: (folder / name).read_bytes() for name in names}
    (folder / "epoch_0001-rank_1.npy").unlink()  # the first process is asked for the second
    _, replayed = fit(tmp_path, "auto", teacher, outputs=TeacherOutputs(folder), **two)
    assert [seen["student"] for seen in replayed] == [seen["student"] for seen in recorded]
    assert [seen["loss"] for seen in replayed] == [seen["loss"] for seen in recorded]
    assert [seen["index"] for seen in live] == [seen["index"] for seen in replayed]
    assert {name: (folder / name).read_bytes() for name in names} == before
    with pytest.raises(InputError, match=r"teacher_outputs: expected processes 2, with which .* was recorded, got 1"):
        fit(tmp_path, "one", teacher, outputs=TeacherOutputs(folder))


class Uneven(BlobsDataModule):
    """Numbers of images that neither two processes nor batches of 4 divide."""

    images = {"train": 64, "val": 23, "test": 17}  # noqa: RUF012

    def load(self):
        # The sampler repeats the first rows; drawn so, they are of several classes.
        whole = super().load()["train"]
        return {name: whole.subset(np.random.default_rng(n).permutation(64)[:n]) for name, n in self.images.items()}


def plain():
    """A network in which no row sees another and nothing is drawn."""
    torch.manual_seed(2)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 4))


def test_two_processes_are_one_with_twice_the_batch(tmp_path):
    def run(name, batch_size, **options):
        student = plain()
        data = Uneven(batch_size=batch_size, mixing=Mixing("none"))
        fitted, seen = fit(tmp_path, name, TinyNet(), student, data, **options)
        (tested,) = trainer(tmp_path, **options).test(fitted.lightning_module, data, verbose=False)
        return student, seen, tested

    torch.manual_seed(5)
    alone, (whole,), tested = run("one", 16)
    torch.manual_seed(5)
    together, halves, tested_together = run("two", 8, devices=2, strategy="ddp_fork")
    for step, rows in enumerate(whole["index"]):
        assert sorted(rows) == sorted(chain(*(half["index"][step] for half in halves))), "the same global batch"
        # What is logged in every step is of one process; the mean of both is the loss of the global batch.
        assert np.mean([half["loss"][step] for half in halves]) == pytest.approx(whole["loss"][step], rel=1e-4)
    assert len(whole["index"]) == 8
    for name, tensor in together.state_dict().items():
        assert not torch.equal(tensor, plain().state_dict()[name]), "it has learnt"
        torch.testing.assert_close(tensor, alone.state_dict()[name], rtol=1e-4, atol=1e-6)
    for half in halves:
        of_one_process = {"train/loss", "train/kd_loss", "train/hard_loss"}
        assert half["metrics"].keys() == whole["metrics"].keys() > of_one_process
        for name in whole["metrics"].keys() - of_one_process:
            assert half["metrics"][name] == pytest.approx(whole["metrics"][name], rel=1e-4), name
    assert 0 < whole["metrics"]["train/violation_rate"] <= 1
    assert whole["metrics"]["train/moved_mass"] > 0
    assert tested_together == pytest.approx(tested, rel=1e-4)


def test_order_metrics_are_means_over_the_rows_of_all_processes(tmp_path):
    class Order(Callback):
        """Looks before the correction, on every process for itself."""

        def __init__(self):
            self.rates = []

        def setup(self, trainer, pl_module, stage):
            def look(supervision):
                violated = violated_rows(supervision.soft_labels, supervision.label_mix)
                self.rates.append(float(violated.float().mean()))
                return supervision

            pl_module.register_supervision_hook(look)

        def on_fit_end(self, trainer, pl_module):
            (tmp_path / f"order{trainer.global_rank}.json").write_text(json.dumps(self.rates))

    callbacks = [Order(), IsotonicSoftLabelCallback()]
    run = trainer(tmp_path, max_epochs=2, devices=2, strategy="ddp_fork", callbacks=callbacks)
    run.fit(DistillationModule(TinyNet(), TinyNet(), 4, 1, 8), BlobsDataModule(batch_size=8, mixing=Mixing("both")))
    first, second = (json.loads((tmp_path / f"order{rank}.json").read_text())[-4:] for rank in (0, 1))
    assert first != second
    assert run.callback_metrics["train/violation_rate"] == pytest.approx(np.mean(first + second), rel=1e-6)
    assert run.callback_metrics["train/violation_rate_corrected"] == 0


class Writes(Callback):
    """Every process writes down which files it makes; only in processes that end, a hook for good."""

    def __init__(self, folder):
        self.folder = folder
        self.made = set()

    def setup(self, trainer, pl_module, stage):
        assert trainer.world_size > 1

        def hook(event, arguments):
            if event == "open" and isinstance(arguments[0], str) and set(str(arguments[1])) & set("wax+"):
                self.made.add(arguments[0])
            elif event == "os.rename":
                self.made.add(str(arguments[1]))

        sys.addaudithook(hook)

    def teardown(self, trainer, pl_module, stage):
        made = sorted(name.replace(f"{self.folder}/", "") for name in self.made if str(self.folder) in name)
        (self.folder / f"made{trainer.global_rank}_{trainer.state.fn.value}.json").write_text(json.dumps(made))


def test_files_are_written_by_one_process(tmp_path):
    folder = tmp_path / "out"
    folder.mkdir()
    module = DistillationModule(TinyNet(), TinyNet(), 4, 1, 8)
    data = BlobsDataModule(batch_size=8)
    callbacks = [
        Writes(folder),
        IsotonicSoftLabelCallback(),
        ModelCheckpoint(folder / "kept", save_last=True),
        ExportCallback(str(folder / "student.safetensors")),
        PredictionsCallback(str(folder / "predictions.csv")),
    ]

    def two(**options):
        return trainer(tmp_path, max_epochs=2, devices=2, strategy="ddp_fork", callbacks=callbacks, **options)

    def made(rank, stage):
        return set(json.loads((folder / f"made{rank}_{stage}.json").read_text()))

    two(logger=CSVLogger(folder, "log"), enable_checkpointing=True).fit(module, data)
    expected = {"kept/last.ckpt", "student.safetensors", "log/version_0/metrics.csv", "log/version_0/hparams.yaml"}
    assert expected <= made(0, "fit")
    assert made(1, "fit") == set()
    with (folder / "log" / "version_0" / "metrics.csv").open() as file:
        steps = [row["step"] for row in csv.DictReader(file) if row["train/loss"]]
    assert steps == [str(step) for step in range(8)], "each step once"
    two(enable_checkpointing=True).predict(module, data, return_predictions=False)
    assert "predictions.csv" in made(0, "predict")
    assert made(1, "predict") == set()


# A process without a row of its own has nothing to compute from, and torchmetrics says so.
@pytest.mark.filterwarnings("ignore:The ..compute.. method of metric .* was called before the ..update.. method")
@pytest.mark.parametrize(("val", "test"), [(23, 17), (9, 2), (1, 3)])
def test_evaluation_and_predictions_equal_one_process(tmp_path, val, test):
    module = DistillationModule(TinyNet(), TinyNet(), 4, 1, 8)

    def run(**options):
        data = Uneven(batch_size=4)
        data.images = {"train": 64, "val": val, "test": test}
        callbacks = [PredictionsCallback(str(tmp_path / f"{len(options)}.csv"))]
        one = trainer(tmp_path, callbacks=callbacks, **options)
        (validated,) = one.validate(module, data, verbose=False)
        (tested,) = one.test(module, data, verbose=False)
        one.predict(module, data, return_predictions=False)
        return {**validated, **tested}, (tmp_path / f"{len(options)}.csv").read_text()

    alone, predicted = run()
    together, predicted_together = run(devices=2, strategy="ddp_fork")
    assert alone.keys() == {f"student/{split}_{name}" for split in ("val", "test") for name in ("acc", "nll")}
    assert together == pytest.approx(alone, rel=1e-6)
    probabilities = re.compile(r"\d\.\d{6}")  # the last digit depends on how many rows a batch has, on some processors
    assert probabilities.sub("", predicted_together) == probabilities.sub("", predicted)
    figures, expected = (
        [float(each) for each in probabilities.findall(text)] for text in (predicted_together, predicted)
    )
    assert figures == pytest.approx(expected, abs=2e-6)
    assert predicted.count("\n") == 1 + test


def test_teacher_metrics_do_not_depend_on_processes(tmp_path):
    teacher = TinyNet()

    def reported(name, **options):
        logger = CSVLogger(tmp_path, name, "")
        run = trainer(tmp_path, logger=logger, limit_train_batches=1, **options)
        run.fit(DistillationModule(teacher, TinyNet(), 4, 1, 8), Uneven(batch_size=4))
        with (tmp_path / name / "metrics.csv").open() as file:
            row = next(row for row in csv.DictReader(file) if row["teacher/val_acc"])
        return float(row["teacher/val_acc"]), float(row["teacher/val_nll"])

    alone = reported("one")
    assert reported("two", devices=2, strategy="ddp_fork") == pytest.approx(alone, rel=1e-6)
    assert alone[0] * 23 == pytest.approx(round(alone[0] * 23))


def test_every_row_counts_once():
    for rows in (*range(1, 14), 23, 40):
        for processes in (1, 2, 3, 4, 7):
            for batch in (1, 2, 3, 4, 16):
                counted = []
                for rank in range(processes):
                    sampler = DistributedSampler(range(rows), processes, rank, shuffle=False)
                    loader = DataLoader(range(rows), batch, sampler=sampler)
                    for number, fetched in enumerate(loader):
                        count = rows_that_count(loader, number, len(fetched))
                        assert count == rows_that_count([loader], number, len(fetched))
                        counted += fetched[:count].tolist()
                assert sorted(counted) == list(range(rows)), (rows, processes, batch)


def test_without_shares_all_rows_count():
    loader = DataLoader(range(10), 4)
    assert rows_that_count(loader, 2, 2) == 2
    assert rows_that_count([loader, loader], 2, 2) == 2
    assert rows_that_count(None, 0, 4) == 4


@pytest.mark.parametrize("batch", [1, 4, 8])
def test_the_processes_batches_make_up_the_batch_of_one(batch):
    alone = list(EpochSampler(range(64), seed=3))
    shares = [list(EpochSampler(range(64), seed=3, replicas=2, rank=rank)) for rank in (0, 1)]
    for start in range(0, 32, batch):
        both = chain(*(share[start : start + batch] for share in shares))
        assert sorted(both) == sorted(alone[2 * start : 2 * (start + batch)])


@pytest.mark.parametrize("strategy", [FSDPStrategy, ModelParallelStrategy])
@pytest.mark.parametrize("stage", ["fit", "test"])
def test_strategies_that_take_the_network_apart_are_refused(tmp_path, strategy, stage):
    network = ClassificationModule(TinyNet(), 4, 1, 8)
    network.trainer = trainer(tmp_path)
    network.trainer._accelerator_connector.strategy = strategy()  # the Trainer itself wants GPUs for it
    expected = (
        r"strategy: expected one that keeps the whole network in every process, such as ddp, as guards, checkpoints "
        rf"and exports read all of its weights, got {strategy.__name__}; a large teacher is shared out by"
    )
    with pytest.raises(InputError, match=expected):
        network.setup(stage)


@pytest.mark.slow
@pytest.mark.parametrize("kind", NETWORKS)
def test_two_processes_agree_on_inputs_of_any_kind(kind, tmp_path):
    class Weights(Callback):
        def on_train_end(self, trainer, module):
            kept = {"step": trainer.global_step, "weights": module.student.state_dict()}
            torch.save(kept, tmp_path / f"rank_{trainer.global_rank}")

    torch.manual_seed(1)
    module = DistillationModule(NETWORKS[kind](), NETWORKS[kind](), CLASSES)
    before = {name: value.clone() for name, value in module.student.state_dict().items()}
    run = trainer(tmp_path, callbacks=[IsotonicSoftLabelCallback(), Weights()], devices=2, strategy="ddp_fork")
    run.fit(module, KindsDataModule(kind, batch_size=4))
    first, second = (torch.load(tmp_path / f"rank_{rank}", weights_only=True) for rank in (0, 1))
    assert first["step"] == second["step"] == 3
    for name, value in first["weights"].items():
        assert torch.equal(value, second["weights"][name])
    assert any(not torch.equal(value, before[name]) for name, value in first["weights"].items())


@pytest.mark.slow  # two processes, three times
def test_two_processes_mix_inside_their_own_way(tmp_path):
    class Layers(InnerMixingCallback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            super().on_train_batch_start(trainer, module, batch, batch_idx)
            chosen = [point.name for _, point in self._points if point.plan is not None]
            with (tmp_path / f"rank_{trainer.global_rank}").open("a") as file:
                print(*chosen, file=file)

    def fit(**options):
        torch.manual_seed(1)
        module = DistillationModule(Sentences(), Sentences(), 3)
        data = KindsDataModule("tokens", batch_size=3, mixing=Mixing("mixup"))
        trainer(tmp_path, max_epochs=2, callbacks=[Layers(["embedding", "body"])], **options).fit(module, data)
        return [float(p.detach().double().sum()) for p in module.student.parameters()]

    fit(devices=2, strategy="ddp_fork")
    first, second = ((tmp_path / f"rank_{rank}").read_text().splitlines() for rank in (0, 1))
    assert len(first) == len(second) == 8
    assert first != second
    fit(devices=2, strategy="ddp_fork")
    assert (tmp_path / "rank_0").read_text().splitlines() == 2 * first
