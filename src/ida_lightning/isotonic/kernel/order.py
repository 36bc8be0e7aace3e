"""The order that a label puts on its classes, on the GPU: the rule of :class:`~ida_lightning.label_mix.LabelOrder`."""

import triton
import triton.language as tl


@triton.jit
def canonical_order(label, share, tie_tolerance, RANKED: tl.constexpr, K: tl.constexpr):
    """The canonical order of the labels (R, K), as LabelMix.order has it: repeats merged, what has no weight dropped.

    Returns the labels and their merged weights, and the weights with which their groups of ties begin.
    """
    weight = share if share.dtype == tl.float64 else share.to(tl.float32)
    present = label >= 0
    if RANKED > 1:
        entry = tl.arange(0, K)
        same = label[:, :, None] == label[:, None, :]
        repeats = tl.sum((same & (entry[None, None, :] < entry[None, :, None])).to(tl.int32), axis=2)
        present = present & (repeats == 0)
        if RANKED > 2:  # a sum of two is rounded once anyway
            weight = weight.to(tl.float64)
        weight = tl.sum(tl.where(same, weight[:, None, :], 0.0), axis=2)
        if share.dtype != tl.float64:
            weight = weight.to(tl.float32)
    present = present & (weight > 0)
    group = weight
    if RANKED > 1:
        # Ties chain down the weights, so a group begins where nothing is heavier within the tolerance, and every class
        # gets the weight with which its group begins. Axis 1 is the heavier class of a pair.
        ahead = weight[:, :, None] - weight[:, None, :]
        close = present[:, :, None] & (ahead > 0) & (ahead <= tie_tolerance)
        begins = tl.sum(close.to(tl.int32), axis=1) == 0
        above = (begins & present)[:, None, :] & (weight[:, None, :] >= weight[:, :, None])
        group = tl.min(tl.where(above, weight[:, None, :], float("inf")), axis=2)
    return tl.where(present, label, -1), weight.to(tl.float32), group


@triton.jit
def positions(label, own, group, K: tl.constexpr):
    """The number of ranked classes before each one (R, K): of a heavier group or, in a tie, of larger value."""
    entry = tl.arange(0, K)
    present = label >= 0
    tie = group[:, None, :] == group[:, :, None]
    larger = (own[:, None, :] > own[:, :, None]) | (
        (own[:, None, :] == own[:, :, None]) & (entry[None, None, :] < entry[None, :, None])
    )
    before = present[:, None, :] & ((group[:, None, :] > group[:, :, None]) | (tie & larger))
    return tl.where(present, tl.sum(before.to(tl.int32), axis=2), K)
