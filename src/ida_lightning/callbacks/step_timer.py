"""Measure how long a training step takes, for comparisons of methods."""

from __future__ import annotations

from statistics import median
from time import perf_counter
from typing import Any

import lightning as L
import torch


class StepTimer(L.Callback):
    """Measures a training step by the clock, without validation and without the first step of a stretch.

    An accelerator is waited for at the ends of a stretch (an epoch, or what lies between two validations), not in it.
    Nothing is logged: read :attr:`seconds_per_batch` after ``fit``.

    Attributes:
        stretches: seconds per batch of each.

    Example:
        >>> from lightning import Trainer
        >>> timer = StepTimer()
        >>> trainer = Trainer(callbacks=[timer], logger=False)
        >>> timer.seconds_per_batch is None  # nothing was trained
        True
    """

    def __init__(self) -> None:
        self.stretches: list[float] = []
        self._since: float | None = None
        self._batches = 0

    @property
    def seconds_per_batch(self) -> float | None:
        """The median over stretches, which a busy minute does not move; None if no stretch had two batches."""
        return median(self.stretches) if self.stretches else None

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        """Start the clock, or count."""
        if self._since is None:
            self._since, self._batches = _now(pl_module), 0
        else:
            self._batches += 1

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stop the clock."""
        if self._since is not None and self._batches:
            self.stretches.append((_now(pl_module) - self._since) / self._batches)
        self._since = None

    on_train_epoch_end = on_validation_start


def _now(module: L.LightningModule) -> float:
    if module.device.type == "cuda":
        torch.cuda.synchronize(module.device)
    return perf_counter()
