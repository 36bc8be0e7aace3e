"""Multi-level logit distillation (MLKD): rows, batch and classes, at several temperatures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ida_lightning.errors import InputError, non_negative, positive
from ida_lightning.losses.base import DistillationLoss, Taught, as_logits, relative_weights, soften
from ida_lightning.losses.distillation import distillation_loss


def multi_level_loss(
    student_logits: Tensor,
    soft_labels: Tensor,
    temperature: float,
    factors: Sequence[float] = (0.5, 0.75, 1.0, 1.25, 1.5),
    relations: float = 1.0,
    weights: Tensor | None = None,
) -> Tensor:
    """Compute multi-level distillation: answers, relations between rows, and relations between classes.

    With p and q the matrices ``(batch, classes)`` of soft labels and student at a temperature t::

        sum over t (t^2 KL(p || q) + relations (sum_j (p p^T - q q^T)_ij^2 + |p^T p - q^T q|^2 / classes))

    for t = T times each of ``factors``. The row's part of ``p p^T``, its likeness to the other rows, is its own; the
    matrix of the classes is of the whole batch and is added to every row. No label is read.

    Args:
        student_logits: ``(batch, classes)``; half types are computed in float32, above T = 10 all in float64.
        soft_labels: probabilities ``(batch, classes)``, softened by T and corrected; at a temperature t they are
            ``softmax(T log(soft_labels) / t)``.
        temperature: T > 0.
        factors: of T. With T = 4, those given make the paper's 2, 3, 4, 5, 6.
        relations: weight of the two relations.
        weights: how much each row counts in relations, ``(batch,)``; None is all alike.

    Returns:
        One loss per row, ``(batch,)``.

    Raises:
        InputError: for shapes that do not fit and numbers out of range.

    Example:
        >>> soft_labels = torch.tensor([[0.5, 0.3, 0.2]])
        >>> multi_level_loss(soft_labels.log(), soft_labels, temperature=1.0).abs() < 1e-5
        tensor([True])

    References:
        Jin, Wang and Lin, Multi-Level Logit Distillation, CVPR 2023; its strongly augmented second view is left out.
    """
    non_negative("relations", relations)
    teacher_logits = as_logits(soften(student_logits, soft_labels, temperature).soft_labels)
    loss = torch.zeros((), dtype=torch.promote_types(student_logits.dtype, torch.float32), device=student_logits.device)
    for factor in _checked(factors):
        targets = (teacher_logits / factor).softmax(1)
        log_probs, targets, dtype = soften(student_logits, targets, factor * temperature)
        loss = loss + distillation_loss(student_logits, targets, factor * temperature)
        if relations:
            probs = log_probs.exp()
            counts = len(probs) * relative_weights(weights, probs)
            rows = (counts * (targets @ targets.T - probs @ probs.T).square()).sum(1)
            weighted = counts[:, None]
            classes = targets.T @ (weighted * targets) - probs.T @ (weighted * probs)
            loss = loss + relations * (rows + classes.square().sum() / probs.shape[1]).to(dtype)
    return loss


def _checked(factors: Sequence[float]) -> Sequence[float]:
    if not isinstance(factors, (list, tuple)) or not factors:
        raise InputError(f"factors: expected one number > 0 or more, got {factors!r}")
    for factor in factors:
        positive("factors", factor)
    return factors


@dataclass(frozen=True)
class MLKD(DistillationLoss):
    """Multi-level logit distillation, :func:`multi_level_loss`.

    Args:
        factors: of the temperature, at each of which answers are compared.
        relations: weight of the relations between rows and between classes.

    Raises:
        InputError: for numbers out of range.

    Example:
        >>> MLKD(factors=(1.0,))
        MLKD(factors=(1.0,), relations=1.0)

    References:
        Jin, Wang and Lin, Multi-Level Logit Distillation, CVPR 2023.
    """

    factors: tuple[float, ...] = (0.5, 0.75, 1.0, 1.25, 1.5)
    relations: float = 1.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "factors", tuple(_checked(self.factors)))
        non_negative("relations", self.relations)

    def __call__(self, student_logits: Tensor, taught: Taught) -> Tensor:
        """Compute :func:`multi_level_loss` of every row."""
        soft_labels, temperature = taught.soft_labels, taught.temperature
        return multi_level_loss(
            student_logits, soft_labels, temperature, self.factors, self.relations, taught.soft_weight
        )
