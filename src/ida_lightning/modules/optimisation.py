"""The optimiser of a network, its learning rate and its schedule."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from ida_lightning.data_facts import facts_of
from ida_lightning.errors import InputError, is_a
from ida_lightning.modules.options import Optimisation, OptimizerCallable
from ida_lightning.modules.schedules import stepped, warmup_and_cosine


def make_optimizer(
    parameters: list[nn.Parameter],
    make: OptimizerCallable,
    optimisation: Optimisation,
    trainer: L.Trainer,
    owner: str,
    lr: float | None = None,
) -> OptimizerLRScheduler:
    """Build the optimiser of parameters and its schedule, as ``configure_optimizers`` returns them.

    Args:
        parameters: what is trained.
        make: from parameters to optimiser.
        optimisation: with the schedule; None there is warm-up and cosine to zero over the whole run.
        trainer: which knows the number of steps and the size of the global batch.
        owner: whose metrics a schedule that needs one goes by: the first part of their names.
        lr: of the first group of parameters, that of the others in proportion; None is what ``make`` gave.

    Raises:
        InputError: for a ``lr_reference_batch`` without a data module that says its ``batch_size``, and for numbers
            that the optimiser or the schedule refuses.
    """
    optimizer = is_a("optimizer", _built("optimizer", make, parameters), Optimizer)
    if optimisation.lr_reference_batch is not None:
        factor = learning_rate_factor(optimisation.lr_reference_batch, trainer)
        for group in optimizer.param_groups:
            group["lr"] *= factor
    if lr is not None:
        set_learning_rate(optimizer, lr)
    if optimisation.lr_scheduler is not None:
        schedule = _built("lr_scheduler", optimisation.lr_scheduler, optimizer)
        if isinstance(schedule, ReduceLROnPlateau):
            return {"optimizer": optimizer, "lr_scheduler": _by_metric(schedule, optimisation, trainer, owner)}
        if optimisation.lr_monitor is not None:
            rank_zero_warn("lr_monitor: belongs to ReduceLROnPlateau; with this lr_scheduler it does nothing")
        return {"optimizer": optimizer, "lr_scheduler": stepped(schedule, optimisation, trainer)}
    if optimisation.lr_interval == "epoch":
        rank_zero_warn("lr_interval: epoch is of lr_scheduler; the default schedule is stepped every step")
    steps = trainer.estimated_stepping_batches
    if math.isinf(steps) or trainer.limit_train_batches == 0:  # a run without an end, or without a step
        return optimizer
    if steps < 0:  # epochs of nobody knows how many steps
        raise InputError(
            "trainer.max_steps: expected a number for the schedule to end at, as the data does not say how long an "
            f"epoch is (data.train.images of a stream), got {trainer.max_steps}"
        )
    scheduler = LambdaLR(optimizer, warmup_and_cosine(int(steps), optimisation.warmup))
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def _built(argument: str, make: Callable[[Any], Any], of: Any) -> Any:
    """Call the function of an argument; what PyTorch refuses about its numbers is the argument's."""
    try:
        return make(of)
    except (ValueError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{argument}: expected values that it can be built with, got an error: {error}") from error


def set_learning_rate(optimizer: Optimizer, lr: float) -> None:
    """Set the learning rate of the first group of parameters, that of the others in proportion, and say so."""
    # With a schedule this is what it started from, and goes on from.
    key = "initial_lr" if "initial_lr" in optimizer.param_groups[0] else "lr"
    first = float(optimizer.param_groups[0][key])
    for group in optimizer.param_groups:
        group[key] = lr * float(group[key]) / first if first > 0 else lr
    rank_zero_info(f"learning rate {lr:g}, the module's lr, in place of {first:g}")


def _by_metric(schedule: ReduceLROnPlateau, optimisation: Optimisation, trainer: L.Trainer, owner: str) -> Any:
    """Return how Lightning steps a schedule that waits for a metric to stop improving: that of validation, if any."""
    monitor = optimisation.lr_monitor or vars(schedule).get("monitor")  # Lightning's own class of that name has it
    if monitor is None and not trainer.enable_validation:
        monitor = "train/loss"
        if schedule.mode == "max":
            raise InputError("lr_scheduler: expected mode min without validation data, where it goes by train/loss")
    elif monitor is None:
        monitor = f"{owner}/val_nll" if schedule.mode == "min" else f"{owner}/val_acc"
    rank_zero_info(f"lr_scheduler: {type(schedule).__name__} goes by {monitor}")
    epochs = 1 if monitor.startswith("train/") else trainer.check_val_every_n_epoch or 1
    return {"scheduler": schedule, "monitor": monitor, "frequency": epochs}


def learning_rate_factor(reference_batch: int, trainer: L.Trainer) -> float:
    """Return how many times larger than the reference the batch is that one step of the optimiser sees.

    Raises:
        InputError: without a data module that says its ``batch_size``.
    """
    rows = facts_of(trainer).batch_size
    if rows is None:
        raise InputError("lr_reference_batch: expected a data module with a batch_size, got none")
    factor: float = rows * trainer.world_size * trainer.accumulate_grad_batches / reference_batch
    rank_zero_info(f"learning rate times {factor:g}: {factor * reference_batch:g} rows a step")
    return factor
