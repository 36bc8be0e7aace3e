"""What the package uses of Lightning without a promise: each function against a real Trainer."""

import csv
import os
import signal
from pathlib import Path
from types import SimpleNamespace

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, ProgressBar, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger
from torch import nn

from ida_lightning import lightning_internals as internals
from ida_lightning.modules import ClassificationModule
from tests.helpers.data import BlobsDataModule
from tests.helpers.networks import TinyNet
from tests.helpers.trainers import trainer


class Steps(Callback):
    """Asks at the beginning of every training step, before the optimiser's and at the end."""

    def __init__(self, ask):
        self.ask = ask
        self.seen = []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.seen.append(self.ask(trainer))

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        assert self.ask(trainer) == self.seen[-1], "one answer in the whole step"

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        assert self.ask(trainer) == self.seen[-1], "one answer in the whole step"


class Written(CSVLogger):
    """Remembers the steps whose training loss it was given."""

    def __init__(self, folder):
        super().__init__(folder)
        self.steps = []

    def log_metrics(self, metrics, step=None):
        if "train/loss" in metrics:
            self.steps.append(step)


def module():
    return ClassificationModule(TinyNet(), 4, 1, 8)


def fit(tmp_path, *callbacks, ckpt_path=None, **options):
    """Four batches of 16 images an epoch."""
    run = trainer(tmp_path, callbacks=list(callbacks), **options)
    run.fit(module(), BlobsDataModule(batch_size=16), ckpt_path=ckpt_path, weights_only=True)
    return run


def test_a_module_has_a_trainer_only_while_one_runs_it(tmp_path, blobs):
    model, run = module(), trainer(tmp_path)
    assert internals.attached_trainer(model) is None
    run.fit(model, blobs)
    assert internals.attached_trainer(model) is run


def test_datamodule_is_none_for_a_run_with_loaders(tmp_path, blobs):
    run = trainer(tmp_path)
    assert internals.attached_datamodule(run) is None
    run.fit(module(), blobs)
    assert internals.attached_datamodule(run) is blobs


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_epoch_and_batch_are_those_of_the_step_also_resumed(tmp_path):
    def ask(run):
        return internals.epoch_in_progress(run), internals.batches_begun(run)

    first, keep = Steps(ask), ModelCheckpoint(tmp_path, "{step}", every_n_train_steps=3, save_top_k=-1)
    fit(tmp_path, first, keep, max_epochs=2, enable_checkpointing=True)
    # A batch counts as begun when it is handed to the step.
    assert first.seen == [(epoch, batch) for epoch in (0, 1) for batch in (1, 2, 3, 4)]
    again = Steps(ask)
    fit(tmp_path, again, ckpt_path=tmp_path / "step=3.ckpt", max_epochs=2)
    assert again.seen == first.seen[3:]
    again = Steps(ask)
    fit(tmp_path, again, ckpt_path=tmp_path / "step=6.ckpt", max_epochs=2)
    assert again.seen == first.seen[6:]


def test_validation_stage_is_left_again_also_by_an_error(tmp_path):
    class Look(Callback):
        def on_train_start(self, trainer, pl_module):
            with internals.validation_stage(trainer):
                seen.append((trainer.training, trainer.validating))
            seen.append((trainer.training, trainer.validating))
            with pytest.raises(KeyError), internals.validation_stage(trainer):
                raise KeyError
            seen.append((trainer.training, trainer.validating))

    seen = []
    fit(tmp_path, Look())
    assert seen == [(False, True), (True, False), (True, False)]


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize("every", [0, 1, 3])
def test_a_step_logs_if_loggers_are_given_its_values(tmp_path, every, accumulate):
    steps, logger = Steps(internals.logs_this_step), Written(tmp_path)
    options = {"log_every_n_steps": every, "accumulate_grad_batches": accumulate, "logger": logger}
    fit(tmp_path, steps, max_epochs=3, **options)
    logged = [number // accumulate for number, logs in enumerate(steps.seen) if logs]
    assert logger.steps == sorted(set(logged))
    assert len(logger.steps) == (0 if every == 0 else 12 // accumulate // every)


def test_no_step_of_a_barebones_run_logs():
    steps = Steps(internals.logs_this_step)
    run = L.Trainer(barebones=True, accelerator="cpu", max_epochs=1, callbacks=[steps])
    run.fit(module(), BlobsDataModule(batch_size=16))
    assert steps.seen == [False] * 4


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ({}, False),
        ({"enable_progress_bar": True, "callbacks": [TQDMProgressBar()]}, True),
        ({"enable_progress_bar": True, "callbacks": [TQDMProgressBar(refresh_rate=0)]}, False),
        ({"enable_progress_bar": True, "callbacks": [ProgressBar()]}, True),
    ],
)
def test_progress_bar_is_shown_if_there_is_one_switched_on(tmp_path, options, shown, capsys):
    run = trainer(tmp_path, **options)
    assert internals.shows_progress_bar(run) is shown
    assert list(internals.with_progress_bar(run, range(3), "Counting")) == [0, 1, 2]
    assert ("Counting" in capsys.readouterr().err) is shown


