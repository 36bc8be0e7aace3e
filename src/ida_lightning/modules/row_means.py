"""Means over the training rows of an epoch, for little more than an addition per step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import lightning as L
import torch
from torch import Tensor


class RowMeans:
    """Sums of per-row values on their device, from which an epoch's means are made once, over all processes.

    ``LightningModule.log`` with ``on_epoch`` does the same, but costs about half a millisecond per value and step.
    The sums travel in checkpoints, so that an epoch that was interrupted has the means of one that was not.
    """

    def __init__(self) -> None:
        self.names: tuple[str, ...] = ()
        self._sums: Tensor | None = None  # of every value, and the number of rows

    def add(self, values: Mapping[str, Tensor]) -> None:
        """Add the rows of one batch: by name, numbers or booleans ``(batch,)``. Nothing waits for the device."""
        rows = [value.float() for value in values.values()]
        rows.append(torch.ones_like(rows[0]))
        stacked = torch.stack(rows)
        # Exact for counts, and to the last digit of what is logged for the rest; MPS has no float64.
        sums = stacked.sum(1, dtype=torch.float32 if stacked.device.type == "mps" else torch.float64)
        self.names = tuple(values)
        self._sums = sums if self._sums is None else self._sums + sums

    def reset(self) -> None:
        """Forget what was added."""
        self._sums = None

    def total(self, trainer: L.Trainer) -> list[float]:
        """Return the sums over all processes; empty if there are none. Every process must call it."""
        if self._sums is None:
            return []
        summed: Tensor = trainer.strategy.reduce(self._sums.clone(), reduce_op="sum")
        return summed.tolist()

    def pop(self, trainer: L.Trainer) -> dict[str, float]:
        """Return the means, by name, and reset."""
        *sums, rows = self.total(trainer) or [0.0]
        self.reset()
        return {name: value / rows for name, value in zip(self.names, sums, strict=False) if rows}

    def state(self, trainer: L.Trainer) -> dict[str, Any]:
        """Return what a checkpoint keeps; every process must call it."""
        return {"names": self.names, "sums": self.total(trainer)}

    def restore(self, state: Mapping[str, Any], trainer: L.Trainer, device: torch.device) -> None:
        """Go on from a state; the sums of all processes go on in the first."""
        self.names = tuple(state["names"])
        self.reset()
        if state["sums"]:
            kind = torch.float32 if device.type == "mps" else torch.float64
            self._sums = torch.tensor(state["sums"], dtype=kind, device=device) * trainer.is_global_zero


class MeasuringCallback(L.Callback):
    """Logs means over the rows of every epoch, whole also where a run was interrupted: a base.

    A subclass adds to ``_means`` on every training batch.
    """

    _means: RowMeans

    @property
    def log_prefix(self) -> str:
        """What the keys that are logged begin with, after ``train/``."""
        return ""

    @property
    def means_key(self) -> str:
        """Where a checkpoint has the sums."""
        raise NotImplementedError

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        """Begin an epoch's means; a run resumed from a checkpoint of an epoch's last step never saw that epoch end."""
        _, batch_idx = args
        if batch_idx == 0:
            self._means.reset()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the means over the epoch's rows."""
        means = {f"train/{self.log_prefix}{name}": value for name, value in self._means.pop(trainer).items()}
        if means and not (trainer is not None and trainer.barebones):
            pl_module.log_dict(means, sync_dist=True)  # equal everywhere already; Lightning wants to hear it

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep the sums of an epoch that is not over."""
        if self._means.names:
            checkpoint[self.means_key] = self._means.state(trainer)

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Go on with the sums of the checkpoint."""
        if state := checkpoint.get(self.means_key):
            self._means.restore(state, trainer, trainer.strategy.root_device)
