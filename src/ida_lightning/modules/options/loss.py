"""What the student minimises."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ida_lightning.errors import InputError, non_negative, one_of, positive


@dataclass(frozen=True)
class Loss:
    """What the student minimises: ``soft_weight * distillation loss + hard_weight * cross-entropy``, row by row.

    Args:
        temperature: T of the softened softmax, for teacher and student.
        soft_weight: weight of the distillation loss (alpha of the paper).
        hard_weight: weight of the cross-entropy with the hard label (1 - alpha of the paper).
        nonfinite: what happens to rows for which the teacher's logits are NaN or infinite: ``"raise"`` stops the
            run, ``"skip"`` leaves them out of both losses.
        hard_temperature: T of the student's softmax in the cross-entropy, which is multiplied by its square, so that
            the gradient keeps its size; with T = ``temperature`` both losses look at the same softened student.

    Raises:
        InputError: for values out of range.

    Example:
        >>> loss = Loss(temperature=4, soft_weight=0.9, hard_weight=0.1)

        In YAML::

            loss: {temperature: 4, soft_weight: 0.9, hard_weight: 0.1}
    """

    temperature: float = 4.5
    soft_weight: float = 0.95
    hard_weight: float = 0.05
    nonfinite: Literal["raise", "skip"] = "raise"
    hard_temperature: float = 1.0

    def __post_init__(self) -> None:
        positive("temperature", self.temperature)
        non_negative("soft_weight", self.soft_weight)
        non_negative("hard_weight", self.hard_weight)
        if self.soft_weight + self.hard_weight == 0:
            raise InputError("soft_weight, hard_weight: expected numbers >= 0, not both 0, got 0 and 0")
        one_of("nonfinite", self.nonfinite, ("raise", "skip"))
        positive("hard_temperature", self.hard_temperature)
