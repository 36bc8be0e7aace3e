"""Losses that ask for the same relations instead of the same numbers: DIST and correlation distances."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import torch
from torch import Tensor

from ida_lightning.errors import non_negative, one_of, positive
from ida_lightning.losses.base import DistillationLoss, Taught, relative_weights, soften

CorrelationForm = Literal["pearson", "rank"]
_CONSTANT = 1e-6  # a row that varies by so little of its size is constant


def dist_loss(
    student_logits: Tensor,
    soft_labels: Tensor,
    temperature: float,
    beta: float = 1.0,
    gamma: float = 1.0,
    weights: Tensor | None = None,
) -> Tensor:
    """Compute DIST: how far student and soft labels are from a linear relation, by rows and by classes.

    With Pearson's correlation of probabilities softened by T::

        T^2 (beta (1 - corr over the classes of the row) + gamma mean over classes (1 - corr over the rows))

    The second part, intra-class, is of the whole batch and is added to every row. A class whose probability is the same
    in all rows has no correlation, and counts as one of 0. Mixed images need nothing else: no label is read.

    Args:
        student_logits: ``(batch, classes)``; half types are computed in float32, above T = 10 all in float64.
        soft_labels: probabilities ``(batch, classes)``, softened by T and corrected.
        temperature: T > 0.
        beta: weight of the inter-class part.
        gamma: weight of the intra-class part.
        weights: how much each row counts in the intra-class correlations, ``(batch,)``; None is all alike. Rows of
            weight 0 take no part.

    Returns:
        One loss per row, ``(batch,)``.

    Raises:
        InputError: for shapes that do not fit and numbers out of range.

    Example:
        >>> soft_labels = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.4, 0.5]])
        >>> dist_loss((2 * soft_labels).log(), soft_labels, temperature=1.0).abs() < 1e-6
        tensor([True, True])

    References:
        Huang et al., Knowledge Distillation from A Stronger Teacher, NeurIPS 2022, arXiv 2205.10536.
    """
    non_negative("beta", beta)
    non_negative("gamma", gamma)
    log_probs, targets, dtype = soften(student_logits, soft_labels, temperature)
    probs = log_probs.exp()
    loss = beta * (1 - _correlation(probs, targets))
    if gamma:
        counts = relative_weights(weights, probs)
        loss = loss + gamma * (1 - _correlation(probs.T, targets.T, counts)).mean()
    return (loss * temperature**2).to(dtype)


def correlation_loss(
    student_logits: Tensor,
    soft_labels: Tensor,
    temperature: float,
    form: CorrelationForm = "pearson",
    softness: float = 0.1,
) -> Tensor:
    """Compute a correlation distance over the classes of a row: ``T^2 (1 - correlation)``.

    * ``"pearson"``: of the probabilities softened by T;
    * ``"rank"``: of the ranks, Spearman's. The soft labels' are exact, ties have their mean rank. Ranks have no
      gradient, so the student's are soft: a class counts how many are smaller, those of nearly the same logit in part,
      ``rank_i = 1/2 + sum_j sigmoid((z_i - z_j) / (softness std(z)))``. With softness to 0 this is Spearman's
      correlation. It costs classes^2 per row.

    The paper's idea is both forms together (its value form is a cosine, without subtracting the mean, over rows and
    columns): a list of two of them is a loss of one's own. The ranks of the released code are hard ones, through which
    no gradient comes.

    Args:
        student_logits: ``(batch, classes)``; half types are computed in float32, above T = 10 all in float64.
        soft_labels: probabilities ``(batch, classes)``, softened by T and corrected.
        temperature: T > 0; of the rank form only the factor.
        form: see above.
        softness: of the student's ranks, > 0, as a share of the standard deviation of its logits.

    Returns:
        One loss per row, ``(batch,)``, from 0 to ``2 T^2``.

    Raises:
        InputError: for shapes that do not fit, numbers out of range and an unknown form.

    Example:
        >>> correlation_loss(torch.tensor([[3.0, 2.0, 1.0]]), torch.tensor([[0.2, 0.3, 0.5]]), 1.0, "rank")
        tensor([2.])

    References:
        Kim et al., Robustness-Reinforced Knowledge Distillation with Correlation Distance and Network Pruning, TKDE
        2024, arXiv 2311.13934.
    """
    one_of("form", form, get_args(CorrelationForm))
    positive("softness", softness)
    log_probs, targets, dtype = soften(student_logits, soft_labels, temperature)
    if form == "pearson":
        correlation = _correlation(log_probs.exp(), targets)
    else:
        correlation = _correlation(_soft_ranks(log_probs, softness), _ranks(targets))
    return ((1 - correlation) * temperature**2).to(dtype)


def _correlation(first: Tensor, second: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return Pearson's correlation along the last dimension, ``(rows,)``; 0 where one side is constant."""
    return (_directions(first, weights) * _directions(second, weights)).sum(1)


