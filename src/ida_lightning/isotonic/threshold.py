"""Exact isotonic correction by running means: vectorised PyTorch, any device."""

from __future__ import annotations

import torch
from torch import Tensor

from ida_lightning.label_mix import LabelOrder

# How many of a row's largest values are looked at before falling back to a full sort. A block that pools
# more classes than this is rare for a trained teacher; the certificate below notices it.
_TOP = 16


def threshold_solver(values: Tensor, order: LabelOrder) -> Tensor:
    r"""Nearest row, in least squares, that respects the order of a mixed label.

    Solves, per row p, ``min sum_k (m_k - p_k)^2`` subject to ``m_u >= m_v`` whenever class u outranks class v,
    where the ranked classes are those of ``order`` and every other class (the rest) comes below them.

    Put the ranked classes first (within a tie the larger value first, Kruskal's primary approach) and the rest
    behind them in descending order: the problem becomes isotonic regression of a sequence, whose solution is
    ``m_i = min_{a <= i} max_{b >= i} mean(p_a ... p_b)``. Two things make it cheap. Starts a in the rest never
    bind above the last ranked class, so there are only k of them; and the rest class j simply becomes
    ``min(p_j, level)`` with ``level`` the value of the last ranked class. The ends b need only reach as far
    as the rest exceeds ``level``: if the smallest value looked at is not above ``level``, the classes that were
    not looked at cannot matter. That certificate is checked, and rows that fail it are solved by a full sort.

    On the CPU the cost is one partial sort and one pass; on an accelerator it is a full sort, because checking
    the certificate would stall the device.

    Args:
        values: float32 or float64 ``(batch, classes)``.
        order: the canonical order of the rows, ``(batch, k)``.

    Returns:
        The corrected rows, ``(batch, classes)``. Rows that already respect the order come back bit for bit.
        The result respects the order exactly, not only up to rounding, and applying it twice changes nothing.

    References:
        Min-max formula: Robertson, Wright, Dykstra, Order Restricted Statistical Inference (1988), section 1.4.
        The order of mixed labels: Cui and Yan, IJCAI 2021 (arXiv 2107.01412), section 3.
    """
    classes = values.shape[1]
    ranked = order.labels.shape[1]
    look_at = min(classes, _TOP + ranked)
    if look_at < classes and (values.device.type != "cpu" or torch.compiler.is_compiling()):
        look_at = classes
    own_values, levels, certified = _levels(values, order, look_at)
    if look_at < classes and not bool(certified.all()):
        rows = (~certified).nonzero().squeeze(1)
        rescued = _levels(values[rows], LabelOrder(*(field[rows] for field in order)), classes)
        own_values = own_values.index_copy(0, rows, rescued[0])
        levels = levels.index_copy(0, rows, rescued[1])
    corrected = torch.minimum(values, levels)
    return corrected.scatter(1, order.labels, own_values)


def _levels(values: Tensor, order: LabelOrder, look_at: int) -> tuple[Tensor, Tensor, Tensor]:
    """Solve for the ranked classes from the ``look_at`` largest values of each row.

    Returns:
        The corrected values of ``order.labels`` ``(batch, k)``, the level that caps the rest ``(batch, 1)``, and
        whether the classes not looked at are known not to matter ``(batch,)``.
    """
    labels, _, present, _ = order
    own = values.gather(1, labels)
    within_ties = _tie_order(own, order)
    own = own.gather(1, within_ties)

    largest, classes_of = values.topk(look_at, dim=1)
    is_rest = (classes_of[:, :, None] != labels[:, None, :]).all(2)
    floor = largest[:, -1:]
    rest_top = torch.where(is_rest, largest, floor).amax(1, keepdim=True)

    # An entry that is absent, or a ranked class met again among the largest, counts for nothing.
    counts = torch.cat((present, is_rest), 1).to(values.dtype)
    sequence = torch.where(counts > 0, torch.cat((own, largest), 1), 0)

    ranked = labels.shape[1]
    bounds: list[Tensor] = []
    for start in range(ranked):
        means = sequence[:, start:].cumsum(1) / counts[:, start:].cumsum(1).clamp_min(1)
        best = means.flip(1).cummax(1).values.flip(1)[:, : ranked - start]
        # An absent start bounds nobody; what stands before a start is not bounded by it.
        best = torch.where(present[:, start : start + 1], best, torch.inf)
        bounds.append(torch.nn.functional.pad(best, (start, 0), value=torch.inf))
    solved = torch.stack(bounds).amin(0)

    # Rounding must not touch what already is in order.
    descends = (own[:, :-1] >= own[:, 1:]) | ~present[:, 1:]
    last = (present.sum(1, keepdim=True) - 1).clamp_min(0)
    in_order = descends.all(1, keepdim=True) & (own.gather(1, last) >= rest_top)
    solved = torch.where(in_order, own, solved)

    level = solved.gather(1, last)
    certified = (level >= floor).squeeze(1)
    # Absent entries carry the first label, so they must carry the first label's value too.
    unsorted = solved.scatter(1, within_ties, solved)
    unsorted = torch.where(present, unsorted, unsorted[:, :1])
    return unsorted, level, certified


def _tie_order(own: Tensor, order: LabelOrder) -> Tensor:
    """Positions ``(batch, k)`` that put the larger value first inside every tie and move nothing else."""
    group = (~order.tied).cumsum(1)
    by_value = own.argsort(dim=1, descending=True, stable=True)
    by_group = group.gather(1, by_value).argsort(dim=1, stable=True)
    return by_value.gather(1, by_group)
