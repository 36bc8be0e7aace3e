"""The answers of several teachers, or to several images, as one: averages, row by row, and trust in each teacher."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor

from ida_lightning.errors import InputError, float_matrix, floats_like, kind_of, one_of, positive
from ida_lightning.inputs import rows_in
from ida_lightning.isotonic import isotonic_soft_labels
from ida_lightning.label_mix import LabelMix, check_label_mix
from ida_lightning.metrics import moved_mass
from ida_lightning.mixing import PlainImages

Average = Literal["probabilities", "logits"]


def blend_answers(
    logits: Sequence[Tensor],
    weights: Tensor | Sequence[float] | None = None,
    temperature: float = 4.5,
    average: Average = "probabilities",
) -> Tensor:
    """Return logits that stand for the weighted average of several answers to the same images.

    The average of probabilities comes back as logits, too: ``T log sum_i w_i softmax(z_i / T)``, whose soft label at T
    is the average, so that whatever follows (corrections, losses, storage) takes it for the answer of one teacher.

    Args:
        logits: one ``(batch, classes)`` for every teacher.
        weights: ``(teachers,)``, or ``(teachers, batch)`` for weights of every row; >= 0 and not all 0, made to sum to
            1. None counts all alike.
        temperature: T of the soft labels.
        average: ``"probabilities"`` of softmax(z / T), or ``"logits"``: the geometric mean of these, made to sum to 1.

    Returns:
        ``(batch, classes)``.

    Raises:
        InputError: for no answers, answers of different shapes, weights of another shape, negative or all 0, and
            values out of range.

    Example:
        >>> answers = [torch.tensor([[0.0, 4.0]]), torch.tensor([[4.0, 0.0]])]
        >>> blend_answers(answers, [3.0, 1.0], temperature=2.0).div(2.0).softmax(1)
        tensor([[0.3096, 0.6904]])
    """
    if not isinstance(logits, (list, tuple)) or not logits:
        raise InputError(f"logits: expected a list of one or more (batch, classes), got {kind_of(logits)}")
    float_matrix("logits[0]", logits[0])
    for number, other in enumerate(logits[1:], start=1):
        floats_like(f"logits[{number}]", other, "logits[0]", logits[0])
    positive("temperature", temperature)
    one_of("average", average, get_args(Average))
    return _average(torch.stack(list(logits)), _normal(weights, logits), temperature, average)


def _average(stacked: Tensor, weights: Tensor, temperature: float, average: Average) -> Tensor:
    """Average over the first dimension of ``(answers, rows, classes)`` with weights ``(answers, rows or 1)``."""
    if average == "logits":
        return (weights[:, :, None] * stacked).sum(0)
    logs = (stacked / temperature).log_softmax(2) + weights.log()[:, :, None]
    return temperature * logs.logsumexp(0)


def _normal(weights: Tensor | Sequence[float] | None, logits: Sequence[Tensor]) -> Tensor:
    first, rows = logits[0], len(logits[0])
    if weights is None:
        return first.new_full((len(logits), 1), 1 / len(logits))
    if not isinstance(weights, Tensor):
        try:
            weights = torch.tensor(weights, dtype=first.dtype)
        except (TypeError, ValueError, RuntimeError, OverflowError) as error:
            raise InputError(f"weights: expected numbers, one for every teacher, got {kind_of(weights)}") from error
    if weights.shape not in ((len(logits),), (len(logits), rows)) or not weights.is_floating_point():
        wanted = f"floating point ({len(logits)},) or ({len(logits)}, {rows})"
        raise InputError(f"weights: expected {wanted}, for every teacher, got {kind_of(weights)}")
    if weights.device.type == "cpu":
        sums = weights.sum(0)
        if not bool(weights.isfinite().all()) or bool((weights < 0).any()) or bool((sums <= 0).any()):
            raise InputError(f"weights: expected numbers >= 0, not all 0, got {weights.flatten().tolist()[:8]}")
    weights = weights.reshape(len(logits), -1).to(first)
    return weights / weights.sum(0)


def trust_by_order(logits: Sequence[Tensor], label_mix: LabelMix, temperature: float = 4.5) -> Tensor:
    """Weigh every teacher on every row by how well it keeps the order of the row's label.

    The weight is the share of its soft label that the isotonic correction would leave where it is: 1 for an answer in
    order, less the more mass would have to be moved. Rows that are NaN or infinite have weight 1: they spoil the blend,
    which is noticed there.

    Args:
        logits: one ``(batch, classes)`` for every teacher.
        label_mix: of the rows.
        temperature: T of the soft labels.

    Returns:
        ``(teachers, batch)``, from 0 to 1, for :func:`blend_answers`.

    Raises:
        InputError: for no answers, a label mix that does not describe them, and a temperature out of range.

    Example:
        >>> answers = [torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]])]
        >>> mix = LabelMix.pair(torch.tensor([0]), torch.tensor([1]), 0.7)
        >>> trust_by_order(answers, mix, temperature=1.0)
        tensor([[1.0000],
                [0.6192]])
    """
    if not isinstance(logits, (list, tuple)) or not logits:
        raise InputError(f"logits: expected a list of one or more (batch, classes), got {kind_of(logits)}")
    positive("temperature", temperature)
    weights = []
    for number, answer in enumerate(logits):
        float_matrix(f"logits[{number}]", answer)
        check_label_mix(label_mix, answer, f"logits[{number}]")
        soft = finite_or_zero(answer).div(temperature).softmax(1)
        weights.append(1 - moved_mass(soft, isotonic_soft_labels(soft, label_mix)).to(answer.dtype))
    return torch.stack(weights).clamp_min(torch.finfo(torch.float32).tiny)


def in_order(logits: Tensor, label_mix: LabelMix, temperature: float = 4.5) -> Tensor:
    """Return logits whose soft label at T is the isotonic correction of the one given.

    Args:
        logits: ``(batch, classes)``; rows that are NaN or infinite stay.
        label_mix: of the rows.
        temperature: T of the soft labels.

    Raises:
        InputError: for logits of another kind, a label mix that does not describe them, and a temperature out of range.

    Example:
        >>> mix = LabelMix.pair(torch.tensor([0]), torch.tensor([1]), 0.7)
        >>> in_order(torch.tensor([[0.0, 2.0, -9.0]]), mix, temperature=2.0).div(2.0).softmax(1)
        tensor([[0.4985, 0.4985, 0.0030]])
    """
    float_matrix("logits", logits)
    check_label_mix(label_mix, logits, "logits")
    positive("temperature", temperature)
    soft = finite_or_zero(logits).div(temperature).softmax(1)
    corrected = isotonic_soft_labels(soft, label_mix)
    moved = (corrected != soft).any(1, keepdim=True) & torch.isfinite(logits).all(1, keepdim=True)
    lowest = torch.finfo(corrected.dtype).tiny
    return torch.where(moved, temperature * corrected.clamp_min(lowest).log(), logits)


def blend_plain(
    logits: Tensor, plain: PlainImages, temperature: float = 4.5, average: Average = "probabilities"
) -> Tensor:
    """Return the answers to mixed images that follow from those to the unmixed ones: averages by the labels' weights.

    Args:
        logits: to the unmixed images, ``(images, classes)``.
        plain: how every mixed row was made of them; see ``MixedBatch.plain``.
        temperature: T of the soft labels.
        average: see :func:`blend_answers`.

    Returns:
        ``(batch, classes)``.

    Raises:
        InputError: for logits of other images, and values out of range.
    """
    if not isinstance(plain, PlainImages):
        raise InputError(f"plain: expected PlainImages, got {kind_of(plain)}")
    rows = rows_in(plain.batch.inputs)
    if len(float_matrix("logits", logits)) != rows:
        raise InputError(f"logits: expected the {rows} rows of plain.batch, got {kind_of(logits)}")
    positive("temperature", temperature)
    one_of("average", average, get_args(Average))
    return _average(logits[plain.rows.T], plain.weight.T.to(logits), temperature, average)


def finite_or_zero(logits: Tensor) -> Tensor:
    """Return logits with rows that are NaN or infinite made 0, which no solver would take."""
    return torch.where(torch.isfinite(logits).all(1, keepdim=True), logits, 0)
