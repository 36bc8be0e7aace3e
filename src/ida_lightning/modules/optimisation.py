"""The optimiser of a network, its learning rate and its schedule."""

from __future__ import annotations

import math

import lightning as L
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import nn
from torch.optim.lr_scheduler import LambdaLR

from ida_lightning.data_facts import facts_of
from ida_lightning.errors import InputError
from ida_lightning.modules.options import Optimisation, OptimizerCallable
from ida_lightning.modules.schedules import stepped, warmup_and_cosine


def make_optimizer(
    parameters: list[nn.Parameter], make: OptimizerCallable, optimisation: Optimisation, trainer: L.Trainer
) -> OptimizerLRScheduler:
    """Build the optimiser of parameters and its schedule, as ``configure_optimizers`` returns them.

    Args:
        parameters: what is trained.
        make: from parameters to optimiser.
        optimisation: with the schedule; None there is warm-up and cosine to zero over the whole run.
        trainer: which knows the number of steps and the size of the global batch.

    Raises:
        InputError: for a ``lr_reference_batch`` without a data module that says its ``batch_size``.
    """
    optimizer = make(parameters)
    if optimisation.lr_reference_batch is not None:
        factor = learning_rate_factor(optimisation.lr_reference_batch, trainer)
        for group in optimizer.param_groups:
            group["lr"] *= factor
    if optimisation.lr_scheduler is not None:
        schedule = optimisation.lr_scheduler(optimizer)
        return {"optimizer": optimizer, "lr_scheduler": stepped(schedule, optimisation, trainer)}
    if optimisation.lr_interval == "epoch":
        rank_zero_warn("lr_interval: epoch is of lr_scheduler; the default schedule is stepped every step")
    steps = trainer.estimated_stepping_batches
    if math.isinf(steps):  # a run without an end has no schedule
        return optimizer
    scheduler = LambdaLR(optimizer, warmup_and_cosine(int(steps), optimisation.warmup))
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


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
