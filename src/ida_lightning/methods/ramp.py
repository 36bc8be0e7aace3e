"""A number that changes over the epochs of a run."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import lightning as L

from ida_lightning.errors import one_of, share


@dataclass(frozen=True)
class Ramp:
    """A share that goes from one value to another over a run, and stays where it arrives.

    Args:
        start: the value at the beginning, from 0 to 1.
        end: the value at the end, from 0 to 1.
        until: the share of the run's epochs after which it has arrived.
        shape: ``"linear"`` or ``"cosine"``.

    Raises:
        InputError: for values out of range.

    Example:
        >>> ramp = Ramp(start=1.0, end=0.2, until=0.5)
        >>> [round(ramp.at(progress), 2) for progress in (0, 0.25, 0.5, 1)]
        [1.0, 0.6, 0.2, 0.2]
    """

    start: float
    end: float
    until: float = 1.0
    shape: Literal["linear", "cosine"] = "linear"

    def __post_init__(self) -> None:
        for name in ("start", "end", "until"):
            share(name, {"start": self.start, "end": self.end, "until": self.until}[name])
        one_of("shape", self.shape, ("linear", "cosine"))

    def at(self, progress: float) -> float:
        """Return the value at a share of the run, from 0 to 1."""
        ratio = min(1.0, progress / self.until) if self.until else 1.0
        if self.shape == "cosine":
            ratio = (1 - math.cos(math.pi * ratio)) / 2
        return self.start + ratio * (self.end - self.start)


def checked_ramp(name: str, value: float | Ramp) -> float | Ramp:
    """Return ``value``, which must be a :class:`Ramp` or a number from 0 to 1."""
    return value if isinstance(value, Ramp) else share(name, value)


def value_now(value: float | Ramp, trainer: L.Trainer) -> float:
    """Return a number, or where its ramp is in the present epoch of a run."""
    if not isinstance(value, Ramp):
        return value
    epochs = trainer.max_epochs or 0
    return value.at(trainer.current_epoch / (epochs - 1)) if epochs > 1 else value.end
