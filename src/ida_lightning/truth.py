"""Between a teacher's answer and the truth: how much of the hard label a soft label takes over, and in which rows."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from ida_lightning.addressing import addressable, nan_rows
from ida_lightning.errors import InputError, can_look, float_matrix, non_negative, one_of, probabilities
from ida_lightning.errors import share as checked_share
from ida_lightning.isotonic import Solver, choose, isotonic_soft_labels
from ida_lightning.label_mix import LabelMix, check_label_mix
from ida_lightning.metrics import violated_rows

Rows = Literal["all", "wrong", "missed"]


def blend_with_truth(
    soft_labels: Tensor, label_mix: LabelMix, share: float | Literal["auto"], rows: Rows = "all"
) -> Tensor:
    """Blend soft labels with their hard labels: ``(1 - share) * soft_label + share * hard_label``.

    The weaker a teacher, the larger the share of truth that its answers need. Cross-entropy is linear in the target, so
    this is distillation and cross-entropy *at the same temperature*, with weights ``1 - share`` and ``share``.

    Args:
        soft_labels: probabilities ``(batch, classes)``.
        label_mix: the hard label of every row.
        share: of the truth, from 0 to 1, or ``"auto"`` for what :func:`truth_needed` says of these rows.
        rows: ``"all"``; ``"wrong"``: those that break the order of their hard label; ``"missed"``: those whose heaviest
            class is not in the image. The other rows come back bit for bit.

    Returns:
        The blended rows, ``(batch, classes)``.

    Raises:
        InputError: for values out of range, and shapes or devices that do not fit.

    Example:
        >>> mix = LabelMix.pair(torch.tensor([0]), torch.tensor([1]), 0.7)
        >>> blend_with_truth(torch.tensor([[0.2, 0.2, 0.6]]), mix, share=0.5)
        tensor([[0.4500, 0.2500, 0.3000]])
    """
    checked_auto_share("share", share)
    one_of("rows", rows, get_args(Rows))
    check_label_mix(label_mix, soft_labels, "soft_labels")
    if share == 0:
        return soft_labels
    weight = truth_needed(soft_labels, label_mix) if share == "auto" else share
    blended = torch.lerp(soft_labels, label_mix.dense(soft_labels.shape[1]).to(soft_labels.dtype), weight)
    if rows == "all":
        return blended
    chosen = violated_rows(soft_labels, label_mix) if rows == "wrong" else missed_rows(soft_labels, label_mix)
    return torch.where(chosen[:, None], blended, soft_labels)


def checked_auto_share(name: str, value: float | Literal["auto"]) -> float | Literal["auto"]:
    """Return ``value``, which must be a number from 0 to 1 or ``"auto"``."""
    if not isinstance(value, str):
        return checked_share(name, value)
    if value != "auto":
        raise InputError(f'{name}: expected a number from 0 to 1 or "auto", got {value!r}')
    return value


def truth_needed(values: Tensor, label_mix: LabelMix) -> Tensor:
    """Return the share of truth that a teacher's answers need, from how often it misses the very images it is shown.

    A row is missed if its top class is not in the image (:func:`missed_rows`). With m the rate of missed rows, over the
    rate at which guessing would miss, the share is m squared: 0 for a teacher that never misses, whose answers are best
    left alone, and 1 for one that guesses and adds nothing to the labels. Between these ends it is an empirical rule,
    with what it gained and lost in docs/evidence.md. Rows of all classes say nothing.

    Args:
        values: probabilities or logits of one batch or more, ``(batch, classes)``.
        label_mix: the hard label of every row.

    Returns:
        The share, from 0 to 1, a tensor without dimensions of the dtype and on the device of ``values``.

    Raises:
        InputError: for shapes or devices that do not fit.

    Example:
        >>> mix = LabelMix.pair(torch.tensor([0, 0]), torch.tensor([1, 1]), 0.7)
        >>> truth_needed(torch.tensor([[0.1, 0.1, 0.6, 0.1, 0.1], [0.1, 0.5, 0.2, 0.1, 0.1]]), mix)  # (1/2 : 3/5)^2
        tensor(0.6944)
    """
    missed = missed_rows(values, label_mix).to(values.dtype).mean()
    return share_of_truth(missed, 1 - label_mix.order().present.sum(1).to(values.dtype).mean() / values.shape[1])


def share_of_truth(missed: Tensor, by_guessing: Tensor) -> Tensor:
    """Return the share of truth for a rate of missed rows, and the rate at which guessing misses them."""
    return missed_over_guessing(missed, by_guessing).square()


def missed_over_guessing(missed: Tensor, by_guessing: Tensor) -> Tensor:
    """Return a rate of missed rows over that of guessing, at most 1; 0 where every row holds all classes."""
    return (missed / by_guessing.clamp_min(torch.finfo(by_guessing.dtype).eps)).clamp(max=1)


def missed_rows(values: Tensor, label_mix: LabelMix) -> Tensor:
    """Tell in which rows the largest value is of a class that is not in the image, bool ``(batch,)``.

    Args:
        values: probabilities or logits ``(batch, classes)``.
        label_mix: the hard label of every row.

    Example:
        >>> mix = LabelMix.pair(torch.tensor([0, 0]), torch.tensor([1, 1]), 0.7)
        >>> missed_rows(torch.tensor([[0.2, 0.2, 0.6], [0.2, 0.5, 0.3]]), mix)
        tensor([ True, False])
    """
    check_label_mix(label_mix, values, "values")
    order = label_mix.order()
    top = values.argmax(1, keepdim=True)
    return ~((order.labels == top) & order.present).any(1)


def isotonic_with_margin(
    soft_labels: Tensor, label_mix: LabelMix, margin: float, solver: Solver = "auto", validate: bool | None = None
) -> Tensor:
    """Repair soft labels so that their order holds with a margin: the share ``margin`` of the hard label's lead.

    The nearest probability vector q, in least squares, for which ``q - margin * hard_label`` respects the order and is
    nowhere negative: wherever the hard label gives a class more weight than another, by a gap g, q leads by
    ``margin * g`` at least. With r = q - margin * hard_label it is isotonic regression bounded from below by 0 at a
    fixed sum, and since clipping commutes with isotonic regression

        ``q = margin * hard_label + project(isotonic(p - margin * hard_label))``,

    where project goes to the simplex of mass ``1 - margin``. Margin 0 is :func:`isotonic_soft_labels`, margin 1 is
    the hard label.

    Args:
        soft_labels: probabilities ``(batch, classes)``, rows sum to 1.
        label_mix: see :func:`isotonic_soft_labels`.
        margin: from 0 to 1.
        solver: see :func:`isotonic_soft_labels`; every one will do.
        validate: see :func:`isotonic_soft_labels`.

    Returns:
        The repaired rows, ``(batch, classes)``. Rows that keep the margin come back bit for bit.

    Raises:
        InputError: as :func:`isotonic_soft_labels`, and for a margin out of range.

    Example:
        >>> mix = LabelMix.pair(torch.tensor([0]), torch.tensor([1]), 0.75)
        >>> isotonic_with_margin(torch.tensor([[0.25, 0.25, 0.5]]), mix, margin=0.5)
        tensor([[0.5417, 0.2917, 0.1667]])
    """
    checked_share("margin", margin)
    check_label_mix(label_mix, soft_labels, "soft_labels")
    if can_look(soft_labels, validate):
        probabilities("soft_labels", soft_labels, validate)
        label_mix.check_values(soft_labels.shape[1])
    if margin == 0:
        return isotonic_soft_labels(soft_labels, label_mix, solver, validate=False)
    # The kernel does all of it at once, but has no derivative for that.
    at_once = not (soft_labels.requires_grad and torch.is_grad_enabled())
    if solver == "auto":
        solver = choose(soft_labels, label_mix, "margin" if at_once else "plain")
    if solver == "triton" and at_once:
        from ida_lightning.isotonic.kernel.operators import triton_margin_solver

        return triton_margin_solver(soft_labels, label_mix, margin)
    lead = margin * label_mix.dense(soft_labels.shape[1]).to(soft_labels.dtype)
    above = soft_labels - lead
    ordered = isotonic_soft_labels(above, label_mix, solver, validate=False)
    rest = project_onto_simplex(ordered, 1 - margin)
    return torch.where((rest == above).all(1, keepdim=True), soft_labels, lead + rest)


def project_onto_simplex(values: Tensor, mass: float) -> Tensor:
    """Return the nearest rows, in least squares, that are nowhere negative and sum to ``mass``.

    Rows that are so already come back bit for bit, up to the rounding of their sum.

    Args:
        values: ``(batch, classes)`` that sum to ``mass``, up to rounding.
        mass: >= 0.

    Example:
        >>> project_onto_simplex(torch.tensor([[0.75, 0.25, -0.5]]), 0.5)
        tensor([[0.5000, 0.0000, 0.0000]])
    """
    float_matrix("values", values)
    non_negative("mass", mass)
    descending = values.sort(dim=1, descending=True).values
    count = torch.arange(1, values.shape[1] + 1, device=values.device, dtype=values.dtype)
    level = (descending.cumsum(1) - mass) / count
    kept = (descending > level).sum(1, keepdim=True).clamp(min=1)
    projected = (values - level.gather(1, kept - 1)).clamp_min(0)
    return torch.where((values < 0).any(1, keepdim=True), projected, values)


def exchange_values(soft_labels: Tensor, label_mix: LabelMix) -> Tensor:
    """Sort every row's own values into the order of its hard label: the heaviest class gets the largest value.

    Unlike the isotonic correction it makes no ties, and it keeps the row's entropy. Classes that the order does not
    rank among themselves keep their own order.

    Args:
        soft_labels: probabilities or logits ``(batch, classes)``.
        label_mix: the hard label of every row.

    Returns:
        ``(batch, classes)``; rows in order come back bit for bit.

    Raises:
        InputError: for shapes or devices that do not fit.

    Example:
        >>> mix = LabelMix.pair(torch.tensor([0]), torch.tensor([1]), 0.7)
        >>> exchange_values(torch.tensor([[0.2, 0.1, 0.3, 0.4]]), mix)
        tensor([[0.4000, 0.3000, 0.1000, 0.2000]])
    """
    check_label_mix(label_mix, soft_labels, "soft_labels")
    mix_labels, outside = addressable(label_mix.labels, soft_labels.shape[1])
    order = LabelMix(mix_labels, label_mix.weights).order()
    rest = order.labels.shape[1] + 1
    rank = torch.full_like(soft_labels, rest, dtype=torch.int64)
    # Absent entries repeat the first label, and write its rank again.
    labels, ranks = order.labels, torch.where(order.present, order.rank(), order.rank()[:, :1])
    rank.scatter_(1, labels, ranks)
    largest = soft_labels.sort(dim=1, descending=True, stable=True)
    by_rank = rank.gather(1, largest.indices).sort(dim=1, stable=True)
    exchanged = torch.empty_like(soft_labels)
    return nan_rows(exchanged.scatter_(1, largest.indices.gather(1, by_rank.indices), largest.values), outside)
