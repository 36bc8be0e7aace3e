"""Seconds per training step, by a clock that the test turns."""

import pytest

from ida_lightning.callbacks import StepTimer


def test_steps_are_timed_without_validation_and_warm_up(monkeypatch):
    clock = iter([0.0, 3.0, 10.0, 14.0])  # a start and an end for each of two epochs
    monkeypatch.setattr("ida_lightning.callbacks.step_timer._now", lambda module: next(clock))
    timer = StepTimer()
    for _ in range(2):
        for _ in range(4):
            timer.on_train_batch_end(None, None, None, None, 0)
        timer.on_validation_start(None, None)
        timer.on_train_epoch_end(None, None)
    assert timer.stretches == pytest.approx([1.0, 4 / 3])
    assert timer.seconds_per_batch == pytest.approx(7 / 6)
    assert StepTimer().seconds_per_batch is None
