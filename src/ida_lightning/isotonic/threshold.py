"""Exact isotonic correction by running means and a climbing level: vectorised PyTorch, any device."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from ida_lightning.addressing import addressable, nan_rows
from ida_lightning.errors import is_plain
from ida_lightning.isotonic.backward import isotonic_vjp
from ida_lightning.isotonic.level import level_below, summable
from ida_lightning.isotonic.on_cpu import solve_on_cpu
from ida_lightning.label_mix import LabelMix, LabelOrder, tie_tolerance


def threshold_solver(values: Tensor, label_mix: LabelMix) -> Tensor:
    r"""Nearest row, in least squares, that respects the order of a mixed label.

    Solves, per row p, ``min sum_k (m_k - p_k)^2`` subject to ``m_u >= m_v`` whenever class u outranks class v.

    Put the ranked classes first (within a tie the larger value first, Kruskal's primary approach) and the rest
    behind them in descending order: the problem becomes isotonic regression of a sequence. The ranked classes alone are
    a short chain with a solution q; the rest then asks for one number more, the level v at which what is taken from it
    is what the chain needs: ``sum_rest relu(p_j - v) = sum_i relu(v - q_i)``. Ranked classes become ``max(q_i, v)`` and
    the others ``min(p_j, v)``.

    The level is the least, over the ranked starts, of the largest running mean from there into the rest. Only the rest
    above it counts, and a few of the largest values give a lower bound of it. On the CPU what is above that bound is
    taken out and sorted; rows in which that is still much are finished by Newton's method on the equation, from the
    bound (:func:`~ida_lightning.isotonic.level.climb`).

    So the cost on the CPU is two passes and some thirty small operations, one pass where all rows are in order, and
    some passes more for flat rows; a compiled graph holds it as one operator, because this depends on the data. On an
    accelerator it is a full sort, because acting on the data would make the host wait.

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
    if outside is None:
        return _solve(values, label_mix)
    return nan_rows(_solve(values, LabelMix(labels, label_mix.weights)), outside)


def _solve(values: Tensor, label_mix: LabelMix) -> Tensor:
    return (solve_on_cpu if values.device.type == "cpu" else solve_by_sorting)(values.detach(), label_mix)


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


def solve_by_sorting(values: Tensor, label_mix: LabelMix) -> Tensor:
    """Solve with a full sort and without a look at the data: on an accelerator the host must not wait.

    Args:
        values: ``(batch, classes)``.
        label_mix: ``(batch, k)``, labels in range.
    """
    if label_mix.labels.shape[1] > 2:
        labels, chain, present = _solve_chains(values, label_mix.order())
    else:
        labels, chain, present = _solve_pairs(values, label_mix)
    # An absent class asks for nothing.
    kept = torch.where(present, chain, torch.inf)
    lowest = kept.amin(1, keepdim=True)
    corrected = values.clone(memory_format=torch.contiguous_format).scatter_(1, labels, -torch.inf)
    rest = corrected.sort(dim=1, descending=True).values
    # Rounding of the means must not touch what already is in order.
    level = torch.where(rest[:, :1] > lowest, level_below(rest, kept), lowest)
    solved = torch.maximum(chain, level)
    solved = torch.where(present, solved, solved[:, :1])
    return torch.minimum(corrected, level, out=corrected).scatter_(1, labels, solved)


def _solve_pairs(values: Tensor, label_mix: LabelMix) -> tuple[Tensor, Tensor, Tensor]:
    """Solve for at most two ranked classes alone: their labels, their values, and which of them are present."""
    labels, weights = label_mix
    if labels.shape[1] == 1:
        labels, weights = labels.expand(-1, 2), F.pad(weights, (0, 1))
    weights = weights.to(torch.promote_types(weights.dtype, torch.float32))
    labels = torch.where(weights > 0, labels, labels.flip(1))  # a class that is alone stands in both places
    mix_values = values.gather(1, labels)
    own_0, own_1 = mix_values[:, :1], mix_values[:, 1:]
    alone = labels[:, :1] == labels[:, 1:]
    # The rule of LabelOrder without its sorting: the heavier class goes first and, in a tie, the larger value.
    side = F.hardshrink(weights[:, :1] - weights[:, 1:], tie_tolerance(label_mix.weights)).sign_()
    reversed_pair = side * own_0 < side * own_1
    chain = torch.where(reversed_pair, (mix_values / 2).sum(1, keepdim=True), mix_values)
    return labels, chain, torch.cat((torch.ones_like(alone), ~alone), 1)


def _solve_chains(values: Tensor, order: LabelOrder) -> tuple[Tensor, Tensor, Tensor]:
    """Solve for any number of ranked classes alone: their labels, their values, and which of them are present."""
    labels, present = order.labels, order.present
    mix_values = values.gather(1, labels)
    # The larger value first inside every tie.
    by_value = mix_values.argsort(dim=1, descending=True, stable=True)
    within_ties = by_value.gather(1, order.rank().gather(1, by_value).argsort(dim=1, stable=True))
    sequence = mix_values.gather(1, within_ties)
    descends = ((sequence[:, :-1] >= sequence[:, 1:]) | ~present[:, 1:]).all(1, keepdim=True)
    pooled = torch.where(descends, sequence, _pooled(sequence, present))
    return labels, torch.empty_like(pooled).scatter_(1, within_ties, pooled), present


def _pooled(sequence: Tensor, present: Tensor) -> Tensor:
    """Solve for the ranked classes alone: ``min over starts a <= i of max over ends b >= i of mean(a ... b)``."""
    # Entry (a, b) is the mean from a to b; an absent entry at the end adds nothing to it.
    counts, scale = present.to(sequence.dtype), summable(sequence.shape[1])
    total = (sequence * scale * counts)[:, None, :].expand(-1, sequence.shape[1], -1).triu().cumsum(2)
    means = total / counts[:, None, :].expand_as(total).triu().cumsum(2).clamp_min(1) / scale
    highest = means.flip(2).cummax(2).values.flip(2)
    # What stands before a start is not bounded by it.
    before = torch.ones_like(highest[0], dtype=torch.bool).tril(-1)
    return highest.masked_fill(before, torch.inf).amin(1)
