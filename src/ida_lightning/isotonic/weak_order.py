"""The readable reference: sort, then pool adjacent violators, for any weak order."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class _Block(NamedTuple):
    total: float
    size: int

    @property
    def mean(self) -> float:
        return self.total / self.size


def weak_order_solver(values: Tensor, levels: Tensor) -> Tensor:
    """Return the nearest row, in least squares, that respects the order of a row of levels.

    Solves, per row p, ``min sum_k (m_k - p_k)^2`` subject to ``m_u >= m_v`` whenever ``level_u > level_v``. Classes of
    one level are not ordered among themselves, so within them the values decide (Kruskal's primary approach to
    ties): sort by (level, then value), both descending, and the order becomes a chain. Then pool adjacent
    violators: go along the chain, open a block for every class, and join blocks for as long as one exceeds its
    predecessor; every class gets the mean of its block.

    O(c log c) per row, one row after the other in Python and float64: for checking, not for training.

    Args:
        values: floating point ``(batch, classes)``.
        levels: numbers ``(batch, classes)`` whose order is the order of the classes, such as
            :meth:`LabelOrder.levels`. Only exactly equal numbers tie.

    Returns:
        The corrected rows ``(batch, classes)``, in the dtype and on the device of ``values``.

    Example:
        >>> weak_order_solver(torch.tensor([[0.3, 0.15, 0.45, 0.1]]), torch.tensor([[0.7, 0.3, 0.0, 0.0]]))
        tensor([[0.3000, 0.3000, 0.3000, 0.1000]])

    References:
        Kruskal, Nonmetric multidimensional scaling: a numerical method, Psychometrika 29 (1964); Ayer et al.,
        Annals of Mathematical Statistics 26 (1955).
    """
    corrected = [_solve_row(row, level) for row, level in zip(values.double().tolist(), levels.tolist(), strict=True)]
    return torch.tensor(corrected, dtype=values.dtype, device=values.device).view_as(values)


def _solve_row(row: list[float], levels: list[float]) -> list[float]:
    chain = sorted(range(len(row)), key=lambda c: (-levels[c], -row[c]))
    blocks: list[_Block] = []
    for c in chain:
        block = _Block(row[c], 1)
        while blocks and blocks[-1].mean < block.mean:
            previous = blocks.pop()
            block = _Block(previous.total + block.total, previous.size + block.size)
        blocks.append(block)
    solved = row.copy()
    position = 0
    for block in blocks:
        for c in chain[position : position + block.size]:
            solved[c] = block.mean
        position += block.size
    return solved
