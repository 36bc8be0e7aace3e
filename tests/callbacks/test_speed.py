"""Speed, by a clock that the test sets."""

import csv
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger

from ida_lightning.callbacks import SpeedCallback, speed
from ida_lightning.modules import ClassificationModule
from tests.helpers.data import BlobsDataModule
from tests.helpers.networks import TinyNet
from tests.helpers.trainers import trainer


class Clock(Callback):
    """A batch takes two seconds, the first of a run a hundred, a validation eight; stands behind SpeedCallback."""

    def __init__(self):
        self.now = 1000.0
        self.left = {}

    def on_train_start(self, trainer, pl_module):
        self.now += 98

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.now += 2

    def on_validation_start(self, trainer, pl_module):
        self.now += 8

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        shown = trainer.progress_bar_metrics
        assert ("left" in shown) <= ("images_per_s" in shown)
        self.left[trainer.global_step] = shown.get("left")


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(speed, "perf_counter", lambda: clock.now)
    return clock


def fit(tmp_path, *callbacks, ckpt_path=None, **options):
    """Train on four batches of 16 images an epoch; returns images per second by step, as logged."""
    options = {"num_sanity_val_steps": 0, "logger": CSVLogger(tmp_path)} | options
    run = trainer(tmp_path, callbacks=[SpeedCallback(), *callbacks], **options)
    run.fit(ClassificationModule(TinyNet(), 4, 1, 8), BlobsDataModule(batch_size=16), ckpt_path=ckpt_path)
    with Path(run.logger.log_dir, "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert "left" not in rows[0]
    # The logger counts steps from 0.
    return {int(row["step"]) + 1: float(row["images_per_s"]) for row in rows if row.get("images_per_s")}


def test_every_report_is_about_the_time_since_the_one_before(tmp_path, clock):
    logged = fit(tmp_path, clock, max_epochs=3)
    plain, with_validation = 16 / 2, 16 / 10
    assert logged.keys() == set(range(2, 13))
    expected = {step: with_validation if step in (5, 9) else plain for step in logged}
    assert logged == pytest.approx(expected)
    assert clock.left.pop(1) is None
    # Seconds a step: without a validation until there is one, then those of the last epoch.
    seconds = {step: 2 if step < 5 else 4 for step in range(2, 13)}
    assert clock.left == pytest.approx({step: seconds[step] * (12 - step) / 60 for step in range(2, 13)})


def test_reports_come_where_lightning_logs(tmp_path, clock):
    logged = fit(tmp_path, clock, max_epochs=3, log_every_n_steps=3)
    assert logged == pytest.approx({3: 32 / 4, 6: 48 / 14, 9: 48 / 14, 12: 48 / 6})
    # From step 1 to 3; 1 to 6; 3 to 9 (an epoch, rounded up to reports); 6 to 12.
    assert [clock.left[step] for step in (1, 3, 6, 9, 12)] == pytest.approx(
        [None, 2 * 9 / 60, 18 / 5 * 6 / 60, 28 / 6 * 3 / 60, 0]
    )


def test_rarer_validation_is_spread_over_its_epochs(tmp_path, clock):
    fit(tmp_path, clock, max_epochs=6, check_val_every_n_epoch=2)
    assert [clock.left[step] for step in range(17, 25)] == pytest.approx(
        [3 * (24 - step) / 60 for step in range(17, 25)]
    )


def test_accumulated_batches_make_one_step(tmp_path, clock):
    logged = fit(tmp_path, clock, max_epochs=2, accumulate_grad_batches=2)
    assert logged == pytest.approx({2: 32 / 4, 3: 32 / 12, 4: 32 / 4})
    assert clock.left == pytest.approx({0: None, 1: None, 2: 4 * 2 / 60, 3: 8 * 1 / 60, 4: 0})


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")  # the one that saved it is not needed
def test_a_resumed_run_goes_on_with_its_own_clock(tmp_path, clock):
    fit(tmp_path, clock, ModelCheckpoint(tmp_path / "kept", "one"), enable_checkpointing=True)
    clock.now += 1e6
    options = {
        "ckpt_path": tmp_path / "kept" / "one.ckpt",
        "max_epochs": 3,
        "logger": CSVLogger(tmp_path, name="resumed"),
    }
    clock.left.clear()
    logged = fit(tmp_path, clock, **options)
    assert logged == pytest.approx({6: 8, 7: 8, 8: 8, 9: 1.6, 10: 8, 11: 8, 12: 8})
    seconds = {step: 2 if step < 9 else 4 for step in logged}
    assert clock.left == pytest.approx({5: None} | {step: seconds[step] * (12 - step) / 60 for step in logged})


def test_one_callback_serves_one_run_after_the_other(tmp_path, clock):
    callback = SpeedCallback()
    for name in ("first", "second"):
        run = trainer(tmp_path, callbacks=[callback, clock], logger=CSVLogger(tmp_path, name=name))
        run.fit(ClassificationModule(TinyNet(), 4, 1, 8), BlobsDataModule(batch_size=16))
        assert clock.left == pytest.approx({1: None} | {step: 2 * (4 - step) / 60 for step in (2, 3, 4)})
        clock.now += 1e6
        clock.left.clear()


def test_a_run_without_an_end_has_nothing_left(tmp_path, clock):
    class Stop(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            trainer.should_stop = trainer.global_step == 6

    logged = fit(tmp_path, clock, Stop(), max_epochs=-1)
    assert logged.keys() == {2, 3, 4, 5, 6}
    assert set(clock.left.values()) == {None}


def test_log_every_0_steps_reports_nothing(tmp_path, clock):
    assert fit(tmp_path, clock, log_every_n_steps=0, max_epochs=2) == {}
    assert set(clock.left.values()) == {None}


def test_images_of_all_processes_count_without_waiting(clock, monkeypatch):
    monkeypatch.setattr(speed, "logs_this_step", lambda run: run.global_step % 2 == 0)
    found = {}
    module = SimpleNamespace(log=lambda name, value, **options: found.update({name: (value, options)}))
    run = SimpleNamespace(
        global_step=0,
        world_size=4,
        estimated_stepping_batches=100,
        num_training_batches=50,
        accumulate_grad_batches=1,
        check_val_every_n_epoch=None,
    )
    callback = SpeedCallback()
    callback.on_train_start(run, module)
    for step, rows in ((1, 7), (2, 3), (3, 5), (4, 6)):
        run.global_step = step
        clock.now += 4
        callback.on_train_batch_end(run, module, None, (torch.zeros(rows, 3), torch.zeros(rows)), step - 1)
        assert bool(found) == (step > 1)
    (rate, how), (left, how_left) = found["images_per_s"], found["left"]
    assert rate == 4 * (5 + 6) / 8
    assert left == pytest.approx(4 * 96 / 60)
    # A number would be copied to the module's device; a tensor stays where it is.
    assert rate.device.type == left.device.type == "cpu"
    assert (how, how_left) == ({"prog_bar": True}, {"prog_bar": True, "logger": False})
