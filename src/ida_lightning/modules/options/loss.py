"""What the student minimises."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Literal

from ida_lightning.errors import InputError, is_a, kind_of, non_negative, one_of, positive
from ida_lightning.losses import KL, DistillationLoss


@dataclass(frozen=True)
class Loss:
    """What the student minimises: ``soft_weight * distillation loss + hard_weight * cross-entropy``, row by row.

    Args:
        temperature: T of the softened softmax, for teacher and student.
        soft_weight: weight of the distillation loss (alpha of the paper).
        hard_weight: weight of the cross-entropy with the hard label (1 - alpha of the paper).
        nonfinite: what happens to rows for which the teacher's logits are NaN or infinite: ``"raise"`` stops the
            run, ``"skip"`` leaves them out of both losses.
        hard_temperature: T of the student's softmax in the cross-entropy. That is multiplied by the square of T, so
            that the gradient keeps its size; with T = ``temperature`` both losses look at the same softened student.
        distillation: the distillation loss; see :mod:`ida_lightning.losses`.

    Raises:
        InputError: for values out of range.

    Example:
        >>> loss = Loss(temperature=4, soft_weight=0.9, hard_weight=0.1)

        In YAML::

            loss: {temperature: 4, soft_weight: 0.9, hard_weight: 0.1, distillation: {class_path: DKD}}
    """

    temperature: float = 4.5
    soft_weight: float = 0.95
    hard_weight: float = 0.05
    nonfinite: Literal["raise", "skip"] = "raise"
    hard_temperature: float = 1.0
    distillation: DistillationLoss = KL()  # noqa: RUF009 (frozen)

    def __post_init__(self) -> None:
        positive("temperature", self.temperature)
        non_negative("soft_weight", self.soft_weight)
        non_negative("hard_weight", self.hard_weight)
        if self.soft_weight + self.hard_weight == 0:
            raise InputError("soft_weight, hard_weight: expected numbers >= 0, not both 0, got 0 and 0")
        one_of("nonfinite", self.nonfinite, ("raise", "skip"))
        positive("hard_temperature", self.hard_temperature)
        object.__setattr__(self, "distillation", _made(self.distillation))


def plain_loss(loss: DistillationLoss) -> dict[str, Any] | None:
    """Return a loss as a checkpoint keeps it; None for one of a class that does not say its options.

    Args:
        loss: a dataclass, as all shipped ones are.

    Example:
        >>> plain_loss(KL())
        {'class_path': 'ida_lightning.losses.distillation.KL', 'init_args': {}}
    """
    if not is_dataclass(loss):
        return None
    options = {field.name: vars(loss)[field.name] for field in fields(loss) if field.init}
    return {
        "class_path": _path_of(type(loss)),
        "init_args": {
            name: plain_loss(value) if isinstance(value, DistillationLoss) else value for name, value in options.items()
        },
    }


def _path_of(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def _made(given: object) -> DistillationLoss:
    """Return a loss, or build one that a checkpoint keeps as plain values: of a class that has been imported."""
    kind: Any = DistillationLoss  # mypy takes an abstract class for none that could be passed
    loss: DistillationLoss
    if not isinstance(given, Mapping):
        loss = is_a("distillation", given, kind)
        return loss
    known, below = {}, [kind]
    while below:
        other = below.pop()
        below += type.__subclasses__(other)
        known[_path_of(other)] = other
        if other.__module__.startswith("ida_lightning."):
            known[f"ida_lightning.{other.__name__}"] = other  # as the command line writes it
    if not isinstance(given.get("class_path"), str) or given["class_path"] not in known:
        raise InputError(f"distillation: expected a loss whose class is imported, got {kind_of(given)}")
    options = given.get("init_args") or {}
    loss = known[given["class_path"]](
        **{name: _made(value) if isinstance(value, Mapping) else value for name, value in options.items()}
    )
    return loss
