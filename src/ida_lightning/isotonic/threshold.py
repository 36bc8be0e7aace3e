"""Exact isotonic correction by running means and a climbing level: vectorised PyTorch, any device."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from ida_lightning.addressing import addressable, nan_rows
from ida_lightning.errors import is_plain
from ida_lightning.isotonic.backward import isotonic_vjp
from ida_lightning.isotonic.level import FloatArray, climb, first_level, largest
from ida_lightning.label_mix import LabelMix, LabelOrder, tie_tolerance

# How many of a row's largest values are looked at first, beside the ranked classes. A trained teacher seldom lifts more
# classes than this above the ones in the picture; the certificate notices when it does.
_TOP = 8
# Rows up to this long are searched as they are: a copy without the ranked classes would cost more.
_SHORT = 32


def threshold_solver(values: Tensor, label_mix: LabelMix) -> Tensor:
    r"""Nearest row, in least squares, that respects the order of a mixed label.

    Solves, per row p, ``min sum_k (m_k - p_k)^2`` subject to ``m_u >= m_v`` whenever class u outranks class v.

    Put the ranked classes first (within a tie the larger value first, Kruskal's primary approach) and the rest
    behind them in descending order: the problem becomes isotonic regression of a sequence. The ranked classes alone are
    a short chain with a solution q; the rest then asks for one number more, the level v at which what is taken from it
    is what the chain needs: ``sum_rest relu(p_j - v) = sum_i relu(v - q_i)``. Ranked classes become ``max(q_i, v)`` and
    the others ``min(p_j, v)``.

    The level is the least, over the ranked starts, of the largest running mean from there into the rest. Only the rest
    above it counts, so a few of the largest values give a lower bound of it, and the level itself if the smallest of
    them is not above it. Rows that fail this certificate are finished by Newton's method on the equation, from
    the bound (:func:`~ida_lightning.isotonic.level.climb`).

    On the CPU the cost is a partial sort and one pass, one pass alone where all rows are in order, and some passes
    over the rows that fail the certificate; a compiled graph holds it as one operator, because this depends on the
    data. On an accelerator it is a full sort, because acting on the data would make the host wait.

    Args:
        values: float32 or float64 ``(batch, classes)``.
        label_mix: ``(batch, k)``; k <= 2 has fewer operations. Labels out of range are never addressed: on an
            accelerator, where nobody looks, they make their row NaN.

    Returns:
        The corrected rows, ``(batch, classes)``. Rows that already respect the order come back bit for bit.
        The result respects the order exactly, not only up to rounding, and applying it twice changes nothing.

    References:
        Min-max formula: Robertson, Wright, Dykstra, Order Restricted Statistical Inference (1988), section 1.4.
        The order of mixed labels: Cui and Yan, IJCAI 2021 (arXiv 2107.01412).
    """
    if values.device.type == "cpu" and (torch.compiler.is_compiling() or not is_plain(values, *label_mix)):
        corrected: Tensor = _threshold_op(values, *label_mix)
        return corrected
    if values.numel() == 0:
        return values.clone()
    labels, outside = addressable(label_mix.labels, values.shape[1])
    return nan_rows(_solve(values, LabelMix(labels, label_mix.weights)), outside)


def _solve(values: Tensor, label_mix: LabelMix) -> Tensor:
    if label_mix.labels.shape[1] > 2:
        return _solve_chains(values, label_mix.order())
    return _solve_pairs(values, label_mix)


@torch.library.custom_op("ida_lightning::threshold", mutates_args=())
def _threshold_op(values: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    return threshold_solver(values, LabelMix(labels, weights))


@_threshold_op.register_fake
def _(values: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    return torch.empty_like(values, memory_format=torch.contiguous_format)


def _save(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs, output)


def _backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    values, labels, weights, corrected = ctx.saved_tensors
    return isotonic_vjp(grad, values, corrected, LabelMix(labels, weights)), None, None


_threshold_op.register_autograd(_backward, setup_context=_save)


def _solve_pairs(values: Tensor, label_mix: LabelMix) -> Tensor:
    """At most two ranked classes per row."""
    labels, weights = label_mix
    if labels.shape[1] == 1:
        labels, weights = labels.expand(-1, 2), F.pad(weights, (0, 1))
    if weights.dtype.itemsize < 4:
        weights = weights.float()
    on_cpu, tie = values.device.type == "cpu", tie_tolerance(label_mix.weights)
    if not on_cpu or not float(weights.amin()) > 0:  # a class that is alone stands in both places
        labels = torch.where(weights > 0, labels, labels.flip(1))
    if on_cpu:
        return _solve_pairs_on_cpu(values.detach(), labels, weights, tie)
    mix_values = values.gather(1, labels)
    own_0, own_1 = mix_values[:, :1], mix_values[:, 1:]
    alone = labels[:, :1] == labels[:, 1:]
    # The rule of LabelOrder without its sorting: the heavier class goes first and, in a tie, the larger value.
    side = F.hardshrink(weights[:, :1] - weights[:, 1:], tie).sign_()
    reversed_pair = side * own_0 < side * own_1
    chain = torch.where(reversed_pair, mix_values.sum(1, keepdim=True) / 2, mix_values)
    return _solve_rest(values, labels, mix_values, chain, torch.cat((torch.ones_like(alone), ~alone), 1))


def _solve_pairs_on_cpu(values: Tensor, labels: Tensor, weights: Tensor, tie: float) -> Tensor:
    """Pairs by two levels: one for the second class alone and one for both.

    In short rows the cost is the number of operators and not what they do, so it is in NumPy, whose operators cost a
    third of PyTorch's to call. Numbers of a row are ``(batch,)``, what belongs to the largest values ``(size, batch)``.
    """
    own_0, own_1 = mix_values = np.ascontiguousarray(values.gather(1, labels).numpy().T)
    (label_0, label_1), (weight_0, weight_1) = labels.numpy().T, weights.numpy().T
    alone, ahead = label_0 == label_1, weight_0 - weight_1
    # The rule of LabelOrder without its sorting: the heavier class goes first and, in a tie, the larger value.
    reversed_pair = ((ahead > tie) & (own_0 < own_1)) | ((ahead < -tie) & (own_1 < own_0))
    lower, higher = np.minimum(own_0, own_1), np.maximum(own_0, own_1)
    first, second = np.where(reversed_pair, lower, higher), np.where(reversed_pair, higher, lower)
    both = own_0 + own_1
    short = values.shape[1] <= _SHORT
    if short:
        found = torch.topk(values, min(_TOP + 2, values.shape[1]), dim=1)
        top, classes_of = (np.ascontiguousarray(part.numpy().T) for part in found)
        is_rest = (classes_of != label_0) & (classes_of != label_1)
        exceeded = np.where(is_rest, top, top[-1]).max(0) > second
    else:
        corrected = values.clone(memory_format=torch.contiguous_format).scatter_(1, labels, -torch.inf)
        exceeded = corrected.amax(1).numpy() > second
    wrong = exceeded | reversed_pair
    if not wrong.any():
        return values.clone() if short else corrected.scatter_(1, labels, torch.from_numpy(mix_values).T)
    if not short:
        top = np.ascontiguousarray(largest(corrected, _TOP).T)
        is_rest = np.ones_like(top, dtype=bool)

    level_second, level_both = _running_means(top, is_rest, second, both)
    if short and len(top) < values.shape[1]:
        unsure = (level_second < top[-1]) | ((level_both < top[-1]) & ~alone)
        if unsure.any():
            rows = torch.from_numpy(unsure.nonzero()[0])
            unranked = values[rows].scatter_(1, labels[rows], -torch.inf)
            level_second[unsure] = _newton(unranked, second[unsure], 1, level_second[unsure])
            level_both[unsure] = _newton(unranked, both[unsure], 2, level_both[unsure])
    # Rounding of the means must not touch what already is in order.
    level_second = np.where(exceeded, level_second, second)
    joins = level_second > first
    level = np.where(joins & ~alone, level_both, level_second)
    if short:
        solved = np.where(joins, level, np.maximum(mix_values, level))
        result = torch.minimum(values, torch.from_numpy(level)[:, None])
        return result.scatter_(1, labels, torch.from_numpy(solved).T)
    chain = np.where(reversed_pair, both / 2, mix_values)
    unsure = wrong & (level < top[-1])
    if unsure.any():
        chain[1, alone] = np.inf
        level[unsure] = climb(corrected, unsure.nonzero()[0], chain, np.maximum(level, lower))
        chain[1, alone] = chain[0, alone]
    solved = np.maximum(chain, level)
    torch.minimum(corrected, torch.from_numpy(level)[:, None], out=corrected)
    return corrected.scatter_(1, labels, torch.from_numpy(solved).T)


def _running_means(
    top: FloatArray, is_rest: npt.NDArray[np.bool_], second: FloatArray, both: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Return the largest mean of the second class, and of both, with the first of the rest: each ``(batch,)``."""
    counts, joined = is_rest.astype(top.dtype), np.multiply(top, is_rest, dtype=np.float64)
    for sums in (counts, joined):  # NumPy's own running sum goes along the rows that lie far apart
        for row, before in zip(sums[1:], sums[:-1], strict=True):
            row += before
    joined = joined.astype(top.dtype)
    return ((second + joined) / (1 + counts)).max(0), ((both + joined) / (2 + counts)).max(0)


def _newton(rest: Tensor, base: FloatArray, base_count: int, level: FloatArray) -> FloatArray:
    """Largest mean of a block of sum ``base`` joined by the largest of the rest, from a lower bound, over whole rows.

    The blocks are ``(rows,)``; the ranked classes of ``rest``, ``(rows, classes)``, must be -inf. Every step takes
    the classes above the level and moves it to their mean with the base. The level climbs, so they only become fewer.
    """
    before = np.full_like(base, np.inf)
    while True:
        above = rest > torch.from_numpy(level)[:, None]
        count = above.sum(1).numpy()
        joined = torch.where(above, rest, 0).sum(1).numpy()
        level = np.maximum(level, (base + joined) / (base_count + count).astype(base.dtype))
        if not (count < before).any():
            return level
        before = count


def _solve_chains(values: Tensor, order: LabelOrder) -> Tensor:
    """Any number of ranked classes."""
    labels, present = order.labels, order.present
    mix_values = values.gather(1, labels)
    within_ties = _tie_order(mix_values, order)
    sequence = mix_values.gather(1, within_ties)
    descends = ((sequence[:, :-1] >= sequence[:, 1:]) | ~present[:, 1:]).all(1, keepdim=True)
    pooled = torch.where(descends, sequence, _pooled(sequence, present))
    chain = torch.empty_like(pooled).scatter_(1, within_ties, pooled)
    return _solve_rest(values, labels, mix_values, chain, present)


def _tie_order(mix_values: Tensor, order: LabelOrder) -> Tensor:
    """Return positions ``(batch, k)`` that put the larger value first inside every tie and move nothing else."""
    by_value = mix_values.argsort(dim=1, descending=True, stable=True)
    by_group = order.rank().gather(1, by_value).argsort(dim=1, stable=True)
    return by_value.gather(1, by_group)


def _pooled(sequence: Tensor, present: Tensor) -> Tensor:
    """Solve for the ranked classes alone: ``min over starts a <= i of max over ends b >= i of mean(a ... b)``."""
    # Entry (a, b) is the mean from a to b; an absent entry at the end adds nothing to it.
    counts = present.to(sequence.dtype)
    total = (sequence * counts)[:, None, :].expand(-1, sequence.shape[1], -1).triu().cumsum(2)
    means = total / counts[:, None, :].expand_as(total).triu().cumsum(2).clamp_min(1)
    highest = means.flip(2).cummax(2).values.flip(2)
    # What stands before a start is not bounded by it.
    before = torch.ones_like(highest[0], dtype=torch.bool).tril(-1)
    return highest.masked_fill(before, torch.inf).amin(1)


def _solve_rest(
    values: Tensor, labels: Tensor, mix_values: Tensor, chain: Tensor, present: Tensor | None = None
) -> Tensor:
    """Correct rows from the solution of their ranked classes alone.

    Args:
        values: ``(batch, classes)``.
        labels: ``(batch, k)``, the ranked classes; where an entry is absent, the first one again.
        mix_values: their values, and
        chain: their values corrected among themselves, in the places of ``labels``.
        present: None where all are.
    """
    looks = values.device.type == "cpu"
    # An absent class asks for nothing.
    kept = chain if present is None else torch.where(present, chain, torch.inf)
    lowest = kept.amin(1, keepdim=True)
    corrected = values.clone(memory_format=torch.contiguous_format).scatter_(1, labels, -torch.inf)
    rest_top = corrected.amax(1, keepdim=True)
    exceeded = rest_top > lowest
    if looks:
        wrong = exceeded | (chain != mix_values).any(1, keepdim=True)
        if not bool(wrong.any()):
            return corrected.scatter_(1, labels, mix_values)
    level, certain = first_level(corrected, kept, _TOP)
    if looks:
        rows = (exceeded & ~certain)[:, 0].nonzero()[:, 0]
        if len(rows):
            found = climb(corrected, rows.numpy(), kept.numpy().T, level.numpy()[:, 0])
            level[rows] = torch.from_numpy(found)[:, None]
    # Rounding of the means must not touch what already is in order.
    level = torch.where(exceeded, level, lowest)
    solved = torch.maximum(chain, level)
    if present is not None:
        solved = torch.where(present, solved, solved[:, :1])
    return torch.minimum(corrected, level, out=corrected).scatter_(1, labels, solved)
