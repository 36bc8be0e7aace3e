"""Exact isotonic correction on the CPU, where looking at the data costs nothing: what is in order is left alone."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ida_lightning.isotonic.level import FloatArray, heads_of, lower_to_level
from ida_lightning.label_mix import LabelMix, LabelOrder, tie_tolerance

Labels = npt.NDArray[np.int64]
Chain = tuple[Labels, FloatArray, npt.NDArray[np.bool_] | None]


def solve_on_cpu(values: Tensor, label_mix: LabelMix) -> Tensor:
    """Correct rows on the CPU, as :func:`~ida_lightning.isotonic.threshold.threshold_solver` describes it.

    What belongs to the ranked classes is in NumPy, as ``(k, batch)``: its small operators are cheaper to call.

    Args:
        values: ``(batch, classes)``, without a gradient.
        label_mix: ``(batch, k)``.
    """
    many = label_mix.labels.shape[1] > 2
    labels, chain, absent = _chains(values, label_mix.order()) if many else _pairs(values, label_mix)
    kept = chain if absent is None else np.where(absent, np.inf, chain)  # an absent class asks for nothing
    lowest = kept.min(0)
    corrected = values.clone(memory_format=torch.contiguous_format)
    in_place = corrected.numpy()
    ranked = (np.arange(len(in_place)), labels)
    in_place[ranked] = -np.inf
    heads = heads_of(corrected)
    exceeded = heads[:, 0] > lowest  # the others are in order, and rounding of means must not touch them
    number = np.count_nonzero(exceeded)
    if 2 * number > len(values):
        level = np.where(exceeded, lower_to_level(in_place, kept, lowest, heads), lowest)
        chain = np.maximum(chain, level)
    elif number:
        rows = exceeded.nonzero()[0]
        rest = in_place[rows]
        level = lower_to_level(rest, kept[:, rows], lowest[rows], heads[rows])
        in_place[rows] = rest
        chain[:, rows] = np.maximum(chain[:, rows], level)
    in_place[ranked] = chain if absent is None else np.where(absent, chain[0], chain)
    return corrected


def _pairs(values: Tensor, label_mix: LabelMix) -> Chain:
    """Solve for at most two ranked classes alone: their labels and values ``(k, batch)``, and which are absent."""
    labels, weights = label_mix
    if labels.shape[1] == 1:
        return labels.numpy().T, values.gather(1, labels).numpy().T, None
    weight_0, weight_1 = shares = (weights.float() if weights.dtype.itemsize < 4 else weights).numpy().T
    if not shares.min() > 0:  # a class that is alone stands in both places
        labels = torch.where(weights > 0, labels, labels.flip(1))
    own_0, own_1 = mix_values = np.ascontiguousarray(values.gather(1, labels).numpy().T)
    ahead, tie = weight_0 - weight_1, tie_tolerance(weights)
    # The rule of LabelOrder without its sorting: the heavier class goes first and, in a tie, the larger value.
    reversed_pair = ((ahead > tie) & (own_0 < own_1)) | ((ahead < -tie) & (own_1 < own_0))
    chain = np.where(reversed_pair, own_0 / 2 + own_1 / 2, mix_values)
    label_0, label_1 = ranked = labels.numpy().T
    alone = label_0 == label_1
    return ranked, chain, np.stack((np.zeros_like(alone), alone)) if alone.any() else None


def _chains(values: Tensor, order: LabelOrder) -> Chain:
    """Solve for any number of ranked classes alone: their labels and values ``(k, batch)``, and which are absent."""
    mix_values, present = values.gather(1, order.labels).numpy().T, order.present.numpy().T
    absent = None if present.all() else ~present
    if not order.tied.any():
        return order.labels.numpy().T, _pooled(mix_values, present), absent
    within_ties = np.lexsort((-mix_values, order.rank().numpy().T), 0)  # the larger value first inside every tie
    chain = np.empty_like(mix_values)
    np.put_along_axis(chain, within_ties, _pooled(np.take_along_axis(mix_values, within_ties, 0), present), 0)
    return order.labels.numpy().T, chain, absent


def _pooled(sequence: FloatArray, present: npt.NDArray[np.bool_]) -> FloatArray:
    """Solve for the ranked classes alone: ``min over starts a <= i of max over ends b >= i of mean(a ... b)``.

    Args:
        sequence: ``(k, batch)``.
        present: the same; absent entries are at the end.
    """
    descends = ((sequence[:-1] >= sequence[1:]) | ~present[1:]).all(0)
    if descends.all():
        return sequence
    exact = np.where(present, sequence, -np.inf).astype(np.float64)  # no mean is the larger for an absent entry
    counts, pooled = np.arange(1, len(exact) + 1)[:, None], np.full_like(exact, np.inf)
    for start in range(len(exact)):
        means = exact[start:].cumsum(0) / counts[: len(exact) - start]
        highest = np.maximum.accumulate(means[::-1], 0)[::-1]
        np.minimum(pooled[start:], highest, out=pooled[start:])
    return np.where(descends, sequence, pooled.astype(sequence.dtype))
