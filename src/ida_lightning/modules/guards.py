"""What must hold in every training step: known random numbers, a finite loss, finite logits of the teacher."""

from __future__ import annotations

import difflib
import os
from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, cast

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from ida_lightning.adapters import as_mixed_batch
from ida_lightning.errors import InputError, one_of
from ida_lightning.files import replacing
from ida_lightning.lightning_internals import (
    batches_begun,
    epoch_in_progress,
    logs_this_step,
    tell_loaders_where_they_were,
)
from ida_lightning.mixing import MixedBatch
from ida_lightning.modules.evaluation import require_finite
from ida_lightning.modules.resuming import check_resumed
from ida_lightning.supervision import Supervision

if TYPE_CHECKING:
    from ida_lightning.modules.base import ClassifierBase


class StepGuard(L.Callback):
    """Seeds every training step, and stops a run before a loss that is NaN or infinite reaches the weights.

    :class:`ClassifierBase` adds it to the Trainer. It is a callback and not a set of the module's own hooks, so that a
    subclass that overrides such a hook without ``super()``, or the whole training step, still has it. The loss is
    looked at when backward has been queued, so that an accelerator does not idle.
    """

    def __init__(self) -> None:
        self._batch: Any = None
        self._loss: Tensor | None = None
        self._begun = False

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Tell loaders where a run goes on, and have the first batch say whether that is in the middle of an epoch."""
        tell_loaders_where_they_were(trainer)
        self._begun = False

    def on_train_batch_start(  # type: ignore[override]
        self, trainer: L.Trainer, pl_module: ClassifierBase, batch: Any, batch_idx: int
    ) -> None:
        """Seed the step, so that dropout too depends on (seed, epoch, batch, process) alone, resumed or not."""
        self._batch, self._loss = batch, None
        if not self._begun:
            check_resumed(trainer, batch_idx, pl_module.optimisation.allow_inexact_resume)
        self._begun = True
        seed = int(os.environ.get("PL_GLOBAL_SEED", 0)), epoch_in_progress(trainer), batch_idx, trainer.global_rank
        word = int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0])
        if pl_module.device.type == "cpu":  # torch.manual_seed would look for every kind of accelerator, each time
            torch.default_generator.manual_seed(word)
        else:
            torch.manual_seed(word)

    def on_before_backward(self, trainer: L.Trainer, pl_module: L.LightningModule, loss: Tensor) -> None:
        """Keep the loss for the look at it."""
        self._loss = loss.detach()

    def on_after_backward(self, trainer: L.Trainer, pl_module: ClassifierBase) -> None:  # type: ignore[override]
        """Stop before the update if the loss is NaN or infinite, or labels were out of range."""
        if self._loss is not None:
            batch = as_mixed_batch(self._batch, pl_module.num_classes)
            check_loss(trainer, pl_module, self._loss, batch, pl_module.step_supervision)
            pl_module.intake.check()  # the look at the loss has waited already
        self._batch = self._loss = pl_module.step_supervision = None

    def on_train_batch_end(  # type: ignore[override]
        self, trainer: L.Trainer, pl_module: ClassifierBase, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Check the teacher's logits in steps that log, where waiting for an accelerator costs nothing more."""
        if pl_module.finite_rows is not None and (logs_this_step(trainer) or trainer.is_last_batch):
            pl_module.finite_rows.check()

    def on_train_end(self, trainer: L.Trainer, pl_module: ClassifierBase) -> None:  # type: ignore[override]
        """Let no fit end well whose last step has spoiled the weights."""
        require_finite(pl_module.owner, pl_module.network)

    def on_sanity_check_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Refuse monitors that name no metric of validation, which the trial of validation has just logged."""
        check_monitors(_monitors(trainer), trainer.callback_metrics)

    def on_validation_start(self, trainer: L.Trainer, pl_module: ClassifierBase) -> None:  # type: ignore[override]
        """Check the weights, unless this is a part of a fit, which may have just begun."""
        pl_module.check_useless(raises=False)
        if trainer.state.fn == TrainerFn.VALIDATING:
            pl_module.require_weights()

    def on_test_start(self, trainer: L.Trainer, pl_module: ClassifierBase) -> None:  # type: ignore[override]
        """Check that the weights are worth a test."""
        pl_module.check_useless(raises=False)
        pl_module.require_weights()

    on_predict_start = on_test_start  # type: ignore[assignment]

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: ClassifierBase) -> None:  # type: ignore[override]
        """Check the logits; in a fit the loss tells."""
        pl_module.check_useless(raises=trainer.state.fn == TrainerFn.VALIDATING)

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: ClassifierBase) -> None:  # type: ignore[override]
        """Check the logits before anyone is told figures made of NaN."""
        pl_module.check_useless()

    on_predict_epoch_end = on_test_epoch_end  # type: ignore[assignment]


def _monitors(trainer: L.Trainer) -> list[tuple[str, str | None]]:
    """Return who goes by which metric in a fit."""
    schedules = [(config.scheduler, config.monitor) for config in trainer.lr_scheduler_configs]
    callbacks = [c for c in trainer.callbacks if isinstance(c, (ModelCheckpoint, EarlyStopping))]  # type: ignore[attr-defined]
    owners = [*schedules, *((callback, callback.monitor) for callback in callbacks)]
    return [(f"{type(owner).__name__}.monitor", monitor) for owner, monitor in owners]


def check_monitors(monitors: Iterable[tuple[str, str | None]], known: Collection[str]) -> None:
    """Refuse monitors that are almost metrics of validation: they would fail when the first epoch is over.

    Others may be metrics that somebody else logs later.

    Args:
        monitors: who goes by a metric, and its name.
        known: what validation logs.

    Example:
        >>> check_monitors([("EarlyStopping.monitor", "val_acc")], ["student/val_acc", "student/val_nll"])
        Traceback (most recent call last):
        ...
        ida_lightning.errors.InputError: EarlyStopping.monitor: expected a metric such as student/val_acc, got 'val_acc'
    """
    for owner, monitor in monitors:
        if monitor is None or monitor in known:
            continue
        near = difflib.get_close_matches(monitor, known, n=1, cutoff=0.8)
        near = near or [name for name in known if name.rpartition("/")[2] == monitor.rpartition("/")[2]]
        if near:
            raise InputError(f"{owner}: expected a metric such as {near[0]}, got {monitor!r}")


class FiniteRows:
    """Counts rows for which the teacher's logits are NaN or infinite, and reports them without stalling an accelerator.

    Args:
        policy: ``"raise"`` stops the run, ``"skip"`` reports the number of such rows, which the module leaves out.

    Raises:
        InputError: for another policy.
    """

    def __init__(self, policy: Literal["raise", "skip"]) -> None:
        self.policy = one_of("nonfinite", policy, ("raise", "skip"))
        self._counts: Tensor | None = None

    def add(self, finite: Tensor) -> None:
        """Count the rows of a batch; on the CPU also check them.

        Args:
            finite: bool ``(batch,)``.
        """
        counts = torch.stack(((~finite).sum(), torch.ones_like(finite).sum()))
        self._counts = counts if self._counts is None else self._counts + counts
        if finite.device.type == "cpu":
            self.check()

    def check(self) -> None:
        """Raise or report for the rows counted since the last check; waits for the device.

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


