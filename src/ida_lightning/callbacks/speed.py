"""Report how fast a run is and how long it will take."""

from __future__ import annotations

import math
from collections import deque
from time import perf_counter
from typing import Any

import lightning as L
import torch

from ida_lightning.lightning_internals import logs_this_step, rows_of


class SpeedCallback(L.Callback):
    """Logs images per second, and shows the minutes that are left in the progress bar.

    Every ``log_every_n_steps`` steps of the Trainer it logs ``images_per_s``, of all processes together, since the
    report before; the progress bar also shows ``left``, in minutes, for the whole run. Both are wall-clock times, so
    validation and checkpoints count. ``left`` is extrapolated from the time that the steps of the last epoch took (of
    as many epochs as lie between two validations), or those since the start while there are fewer: until the first
    validation its time is not in it. Early stopping cannot be foreseen, and a run without an end has no ``left``.
    Nothing is reported with ``log_every_n_steps=0`` or ``barebones=True``.

    The clock starts, and starts anew in a resumed run, at the end of the first step: that one compiles and starts
    loader processes. Accelerators are not made to wait, so over a few steps the numbers may be early.

    Example:
        >>> from lightning import Trainer
        >>> trainer = Trainer(callbacks=[SpeedCallback()], logger=False)
    """

    def __init__(self) -> None:
        self._marks: deque[tuple[float, int]] = deque()  # seconds and step of the reports that ``left`` goes by
        self._images = 0
        self._step = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Reset the clock."""
        self._marks.clear()
        self._images = 0
        self._step = trainer.global_step

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count the images, and report in steps that log."""
        self._images += rows_of(batch)
        if trainer.global_step == self._step:  # gradients are still being accumulated
            return
        self._step = trainer.global_step
        if self._marks and not logs_this_step(trainer):
            return
        now = perf_counter()
        if self._marks:
            rate = self._images * trainer.world_size / (now - self._marks[-1][0])
            # A number would be copied to the device, which waits for it.
            pl_module.log("images_per_s", torch.tensor(rate), prog_bar=True)
            minutes = self._minutes_left(trainer, now)
            if minutes is not None:
                pl_module.log("left", torch.tensor(minutes), prog_bar=True, logger=False)
        self._marks.append((now, self._step))
        self._images = 0

    def _minutes_left(self, trainer: L.Trainer, now: float) -> float | None:
        """Extrapolate from the reports of about an epoch, and forget older ones."""
        total = trainer.estimated_stepping_batches
        if not 0 <= total < math.inf:
            return None
        steps = trainer.num_training_batches / trainer.accumulate_grad_batches
        steps *= trainer.check_val_every_n_epoch or 1
        while len(self._marks) > 1 and self._marks[1][1] <= self._step - steps:
            self._marks.popleft()
        since, step = self._marks[0]
        return max(0.0, total - self._step) * (now - since) / (self._step - step) / 60
