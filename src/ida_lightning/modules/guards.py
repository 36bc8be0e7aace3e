"""Numbers that are none: noticed, named, and kept so that they can be looked into."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from ida_lightning.errors import InputError
from ida_lightning.files import replacing
from ida_lightning.mixing import MixedBatch
from ida_lightning.supervision import Supervision


class FiniteRows:
    """Counts rows for which the teacher's logits are NaN or infinite, and says so without stalling an accelerator.

    Args:
        policy: stop the run, or leave such rows out and report their number.
    """

    def __init__(self, policy: Literal["raise", "skip"]) -> None:
        if policy not in ("raise", "skip"):
            raise InputError(f"nonfinite: expected raise or skip, got {policy!r}")
        self.policy = policy
        self._counts: Tensor | None = None

    def note(self, finite: Tensor) -> None:
        """Count ``finite``, bool ``(batch,)``; on the CPU also look."""
        counts = torch.stack(((~finite).sum(), torch.ones_like(finite).sum()))
        self._counts = counts if self._counts is None else self._counts + counts
        if finite.device.type == "cpu":
            self.check()

    def check(self) -> None:
        """Raise or report the rows counted since the last look; waits for the device.

        Raises:
            InputError: for such rows, under the policy ``"raise"``.
        """
        if self._counts is None:
            return
        wrong, rows = self._counts.tolist()
        self._counts = None
        if wrong and self.policy == "raise":
            raise InputError(
                f"teacher: expected finite logits, got NaN or infinity in {wrong} of {rows} rows; nonfinite: skip "
                "leaves such rows out"
            )
        if wrong:
            rank_zero_warn(f"teacher: {wrong} of {rows} rows left out, their logits are NaN or infinite")


def check_loss(module: Any, loss: Tensor, batch: MixedBatch, supervision: Supervision | None = None) -> None:
    """Stop a run whose loss is NaN or infinite before it reaches the weights, and keep what reproduces it.

    Waits for the device to have computed the loss.

    Args:
        module: a module of this package in training.
        loss: of the step.
        batch: that led to it.
        supervision: that led to it, where there is a teacher.

    Raises:
        InputError: naming step, epoch, batch, the rows' numbers in the data set and the file with the dump:
            ``network`` (the weights before the step), ``batch`` and ``supervision`` as dicts of tensors.
    """
    if bool(torch.isfinite(loss)):
        return
    trainer: L.Trainer = module.trainer
    batches = trainer.fit_loop.epoch_loop.batch_progress.current.ready
    place = f"epoch {trainer.current_epoch}, batch {batches - 1}"
    path = Path(trainer.default_root_dir) / f"loss_step{trainer.global_step}_rank{trainer.global_rank}.pt"
    dump = {
        "network": module.network.state_dict(),
        "batch": _flat(batch),
        "supervision": None if supervision is None else _flat(supervision),
        "place": place,
    }
    with replacing(path) as unfinished:
        torch.save(dump, unfinished)
    rows = batch.index.tolist()
    shown = ", ".join(map(str, rows[:8])) + (f" and {len(rows) - 8} more" if len(rows) > 8 else "")
    raise InputError(
        f"loss: {float(loss.detach())} at step {trainer.global_step} ({place}, process {trainer.global_rank}) on rows "
        f"{shown}; weights, batch and soft labels are in {path}"
    )


def _flat(values: Any) -> dict[str, Any]:
    """A named tuple, nested ones included, as plain dicts of tensors, which load with ``weights_only``."""
    return {
        name: _flat(value) if hasattr(value, "_asdict") else value.detach() if isinstance(value, Tensor) else value
        for name, value in values._asdict().items()
    }
