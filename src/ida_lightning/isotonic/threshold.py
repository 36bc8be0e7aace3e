"""Exact isotonic correction by running means: vectorised PyTorch, any device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ida_lightning.isotonic.backward import isotonic_vjp
from ida_lightning.label_mix import LabelMix, LabelOrder, tie_tolerance

# How many of a row's largest rest values are looked at first. A trained teacher seldom lifts more classes than
# this above the ones in the picture; the certificate notices when it does.
_TOP = 8
# Long rows are searched in pieces of this length.
_PIECE = 128


def threshold_solver(values: Tensor, label_mix: LabelMix) -> Tensor:
    r"""Nearest row, in least squares, that respects the order of a mixed label.

    Solves, per row p, ``min sum_k (m_k - p_k)^2`` subject to ``m_u >= m_v`` whenever class u outranks class v.

    Put the ranked classes first (within a tie the larger value first, Kruskal's primary approach) and the rest
    behind them in descending order: the problem becomes isotonic regression of a sequence, whose solution is
    ``m_i = min_{a <= i} max_{b >= i} mean(p_a ... p_b)``. Starts a in the rest never bind above the last ranked
    class, so there are only k of them, and rest class j simply becomes ``min(p_j, level)`` with ``level`` the value of
    the last ranked class. The ends b need only reach as far as the rest exceeds ``level``: if the smallest value
    looked at is not above it, the classes that were not looked at cannot matter. Rows that fail this certificate
    are finished by Newton's method on ``count * (v - mean) = sum_rest relu(p - v)``, from the level found so far: it
    climbs, drops classes and stops, exactly, when it drops none.

    On the CPU the cost is a partial sort and one pass; a compiled graph holds it as one operator, because the fallback
    depends on the data. On an accelerator it is a full sort, because acting on the certificate would make the host
    wait.

    Args:
        values: float32 or float64 ``(batch, classes)``.
        label_mix: ``(batch, k)``; k <= 2 has a path of its own with fewer operations.

    Returns:
        The corrected rows, ``(batch, classes)``. Rows that already respect the order come back bit for bit.
        The result respects the order exactly, not only up to rounding, and applying it twice changes nothing.

    References:
        Min-max formula: Robertson, Wright, Dykstra, Order Restricted Statistical Inference (1988), section 1.4.
        The order of mixed labels: Cui and Yan, IJCAI 2021 (arXiv 2107.01412).
    """
    if torch.compiler.is_compiling() and values.device.type == "cpu":
        corrected: Tensor = _threshold_op(values, *label_mix)
        return corrected
    if values.numel() == 0:
        return values.clone()
    if label_mix.labels.shape[1] == 1:
        label_mix = LabelMix(label_mix.labels.expand(-1, 2), F.pad(label_mix.weights, (0, 1)))
    if label_mix.labels.shape[1] == 2:
        return _solve_pairs(values, label_mix)
    return _solve_chains(values, label_mix.order())


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


def _top_size(values: Tensor, ranked: int) -> int:
    """Return how many values to look at so that at least one rest value is among them."""
    classes = values.shape[1]
    if values.device.type != "cpu":
        return classes
    return min(_TOP + ranked, classes)


def _largest(values: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Return the ``size`` largest values per row, descending, and their classes."""
    classes = values.shape[1]
    if classes < 4 * _PIECE * size or values.device.type != "cpu":
        return torch.topk(values, size, dim=1)
    # Long rows: the largest values lie in the pieces with the largest maxima. One cheap pass finds those.
    whole = classes - classes % _PIECE
    pieces = values[:, :whole].view(len(values), -1, _PIECE)
    best = pieces.amax(2).topk(size, dim=1).indices
    candidates = pieces[torch.arange(len(values))[:, None], best].flatten(1)
    top, where = torch.cat((candidates, values[:, whole:]), 1).topk(size, dim=1)
    in_piece = best.gather(1, (where // _PIECE).clamp_max(size - 1)) * _PIECE + where % _PIECE
    return top, torch.where(where < size * _PIECE, in_piece, where - size * _PIECE + whole)


def _solve_pairs(values: Tensor, label_mix: LabelMix) -> Tensor:
    """At most two ranked classes per row: two levels, one for the second class alone and one for both."""
    # Small operations are what this costs on small rows: everything per row stays (batch, 1).
    mix_values = values.gather(1, label_mix.labels)
    weights = label_mix.weights if label_mix.weights.dtype.itemsize >= 4 else label_mix.weights.float()
    (label_0, label_1), (own_0, own_1), (weight_0, weight_1) = (
        (pair[:, :1], pair[:, 1:]) for pair in (label_mix.labels, mix_values, weights)
    )
    alone = (label_0 == label_1) | (torch.minimum(weight_0, weight_1) <= 0)
    # The rule of LabelOrder without its sorting: the heavier class goes first and, in a tie, the larger value. The
    # number below -tie makes the comparison one of "at least"; it is the next one in float32.
    tie = tie_tolerance(label_mix.weights)
    swap = weight_1 - weight_0 > torch.where(own_1 > own_0, -tie * (1 + 2**-23), tie)
    # A class that is alone stands in both places.
    first_label, first = torch.where(swap, label_1, label_0), torch.where(swap, own_1, own_0)
    other = swap ^ alone
    second_label, second = torch.where(other, label_0, label_1), torch.where(other, own_0, own_1)

    top, classes_of = _largest(values, _top_size(values, 2))
    is_rest = (classes_of != first_label) & (classes_of != second_label)
    rest = torch.where(is_rest, top, 0).cumsum(1)
    counts = is_rest.cumsum(1)
    floor = top[:, -1:]
    exceeded = torch.where(is_rest, top, floor).amax(1, keepdim=True) > second

    # Two blocks that the rest may join: the second class, and both (which is one class where it is alone).
    base = torch.cat((second, torch.where(alone, first, first + second)), 1)
    base_count = 1 + torch.cat((torch.zeros_like(alone), ~alone), 1).to(values.dtype)
    means = (base[:, :, None] + rest[:, None, :]) / (base_count[:, :, None] + counts[:, None, :])
    levels = torch.maximum(base / base_count, means.amax(2))
    if top.shape[1] < values.shape[1]:
        unsure = (levels < floor).any(1).nonzero().squeeze(1)
        if len(unsure):
            labels = torch.cat((first_label, second_label), 1)[unsure]
            unranked = values[unsure].scatter_(1, labels, -torch.inf)
            levels[unsure] = _newton(unranked, base[unsure], base_count[unsure], levels[unsure])
    level_second, level_both = levels[:, :1], levels[:, 1:]

    # Rounding of the means must not touch what already is in order.
    level_second = torch.where(exceeded, level_second, second)
    joins = torch.where(alone, exceeded, level_second > first)
    level = torch.where(joins, level_both, level_second)
    corrected = torch.minimum(values, level)
    corrected.scatter_(1, second_label, level)
    return corrected.scatter_(1, first_label, torch.where(joins, level_both, first))


def _newton(rest: Tensor, base: Tensor, base_count: Tensor, level: Tensor) -> Tensor:
    """Largest means of blocks joined by the largest of the rest, from lower bounds of them and over whole rows.

    The blocks are ``(rows, blocks)``; the ranked classes of ``rest``, ``(rows, classes)``, must be -inf.

    Every step takes the classes above the level and moves it to their mean with the base. The level climbs, so the
    classes above it only become fewer: it ends when their number no longer changes, after 3 to 10 steps on rows
    of a classifier, and after at most as many as there are classes.
    """
    count = torch.full_like(base, -1)
    while True:
        above = rest[:, None, :] > level[:, :, None]
        now = above.to(rest.dtype).sum(2)
        joined = torch.where(above, rest[:, None, :], 0).sum(2)
        level = torch.maximum(level, (base + joined) / (base_count + now))
        if torch.equal(now, count):
            return level
        count = now


def _solve_chains(values: Tensor, order: LabelOrder) -> Tensor:
    """Any number of ranked classes, by the min-max formula over the ranked starts."""
    classes, ranked = values.shape[1], order.labels.shape[1]
    size = _top_size(values, ranked)
    if size <= ranked:  # no rest value would be certain to be looked at
        size = classes
    mix_values, level, certified = _chain_levels(values, order, size)
    if size < classes and not bool(certified.all()):
        rows = (~certified).nonzero().squeeze(1)
        rescued = _chain_levels(values[rows], LabelOrder(*(field[rows] for field in order)), classes)
        mix_values, level = mix_values.index_copy(0, rows, rescued[0]), level.index_copy(0, rows, rescued[1])
    return torch.minimum(values, level).scatter_(1, order.labels, mix_values)


def _chain_levels(values: Tensor, order: LabelOrder, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """Solve for the ranked classes from the ``size`` largest values of each row.

    Returns:
        The corrected values of ``order.labels`` ``(batch, k)``, the level that caps the rest ``(batch, 1)``, and
        whether the classes not looked at are known not to matter ``(batch,)``.
    """
    labels, _, present, _ = order
    mix_values = values.gather(1, labels)
    within_ties = _tie_order(mix_values, order)
    mix_values = mix_values.gather(1, within_ties)

    top, classes_of = torch.topk(values, size, dim=1)
    is_rest = (classes_of[:, :, None] != labels[:, None, :]).all(2)
    floor = top[:, -1:]
    rest_top = torch.where(is_rest, top, floor).amax(1, keepdim=True)

    # An entry that is absent, or a ranked class met again among the largest, counts for nothing.
    counts = torch.cat((present, is_rest), 1).to(values.dtype)
    sequence = torch.where(counts > 0, torch.cat((mix_values, top), 1), 0)

    ranked = labels.shape[1]
    bounds: list[Tensor] = []
    for start in range(ranked):
        means = sequence[:, start:].cumsum(1) / counts[:, start:].cumsum(1).clamp_min(1)
        best = means.flip(1).cummax(1).values.flip(1)[:, : ranked - start]
        # An absent start bounds nobody; what stands before a start is not bounded by it.
        best = torch.where(present[:, start : start + 1], best, torch.inf)
        bounds.append(F.pad(best, (start, 0), value=torch.inf))
    solved = torch.stack(bounds).amin(0)

    # Rounding of the means must not touch what already is in order.
    descends = (mix_values[:, :-1] >= mix_values[:, 1:]) | ~present[:, 1:]
    last = (present.sum(1, keepdim=True) - 1).clamp_min(0)
    in_order = descends.all(1, keepdim=True) & (mix_values.gather(1, last) >= rest_top)
    solved = torch.where(in_order, mix_values, solved)

    level = solved.gather(1, last)
    certified = (level >= floor).squeeze(1)
    # Absent entries carry the first label, so they must carry the first label's value too.
    unsorted = solved.scatter(1, within_ties, solved)
    unsorted = torch.where(present, unsorted, unsorted[:, :1])
    return unsorted, level, certified


def _tie_order(mix_values: Tensor, order: LabelOrder) -> Tensor:
    """Return positions ``(batch, k)`` that put the larger value first inside every tie and move nothing else."""
    by_value = mix_values.argsort(dim=1, descending=True, stable=True)
    by_group = order.rank().gather(1, by_value).argsort(dim=1, stable=True)
    return by_value.gather(1, by_group)