def check_loss(
    trainer: L.Trainer,
    module: ClassifierBase,
    loss: Tensor,
    batch: MixedBatch,
    supervision: Supervision | None = None,
) -> None:
    """Stop a run whose loss is NaN or infinite, and write what reproduces it. Waits for the device.

    Args:
        trainer: that runs the fit.
        module: in training.
        loss: of the step.
        batch: that led to it.
        supervision: that led to it, if there is a teacher.

    Raises:
        InputError: naming step, epoch, batch, the rows' numbers in the data set and the file that was written:
            ``network`` (the weights before the step), ``batch`` and ``supervision`` as dicts of tensors.
    """
    if bool(torch.isfinite(loss)):
        return
    where = f"epoch {trainer.current_epoch}, batch {batches_begun(trainer) - 1}"
    path = f"{trainer.default_root_dir}/loss_step{trainer.global_step}_rank{trainer.global_rank}.pt"
    content = {
        "network": module.network.state_dict(),
        "batch": _plain(batch),
        "supervision": None if supervision is None else _plain(supervision),
        "place": where,
    }
    try:
        with replacing(path, same_ending=False) as unfinished, unfinished.open("wb") as file:
            torch.save(content, file)
        left = f"weights, batch and soft labels are in {path}"
    except InputError as error:
        left = f"weights, batch and soft labels are lost: {error}"
    rows = batch.index.tolist()
    shown = ", ".join(map(str, rows[:8])) + (f" and {len(rows) - 8} more" if len(rows) > 8 else "")
    raise InputError(
        f"loss: {float(loss)} at step {trainer.global_step} ({where}, process {trainer.global_rank}) on rows "
        f"{shown}; {left}"
    )


def _plain(values: Any) -> Any:
    """Turn a named tuple, nested ones included, into plain dicts of tensors, which load with ``weights_only``."""
    if isinstance(values, Tensor):
        return values.detach()
    if not isinstance(values, (tuple, Mapping)):
        return values
    if not isinstance(values, Mapping) and not hasattr(values, "_asdict"):
        return [_plain(value) for value in values]
    fields = values if isinstance(values, Mapping) else cast(Any, values)._asdict()
    return {name: _plain(value) for name, value in fields.items() if name != "plain"}  # which it was mixed from
