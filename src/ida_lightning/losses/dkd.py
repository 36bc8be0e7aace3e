"""Decoupled knowledge distillation (DKD), for images that show several classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ida_lightning.errors import flag, non_negative
from ida_lightning.label_mix import LabelMix
from ida_lightning.losses.base import DistillationLoss, Taught, soften, target_shares


class Parts(NamedTuple):
    """Soft labels and student, split into target classes and rest.

    Attributes:
        shares: how much of a class is a target, ``(batch, classes)``.
        log_probs: of the student, ``(batch, classes)``.
        soft_labels: ``(batch, classes)``.
        rest: of the soft labels, how much is no target, ``(batch, 1)``.
        log_rest: the logarithm of the same of the student, ``(batch, 1)``.
        soft_within: soft labels within the rest, ``(batch, classes)``; 0 where nothing is left.
        log_within: the logarithm of the student's probabilities within the rest.
    """

    shares: Tensor
    log_probs: Tensor
    soft_labels: Tensor
    rest: Tensor
    log_rest: Tensor
    soft_within: Tensor
    log_within: Tensor


def split_target(log_probs: Tensor, soft_labels: Tensor, shares: Tensor) -> Parts:
    """Split both sides into target classes, each an event of its own, and the rest; in logarithms on the student's.

    Args:
        log_probs: of the student, ``(batch, classes)``.
        soft_labels: likewise.
        shares: how much of a class is a target, from 0 to 1.
    """
    shares = shares.to(log_probs.dtype)
    kept = 1 - shares
    remaining = kept * soft_labels
    rest = remaining.sum(1, keepdim=True)
    none_left = (kept <= 0).all(1, keepdim=True)  # an empty sum has no gradient, and none of it counts
    of_rest = log_probs + torch.where(none_left, 0, kept.log())
    log_rest = of_rest.logsumexp(1, keepdim=True)
    soft_within = remaining / rest.clamp_min(torch.finfo(rest.dtype).tiny)
    log_within = torch.where(kept > 0, of_rest - log_rest, 0)  # 0 times infinity would be no number
    return Parts(shares, log_probs, soft_labels, rest, log_rest, soft_within, log_within)


def dkd_loss(
    student_logits: Tensor,
    soft_labels: Tensor,
    label_mix: LabelMix,
    temperature: float,
    alpha: float = 1.0,
    beta: float = 8.0,
    whole: bool = False,
) -> Tensor:
    """Compute decoupled distillation: how sure of the target to be, and how the other classes share what is left.

    The divergence of KD is ``TCKD + r NCKD``: that of the target classes, each an event, and the rest as one event, and
    that within the rest, counted by the little mass r that the teacher leaves it. Here both have weights of their own::

        T^2 (alpha TCKD + beta NCKD)

    An image of one class has the paper's two parts. In a mix, a class is a target by its weight as a share of the
    heaviest class's: with .5 and .5 both are events of their own and the rest is all others; with .9 and .1 a ninth of
    the second class is, and the other eight ninths of its probability stay with the rest. So the loss has no jump
    where a weight goes to 0 or a pair becomes one class, and for ``alpha = 1`` and beta = r it is KD's for any mix.

    Args:
        student_logits: ``(batch, classes)``; half types are computed in float32, above T = 10 all in float64.
        soft_labels: probabilities ``(batch, classes)``, softened by T and corrected; what a correction moves between
            target and rest changes TCKD, what it moves among the others NCKD, which is 0 where nothing is left to
            them.
        label_mix: ``(batch, k)``, in any order, repeats allowed.
        temperature: T > 0.
        alpha: weight of the target part.
        beta: weight of the part within the rest.
        whole: every class of the mix is a whole event, whatever its weight; jumps where a weight goes to 0.

    Returns:
        One loss per row, ``(batch,)``, in nats.

    Raises:
        InputError: for shapes that do not fit, numbers out of range, and rows without a class.

    Example:
        >>> mix = LabelMix.unmixed(torch.tensor([0]))
        >>> soft_labels = torch.tensor([[0.5, 0.25, 0.25]])
        >>> dkd_loss(torch.tensor([[0.5, 0.4, 0.1]]).log(), soft_labels, mix, temperature=1.0)
        tensor([1.7851])

    References:
        Zhao et al., Decoupled Knowledge Distillation, CVPR 2022, arXiv 2203.08679, eq. 7; there for one class.
    """
    non_negative("alpha", alpha)
    non_negative("beta", beta)
    log_probs, targets, dtype = soften(student_logits, soft_labels, temperature)
    parts = split_target(log_probs, targets, target_shares(label_mix, student_logits, flag("whole", whole)))
    of_classes = (parts.shares * F.kl_div(log_probs, targets, reduction="none")).sum(1)
    of_rest = F.kl_div(parts.log_rest, parts.rest, reduction="none")[:, 0]
    within = F.kl_div(parts.log_within, parts.soft_within, reduction="none").sum(1)
    return ((alpha * (of_classes + of_rest) + beta * within) * temperature**2).to(dtype)


@dataclass(frozen=True)
class DKD(DistillationLoss):
    """Decoupled distillation, :func:`dkd_loss`: target and other classes with a weight each.

    Args:
        alpha: weight of the target part.
        beta: weight of the part within the other classes; 8 is the paper's for ResNet32x4 to ResNet8x4. The authors
            let it grow over the first epochs; with a gradient this large a ``warmup`` of the learning rate helps.
        whole: every class of a mix is a whole target, whatever its weight.

    Raises:
        InputError: for negative weights.

    Example:
        >>> DKD(beta=2.0)
        DKD(alpha=1.0, beta=2.0, whole=False)

    References:
        Zhao et al., Decoupled Knowledge Distillation, CVPR 2022, arXiv 2203.08679.
    """

    alpha: float = 1.0
    beta: float = 8.0
    whole: bool = False

    def __post_init__(self) -> None:
        non_negative("alpha", self.alpha)
        non_negative("beta", self.beta)
        flag("whole", self.whole)

    def __call__(self, student_logits: Tensor, taught: Taught) -> Tensor:
        """Compute :func:`dkd_loss` of every row."""
        label_mix, temperature = taught.label_mix, taught.temperature
        return dkd_loss(student_logits, taught.soft_labels, label_mix, temperature, self.alpha, self.beta, self.whole)