def _directions(values: Tensor, weights: Tensor | None) -> Tensor:
    """Return rows less their means, of length 1; about 0 for rows that are constant up to rounding."""
    if weights is None:
        centred, size = values - values.mean(1, keepdim=True), values.detach().square().sum(1, keepdim=True)
    else:
        root = weights.sqrt()
        centred = root * (values - (weights * values).sum(1, keepdim=True))
        size = (weights * values.detach().square()).sum(1, keepdim=True)
    floor = (_CONSTANT**2 * size).clamp_min(torch.finfo(values.dtype).tiny)
    return centred / (centred.square().sum(1, keepdim=True) + floor).sqrt()


def _ranks(values: Tensor) -> Tensor:
    """Return ranks from 1 for the smallest, ties with their mean."""
    ordered, values = values.sort(1).values, values.contiguous()
    below = torch.searchsorted(ordered, values)
    up_to = torch.searchsorted(ordered, values, right=True)
    return (below + up_to + 1).to(values.dtype) / 2


def _soft_ranks(values: Tensor, softness: float) -> Tensor:
    centred = values - values.mean(1, keepdim=True)
    scale = (centred.square().mean(1, keepdim=True) + torch.finfo(values.dtype).eps ** 2).sqrt()
    steps = centred / (softness * scale)
    return 0.5 + (steps[:, :, None] - steps[:, None, :]).sigmoid().sum(2)


@dataclass(frozen=True)
class DIST(DistillationLoss):
    """DIST, :func:`dist_loss`: correlations with the soft labels by rows and by classes.

    Args:
        beta: weight of the inter-class part, over the classes of a row.
        gamma: weight of the intra-class part, over the rows of a class; 0 leaves it out. The paper has 2 and 2 at T = 4
            for CIFAR-100, 1 and 1 at T = 1 for ImageNet.

    Raises:
        InputError: for negative weights.

    Example:
        >>> DIST(beta=2.0, gamma=2.0)
        DIST(beta=2.0, gamma=2.0)

    References:
        Huang et al., NeurIPS 2022, arXiv 2205.10536.
    """

    beta: float = 1.0
    gamma: float = 1.0

    def __post_init__(self) -> None:
        non_negative("beta", self.beta)
        non_negative("gamma", self.gamma)

    def __call__(self, student_logits: Tensor, taught: Taught) -> Tensor:
        """Compute :func:`dist_loss` of every row."""
        soft_labels, temperature = taught.soft_labels, taught.temperature
        return dist_loss(student_logits, soft_labels, temperature, self.beta, self.gamma, taught.soft_weight)


@dataclass(frozen=True)
class CorrelationDistance(DistillationLoss):
    """A correlation distance over the classes of a row, :func:`correlation_loss`.

    Args:
        form: ``"pearson"`` or ``"rank"``.
        softness: of the student's ranks.

    Raises:
        InputError: for values out of range.

    Example:
        >>> CorrelationDistance("rank")
        CorrelationDistance(form='rank', softness=0.1)

    References:
        Kim et al., TKDE 2024, arXiv 2311.13934.
    """

    form: CorrelationForm = "pearson"
    softness: float = 0.1

    def __post_init__(self) -> None:
        one_of("form", self.form, get_args(CorrelationForm))
        positive("softness", self.softness)

    def __call__(self, student_logits: Tensor, taught: Taught) -> Tensor:
        """Compute :func:`correlation_loss` of every row."""
        return correlation_loss(student_logits, taught.soft_labels, taught.temperature, self.form, self.softness)