def test_to_device_goes_through_the_hooks_of_the_data(tmp_path, blobs):
    class Look(Callback):
        def on_train_start(self, trainer, pl_module):
            batch = blobs.splits["val"].__getitems__(range(4))
            with internals.validation_stage(trainer):
                moved.append(internals.to_device(trainer, batch))

    moved = []
    trainer(tmp_path, callbacks=[Look()]).fit(module(), blobs)
    raw = blobs.splits["val"].images[:4]
    torch.testing.assert_close(moved[0].inputs, blobs.normalise(raw))


@pytest.mark.parametrize(
    ("precision", "converted", "computed"),
    [
        ("32-true", torch.float32, torch.float32),
        ("bf16-mixed", torch.float32, torch.bfloat16),
        ("bf16-true", torch.bfloat16, torch.bfloat16),
    ],
)
def test_precision_is_that_of_the_trainer(tmp_path, precision, converted, computed):
    run = trainer(tmp_path, precision=precision)
    images = internals.to_precision(run, torch.zeros(2, 3))
    network = internals.convert_network(run, nn.Linear(3, 4))
    assert (images.dtype, network.weight.dtype) == (converted, converted)
    with internals.forward_precision(run):
        assert network(images).dtype == computed
    assert not torch.is_autocast_enabled("cpu")


def test_rows_of_any_batch_are_counted():
    tensor = torch.zeros(5, 2)
    assert [internals.rows_of(batch) for batch in (tensor, (tensor, tensor[:, 0]), {"x": tensor})] == [5, 5, 5]


def test_only_the_command_line_configures_a_module(monkeypatch):
    from lightning.pytorch.cli import LightningCLI

    class Built(L.LightningModule):
        def __init__(self):
            super().__init__()
            self.by_cli = internals.configured_by_cli()

    os.environ["PL_GLOBAL_SEED"] = "0"
    options = {"seed_everything_default": False, "save_config_callback": None, "run": False, "args": []}
    cli = LightningCLI(Built, L.LightningDataModule, trainer_defaults={"logger": False}, **options)
    assert cli.model.by_cli
    assert not Built().by_cli


def test_a_bar_of_another_kind_counts_as_shown():
    assert internals.shows_progress_bar(SimpleNamespace(progress_bar_callback=object()))
    assert not internals.shows_progress_bar(SimpleNamespace(progress_bar_callback=None))


@pytest.mark.parametrize("enable", [True, False])
def test_a_checkpoint_says_whether_it_numbers_files(enable):
    assert internals.numbers_further_files(ModelCheckpoint(enable_version_counter=enable)) == enable


def test_what_a_trainer_raises_at_sigterm_has_no_exit_code(tmp_path):
    class Terminate(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(internals.Terminated) as ended:
        fit(tmp_path, Terminate())
    assert isinstance(ended.value, SystemExit)
    assert ended.value.code is None, "the command line gives it one"


def test_a_table_with_a_new_column_is_whole_or_the_old_one(tmp_path, monkeypatch):
    logger = CSVLogger(tmp_path)
    internals.write_whole_tables(logger)
    logger.log_metrics({"a": 1.0}, step=0)
    logger.save()
    table = Path(logger.log_dir, "metrics.csv")
    before = table.read_text()
    written = csv.DictWriter.writerows

    def fails(self, rows):
        raise RuntimeError("killed here")

    monkeypatch.setattr(csv.DictWriter, "writerows", fails)
    logger.log_metrics({"b": 2.0}, step=1)
    with pytest.raises(RuntimeError, match="killed here"):
        logger.save()
    assert table.read_text() == before
    monkeypatch.setattr(csv.DictWriter, "writerows", written)
    logger.log_metrics({"b": 2.0, "c": 3.0}, step=1)
    logger.save()
    assert [row["a"] for row in csv.DictReader(table.read_text().splitlines())] == ["1.0", "", ""]
