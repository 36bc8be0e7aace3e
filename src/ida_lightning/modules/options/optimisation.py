"""How the network is trained: the optimiser's default, schedule and compilation."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ida_lightning.checks import text
from ida_lightning.errors import InputError, at_least, flag, kind_of, one_of, share_below_one
from ida_lightning.modules.options.networks import check_args

# LightningCLI has the same two, but importing it needs jsonargparse, which training from Python does not.
OptimizerCallable = Callable[[Iterable[nn.Parameter]], Optimizer]
LRSchedulerCallable = Callable[[Optimizer], LRScheduler]
Layout = Literal["auto", "trial", "contiguous", "channels_last"]


def default_optimizer(parameters: Iterable[nn.Parameter]) -> Optimizer:
    """Build the optimiser of a module that was given none: SGD with Nesterov momentum.

    In the modules' signatures it is a lambda, whose numbers the command line can show and change one by one; a module
    keeps this function instead, which can be pickled.
    """
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=5e-4, nesterov=True)


def picklable(optimizer: OptimizerCallable, defaults: tuple[Any, ...] | None) -> OptimizerCallable:
    """Return :func:`default_optimizer` for the lambda among a signature's defaults, else what was given."""
    is_default = callable(optimizer) and any(optimizer is default for default in defaults or ())
    return default_optimizer if is_default else optimizer


@dataclass(frozen=True)
class Optimisation:
    """How the network is trained, beside the optimiser itself.

    The optimiser is an argument of its own, so that a config shows its default and ``--model.optimizer.lr=0.1``
    changes one number of it.

    Args:
        lr_scheduler: from optimiser to a scheduler; None is warm-up and cosine to zero over the whole run.
        lr_reference_batch: the batch that the learning rate is meant for: it is scaled in proportion to the rows
            that all processes and accumulated batches make up together. None leaves it as it is.
        compile_args: compile for training with these arguments of ``torch.compile``; None for eager.
        warmup: share of the run in which the default schedule rises, from 0 to below 1.
        lr_interval: whether ``lr_scheduler`` counts ``epoch`` or ``step``; None chooses by its class: OneCycleLR and
            CyclicLR count steps, others epochs.
        lr_monitor: the metric that ReduceLROnPlateau goes by, as it is logged; None takes the NLL or the accuracy of
            validation, by its mode, and the training loss without validation.
        layout: how images and the weights of student and teacher lie in memory. Convolutional networks are often faster
            with ``channels_last``, on tensor cores above all, and round differently. ``auto``: channels last for them
            on CUDA, contiguous elsewhere, so that results on a CPU stay what they were. ``trial``: when fitting starts
            both are timed on the device, a step of 32 images each. The choice is kept in the checkpoint, and a fit that
            is resumed goes on with it.
        allow_inexact_resume: go on inside an epoch also with a loader that begins it anew, such as torch's own.
            Some rows then come again and others not at all in that epoch; otherwise such a run is refused.

    Raises:
        InputError: for a reference batch below 1, another share, interval or layout, and a metric that is no name.

    Example:
        >>> optimisation = Optimisation(lr_reference_batch=256, compile_args={"mode": "reduce-overhead"})

        In YAML::

            optimisation:
              lr_reference_batch: 256
              lr_scheduler: {class_path: torch.optim.lr_scheduler.StepLR, init_args: {step_size: 30}}
    """

    lr_scheduler: LRSchedulerCallable | None = None
    lr_reference_batch: int | None = None
    compile_args: dict[str, Any] | None = None
    warmup: float = 0.05
    lr_interval: Literal["epoch", "step"] | None = None
    lr_monitor: str | None = None
    layout: Layout = "auto"
    allow_inexact_resume: bool = False

    def __post_init__(self) -> None:
        one_of("layout", self.layout, get_args(Layout))
        flag("allow_inexact_resume", self.allow_inexact_resume)
        if self.lr_monitor is not None:
            text("lr_monitor", self.lr_monitor)
        share_below_one("warmup", self.warmup)
        if self.lr_interval is not None:
            one_of("lr_interval", self.lr_interval, ("epoch", "step"))
        if self.lr_reference_batch is not None:
            at_least("lr_reference_batch", self.lr_reference_batch, 1)
        if self.lr_scheduler is not None and not callable(self.lr_scheduler):
            raise InputError(f"lr_scheduler: expected a function of the optimiser, got {kind_of(self.lr_scheduler)}")
        if self.compile_args is not None:
            check_args("compile_args", self.compile_args)
