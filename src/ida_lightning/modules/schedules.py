"""Schedules of the learning rate: warm-up and cosine, sequences, how often they are stepped, and where they end."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from lightning.pytorch.utilities.types import LRSchedulerConfigType
from torch.optim import Optimizer
from torch.optim.lr_scheduler import CyclicLR, LRScheduler, OneCycleLR, SequentialLR

from ida_lightning.checks import list_of, whole_numbers
from ida_lightning.errors import InputError, is_a, kind_of
from ida_lightning.modules.options import LRSchedulerCallable, Optimisation

# The argument that says after how many of its steps a schedule has come to its end.
_END = {"OneCycleLR": "total_steps", "CosineAnnealingLR": "T_max", "PolynomialLR": "total_iters"}
_RISES = {"LinearLR": "total_iters", "ConstantLR": "total_iters"}


class SequenceLR(SequentialLR):
    """Schedules one after the other, from YAML and the command line too.

    ``torch.optim.lr_scheduler.SequentialLR`` takes schedules that have been built, with the optimiser in them, which a
    config cannot say.

    Args:
        optimizer: whose learning rate is scheduled.
        schedulers: functions from optimiser to schedule, in their order.
        milestones: after how many epochs (or steps, with ``lr_interval: step``) each but the first begins.

    Raises:
        InputError: if there is not one milestone less than schedules.

    Example:
        In YAML, five epochs of warm-up and 25 of a cosine::

            lr_scheduler:
              class_path: SequenceLR
              init_args:
                schedulers:
                  - {class_path: LinearLR, init_args: {start_factor: 0.1, total_iters: 5}}
                  - {class_path: CosineAnnealingLR, init_args: {T_max: 25}}
                milestones: [5]
    """

    def __init__(self, optimizer: Optimizer, schedulers: list[LRSchedulerCallable], milestones: list[int]) -> None:
        is_a("optimizer", optimizer, Optimizer)
        whole_numbers("milestones", milestones, 0)
        for make in list_of("schedulers", schedulers, "functions of the optimiser"):
            if not callable(make):
                raise InputError(f"schedulers: expected functions of the optimiser, got {kind_of(make)} in it")
        if len(schedulers) != len(milestones) + 1:
            raise InputError(f"milestones: expected {len(schedulers) - 1}, one less than schedulers, got {milestones}")
        self.parts = [make(optimizer) for make in schedulers]
        self.begins = [0, *milestones]
        super().__init__(optimizer, self.parts, milestones)

    def state_dict(self) -> dict[str, Any]:
        """Return what resuming needs: the state of every part is in it, the parts are not."""
        return {name: value for name, value in super().state_dict().items() if name != "parts"}


def warmup_and_cosine(steps: int, warmup: float = 0.05) -> Callable[[int], float]:
    """Return the factor of the learning rate by step: up during warm-up, then down a cosine to zero.

    Args:
        steps: of the whole run.
        warmup: share of them in which the rate rises.

    Example:
        >>> factor = warmup_and_cosine(100)
        >>> [round(factor(step), 2) for step in (0, 4, 5, 52, 100)]
        [0.17, 0.83, 1.0, 0.51, 0.0]
    """
    rising = math.ceil(warmup * steps)

    def factor(step: int) -> float:
        if step < rising:
            return (step + 1) / (rising + 1)
        return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))

    return factor


def stepped(schedule: LRScheduler, optimisation: Optimisation, trainer: L.Trainer) -> LRSchedulerConfigType:
    """Return how Lightning shall step a schedule: after every epoch, or after every step of the optimiser.

    Args:
        schedule: any.
        optimisation: with ``lr_interval``; None there chooses by class: OneCycleLR and CyclicLR count steps.
        trainer: which knows how long the run is. A schedule that does not end where the run ends is warned of.

    Raises:
        InputError: for a schedule that fails before the run ends.
    """
    if optimisation.warmup != Optimisation.warmup:
        rank_zero_warn("warmup: belongs to the default schedule; with lr_scheduler it does nothing, use SequenceLR")
    counts_steps = any(isinstance(part, (OneCycleLR, CyclicLR)) for part, _ in _parts(schedule))
    interval = optimisation.lr_interval or ("step" if counts_steps else "epoch")
    rank_zero_info(f"lr_scheduler: {type(schedule).__name__} is stepped every {interval}")
    length = _run_length(trainer, interval)
    if length is None:
        return {"scheduler": schedule, "interval": interval}
    for part, begin in _parts(schedule):
        since = f", {length - begin} from where it begins" if 0 < begin < length else ""
        run = f"the run has {length} {interval}{'s' if length > 1 else ''}{since}"
        if isinstance(part, OneCycleLR) and part.total_steps < length - begin:
            raise InputError(f"lr_scheduler: OneCycleLR fails after total_steps={part.total_steps}, {run}")
        if wrong := _wrong_end(part, begin, length):
            rank_zero_warn(f"lr_scheduler: {type(part).__name__} {wrong}, {run}")
    return {"scheduler": schedule, "interval": interval}


def _parts(schedule: LRScheduler, begin: int = 0) -> Iterator[tuple[LRScheduler, int]]:
    """Yield the schedules that a schedule is made of, and after how many steps each begins."""
    if not isinstance(schedule, SequenceLR):
        yield schedule, begin
        return
    for part, own in zip(schedule.parts, schedule.begins, strict=True):
        yield from _parts(part, begin + own)


def _run_length(trainer: L.Trainer, interval: str) -> int | None:
    """Return how many times a schedule is stepped in the whole run; None if that is not known."""
    if interval == "step":
        steps = trainer.estimated_stepping_batches
        return None if math.isinf(steps) or steps < 0 else int(steps)
    epochs = trainer.max_epochs
    return epochs if epochs is not None and epochs > 0 and trainer.max_steps == -1 else None


def _wrong_end(schedule: LRScheduler, begin: int, length: int) -> str | None:
    """Say what of a schedule does not come to its end with the run; None if all does, or nothing has an end."""
    name, settings, left = type(schedule).__name__, vars(schedule), length - begin
    if left <= 0 < begin:
        return f"would begin after {begin}"
    if name in _END and settings[_END[name]] not in (left, left - 1):
        return f"ends after {_END[name]}={settings[_END[name]]}"
    if name in _RISES and settings[_RISES[name]] > left:
        return f"ends after {_RISES[name]}={settings[_RISES[name]]}"
    if name == "MultiStepLR" and (late := [at for at in sorted(settings["milestones"]) if at >= left]):
        return f"never reaches its milestones {late}"
    if name == "StepLR" and settings["step_size"] >= left:
        return f"never reaches its step_size={settings['step_size']}"
    if name == "CosineAnnealingWarmRestarts":
        ends, cycle = [settings["T_0"]], settings["T_0"]
        while ends[-1] < left:
            cycle *= settings["T_mult"]
            ends.append(ends[-1] + cycle)
        if left not in ends:
            return f"ends its cycles after {', '.join(map(str, ends))}"
    return None
