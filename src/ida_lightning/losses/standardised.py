"""Logit standardisation: any distillation loss on logits of mean 0 and standard deviation 1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ida_lightning.errors import float_matrix, is_a
from ida_lightning.label_mix import LabelMix
from ida_lightning.losses.base import DistillationLoss, Taught, as_logits, soften
from ida_lightning.losses.distillation import KL


def standardise_logits(logits: Tensor) -> Tensor:
    """Give every row a mean of 0 and a standard deviation of 1, divided by the number of classes, not by one less.

    Adding a constant to a row, or multiplying it by a positive number, changes nothing. A row of equal logits becomes
    zeros. Released code divides by one class less, which is a temperature larger by ``sqrt(classes / (classes - 1))``.

    Args:
        logits: ``(batch, classes)``; half types are computed in float32.

    Raises:
        InputError: for anything but floating point ``(batch, classes)``.

    Example:
        >>> standardise_logits(torch.tensor([[1.0, 3.0], [5.0, 5.0]]))
        tensor([[-1.,  1.],
                [ 0.,  0.]])

    References:
        Sun et al., Logit Standardization in Knowledge Distillation, CVPR 2024, arXiv 2403.01427, algorithm 1.
    """
    float_matrix("logits", logits)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    centred = logits - logits.mean(1, keepdim=True)
    # Rounding of a row of equal logits, and a square root that has a gradient there.
    least = torch.finfo(logits.dtype).eps * (1 + logits.detach().abs().amax(1, keepdim=True))
    return centred / (centred.square().mean(1, keepdim=True) + least.square()).sqrt()


class _Restated(NamedTuple):
    label_mix: LabelMix
    soft_labels: Tensor
    soft_weight: Tensor
    temperature: float


@dataclass(frozen=True)
class LogitStandardisation(DistillationLoss):
    """Another loss on standardised logits, so that a student need not have logits as large as the teacher's.

    The student's logits are standardised, and so are those of the soft labels, ``T log(soft_labels)``, before both are
    softened by T: ``loss(Z(student_logits), softmax(Z(log(soft_labels)) / T), T)``. The constant and the scale that
    the soft labels do not tell fall out, so without a correction these are the teacher's standardised logits.

    Args:
        loss: on what comes out; None is :class:`KL`, as in the paper, which has T = 2 and a soft weight of 9.

    Raises:
        InputError: for something else than a loss.

    Example:
        >>> LogitStandardisation()
        LogitStandardisation(loss=KL())

    References:
        Sun et al., CVPR 2024, arXiv 2403.01427.
    """

    loss: DistillationLoss | None = None

    def __post_init__(self) -> None:
        # mypy takes an abstract class for no class that could be passed.
        kind: type = DistillationLoss
        object.__setattr__(self, "loss", KL() if self.loss is None else is_a("loss", self.loss, kind))

    def __call__(self, student_logits: Tensor, taught: Taught) -> Tensor:
        """Compute the loss on standardised logits."""
        assert self.loss is not None
        softened = soften(student_logits, taught.soft_labels, taught.temperature)
        soft_labels = (standardise_logits(as_logits(softened.soft_labels)) / taught.temperature).softmax(1)
        student = standardise_logits(student_logits.to(soft_labels.dtype))
        restated = _Restated(taught.label_mix, soft_labels, taught.soft_weight, taught.temperature)
        return self.loss(student, restated).to(softened.dtype)
