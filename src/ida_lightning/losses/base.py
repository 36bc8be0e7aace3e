"""The base of distillation losses that a config can name, and what all of them compute first."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ida_lightning.errors import InputError, can_look, float_matrix, float_vector, floats_like, positive, probabilities
from ida_lightning.label_mix import LabelMix, check_label_mix

# Above this temperature T^2 makes the rounding of float32 visible: at T = 100 it is a thousandth already.
_FLOAT32_UP_TO = 10.0


class Taught(Protocol):
    """What a loss reads of a :class:`ida_lightning.Supervision`, which is one."""

    @property
    def label_mix(self) -> LabelMix: ...  # noqa: D102 (described there, as those that follow)
    @property
    def soft_labels(self) -> Tensor: ...  # noqa: D102
    @property
    def soft_weight(self) -> Tensor: ...  # noqa: D102
    @property
    def temperature(self) -> float: ...  # noqa: D102


class DistillationLoss(ABC):
    """Base of distillation losses: what a student's logits lack of what it is taught, one number per row.

    A subclass defines :meth:`__call__`; a frozen dataclass keeps its options in checkpoints. All shipped ones read the
    **soft labels**, after every correction, and never the teacher's logits: where a formula is one of logits, those are
    ``T log(soft_labels)``, which a softmax at T turns back into the soft labels. Without a correction they are the
    teacher's logits up to a constant of the row, which no softmax sees. Soft labels below 1e-38 count as 1e-38 there.

    A row's ``soft_weight`` is multiplied afterwards by whoever calls. Where rows are compared with one another, they
    count by their ``soft_weight``, and the comparison goes into the loss of every row alike. Rows of other processes
    and of other accumulated batches are not compared with.

    Example:
        >>> class Squared(DistillationLoss):
        ...     def __call__(self, student_logits, taught):
        ...         return (student_logits.softmax(1) - taught.soft_labels).square().sum(1)
    """

    @abstractmethod
    def __call__(self, student_logits: Tensor, taught: Taught) -> Tensor:
        """Compute one loss per row, ``(batch,)``, in float32 or better.

        Args:
            student_logits: ``(batch, classes)``.
            taught: a :class:`ida_lightning.Supervision`.
        """


class Softened(NamedTuple):
    """Student and soft labels in the precision that a temperature needs.

    Attributes:
        log_probs: of the student at the temperature, ``(batch, classes)``.
        soft_labels: ``(batch, classes)``.
        dtype: of the loss that is returned.
    """

    log_probs: Tensor
    soft_labels: Tensor
    dtype: torch.dtype


def soften(student_logits: Tensor, soft_labels: Tensor, temperature: float) -> Softened:
    """Check a student's logits and soft labels; above T = 10 go on in float64, where the device has it.

    Raises:
        InputError: if shapes differ, soft labels are no probabilities or the temperature is not > 0.
    """
    float_matrix("student_logits", student_logits)
    floats_like("soft_labels", soft_labels, "student_logits", student_logits)
    probabilities("soft_labels", soft_labels)
    positive("temperature", temperature)
    dtype = torch.promote_types(student_logits.dtype, torch.float32)
    hot = temperature > _FLOAT32_UP_TO
    exact = torch.float64 if hot and student_logits.device.type != "mps" else dtype
    return Softened((student_logits.to(exact) / temperature).log_softmax(1), soft_labels.to(exact), dtype)


def as_logits(soft_labels: Tensor) -> Tensor:
    """Return the logarithm of soft labels: the teacher's logits / T, up to a constant of the row."""
    return soft_labels.clamp_min(torch.finfo(torch.float32).tiny).log()


def relative_weights(weights: Tensor | None, like: Tensor) -> Tensor:
    """Return what each row counts where rows are compared, ``(batch,)`` with a sum of 1; all alike for None.

    Raises:
        InputError: for anything but floating point ``(batch,)``.
    """
    if weights is None:
        return torch.full_like(like[:, 0], 1 / max(1, len(like)))
    if float_vector("weights", weights).shape != like.shape[:1]:
        raise InputError(f"weights: expected floating point ({len(like)},), got {tuple(weights.shape)}")
    weights = weights.to(like)
    return weights / weights.sum().clamp_min(torch.finfo(weights.dtype).tiny)


def target_shares(label_mix: LabelMix, student_logits: Tensor, whole: bool = False) -> Tensor:
    """Return how much of each class is a target of its own, from 0 to 1, ``(batch, classes)``.

    Args:
        label_mix: of the rows.
        student_logits: whose classes they are.
        whole: 1 for every class of the mix; otherwise a class's weight divided by that of the heaviest.

    Raises:
        InputError: for a mix of other rows and, on the CPU, for rows without a class.
    """
    check_label_mix(label_mix, student_logits, "student_logits")
    dense = label_mix.dense(student_logits.shape[1])
    heaviest = dense.amax(1, keepdim=True)
    if can_look(heaviest) and not bool((heaviest > 0).all()):
        without = int((heaviest <= 0).sum())
        raise InputError(f"label_mix: expected a class with weight in every row, got none in {without} rows")
    if whole:
        return (dense > 0).to(dense.dtype)
    return dense / heaviest.clamp_min(torch.finfo(dense.dtype).tiny)
