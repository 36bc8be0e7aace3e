"""Two real processes."""

import json
from itertools import chain

import pytest
import torch
from lightning.pytorch.callbacks import Callback

from ida_lightning import Mixing
from ida_lightning.callbacks import IsotonicSoftLabelCallback, PredictionsCallback
from ida_lightning.modules import DistillationModule
from tests.conftest import BlobsDataModule, TinyNet, trainer

pytestmark = [
    pytest.mark.skipif(torch.cuda.is_initialized(), reason="Lightning refuses to fork once CUDA is initialised"),
    pytest.mark.filterwarnings("ignore:teacher. .* is close to chance"),  # a random teacher is enough here
    # Two processes share one test split; evaluating on one is Lightning's advice for final figures.
    pytest.mark.filterwarnings("ignore:Using `DistributedSampler` with the dataloaders"),
]


class Report(Callback):
    """Every process writes down what only it can see."""

    def __init__(self, folder):
        self.folder = folder
        self.seen = {"weights": [], "index": []}

    def on_train_start(self, trainer, pl_module):
        self.seen["wrapped"] = type(trainer.model).__name__
        self.seen["synchronised"] = [name for name, _ in trainer.model.named_parameters()]

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.seen["weights"].append(batch.label_mix.weights.flatten().tolist())
        self.seen["index"].append(batch.index.tolist())

    def on_fit_end(self, trainer, pl_module):
        for name, network in (("student", pl_module.student), ("teacher", pl_module.teacher.network)):
            self.seen[name] = [float(tensor.double().sum()) for tensor in network.state_dict().values()]
        (self.folder / f"rank{trainer.global_rank}.json").write_text(json.dumps(self.seen))


def fit(tmp_path, teacher, name, **options):
    folder = tmp_path / name
    folder.mkdir()
    torch.manual_seed(1)
    module = DistillationModule(teacher, TinyNet(), 4, 1, 8)
    data = BlobsDataModule(batch_size=8, mixing=Mixing("cutmix"))
    run = trainer(tmp_path, max_epochs=2, callbacks=[Report(folder), IsotonicSoftLabelCallback()], **options)
    run.fit(module, data)
    return run, [json.loads(file.read_text()) for file in sorted(folder.iterdir())]


def test_students_agree_teachers_stay_and_draws_differ(tmp_path):
    teacher = TinyNet()
    before = [float(tensor.double().sum()) for tensor in teacher.state_dict().values()]
    run, (first, second) = fit(tmp_path, teacher, "two", devices=2, strategy="ddp_fork")
    assert first["wrapped"] == "DistributedDataParallel"
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

    _, again = fit(tmp_path, TinyNet(), "again", devices=2, strategy="ddp_fork")
    assert [seen["weights"] for seen in again] == [first["weights"], second["weights"]]


def test_evaluation_and_predictions_equal_one_process(tmp_path):
    module = DistillationModule(TinyNet(), TinyNet(), 4, 1, 8)

    def run(**options):
        callbacks = [PredictionsCallback(str(tmp_path / f"{len(options)}.csv"))]
        one = trainer(tmp_path, callbacks=callbacks, **options)
        (tested,) = one.test(module, BlobsDataModule(batch_size=4), verbose=False)
        one.predict(module, BlobsDataModule(batch_size=4), return_predictions=False)
        return tested, (tmp_path / f"{len(options)}.csv").read_text()

    alone, predicted = run()
    together, predicted_together = run(devices=2, strategy="ddp_fork")
    assert together == pytest.approx(alone, rel=1e-6)
    assert predicted_together == predicted
