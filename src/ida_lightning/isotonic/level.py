"""The level at which what is taken from the rest of a row is what its ranked classes need."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

FloatArray = npt.NDArray[np.floating[Any]]

# How many of a row's largest values are looked at first, for each of up to four ranked classes. A trained teacher
# seldom lifts more classes above the ones in the picture; the certificate notices when it does.
_TOP = 8
# Rows are climbed in blocks of about so many values: what a step writes is still in the cache for the next one.
_BLOCK = 2**18
# Long rows are searched in pieces of this length.
_PIECE = 128
# Up to so many classes a whole row is sorted.
_SORTED = 400


def find_levels(rest: Tensor, chain: FloatArray) -> FloatArray:
    """Return the level of every row, exactly; see :func:`level_below`. On the CPU.

    In short rows the cost is the number of operators and not what they do, so it is in NumPy, whose operators cost a
    third of PyTorch's to call.

    Args:
        rest: contiguous ``(batch, classes)``, -inf at the ranked classes.
        chain: ``(k, batch)``; inf where absent.

    Returns:
        ``(batch,)``.
    """
    classes = rest.shape[1]
    ascending = np.sort(chain, 0) if len(chain) > 1 else chain
    starts = np.cumsum(ascending, 0, dtype=np.float64)
    if short := classes <= _SORTED:
        descending = np.sort(rest.numpy(), 1)[:, ::-1]
    size = _TOP * min(len(chain), 4)
    top = descending[:, :size] if short else largest(rest, size)
    level = _highest_means(top, starts)
    # What was not looked at cannot matter if the smallest value that was looked at is not above the level.
    unsure = (level < top[:, -1]).nonzero()[0]
    if classes > size and len(unsure):
        if short:
            level[unsure] = _highest_means(descending[unsure], starts[:, unsure])
        else:
            level[unsure] = climb(rest, unsure, chain, level.astype(chain.dtype))
    return level.astype(chain.dtype)


def _highest_means(top: FloatArray, starts: FloatArray) -> FloatArray:
    """Return the least, over the starts, of the highest running mean into the rest: :func:`level_below` in NumPy.

    Args:
        top: the rest or the largest of it, descending ``(batch, size)``.
        starts: float64, running sums of the chain from the lowest on, ``(k, batch)``; inf where absent.
    """
    joined = np.zeros((top.shape[1] + 1, len(top)))  # by none of the rest, by the largest, by the largest two ...
    np.cumsum(np.ascontiguousarray(top.T), 0, out=joined[1:])
    counts, level = np.arange(len(joined))[:, None], np.full(len(top), np.inf)
    with np.errstate(invalid="ignore"):  # inf - inf: a start that is absent, above a rest that has ended
        for number, start in enumerate(starts, 1):
            level = np.fmin(level, ((start + joined) / (number + counts)).max(0))
    return level


def largest(values: Tensor, size: int) -> FloatArray:
    """Return the ``size`` largest values per row, descending ``(batch, size)``, of contiguous ``(batch, classes)``.

    On the CPU. NumPy sorts without branches, several times as fast as ``torch.topk`` finds a few in rows like these.
    """
    classes = values.shape[1]
    if classes <= max(_SORTED, 16 * size):
        return _top_of(values.numpy(), size)
    # The largest values lie in the pieces with the largest maxima. One cheap pass finds those.
    if classes < 4 * _PIECE * size:
        pieces = values[:, : classes // 8 * 8].view(len(values), 8, -1)  # each takes every n-th value, as the row lies
        maxima = pieces
        for half in (4, 2, 1):
            maxima = torch.maximum(maxima[:, :half], maxima[:, half:])
        best = torch.from_numpy(np.argpartition(maxima.numpy()[:, 0], -size, 1)[:, -size:])
        candidates = pieces.gather(2, best[:, None, :].expand(-1, 8, -1)).flatten(1)
        return _top_of(torch.cat((candidates, values[:, classes // 8 * 8 :]), 1).numpy(), size)
    whole = classes - classes % _PIECE
    pieces = values[:, :whole].view(len(values), -1, _PIECE)
    best = pieces.amax(2).topk(size, dim=1, sorted=False).indices
    candidates = pieces[torch.arange(len(values))[:, None], best].flatten(1)
    return torch.cat((candidates, values[:, whole:]), 1).topk(size, dim=1).values.numpy()


def _top_of(rows: FloatArray, size: int) -> FloatArray:
    return np.ascontiguousarray(np.sort(rows, 1)[:, : -size - 1 : -1])


def level_below(top: Tensor, chain: Tensor) -> Tensor:
    """Return the level of rows whose rest is ``top``: a lower bound where there is more of it.

    It is the least, over the starts in the chain, of the largest running mean from there into the rest.

    Args:
        top: the rest or the largest of it, descending ``(batch, size)``.
        chain: the ranked classes, corrected among themselves, in any order ``(batch, k)``; inf where absent.

    Returns:
        ``(batch, 1)``.

    Example:
        >>> level_below(torch.tensor([[0.45, 0.1]]), torch.tensor([[0.3, 0.15]]))
        tensor([[0.3000]])
    """
    number = torch.arange(1, chain.shape[1] + 1, dtype=top.dtype, device=top.device)
    joined = torch.arange(1, top.shape[1] + 1, dtype=top.dtype, device=top.device)
    scale = summable(len(number) + len(joined))
    starts = (chain.sort(dim=1).values * scale).cumsum(1)
    means = (starts[:, :, None] + (top * scale).cumsum(1)[:, None, :]) / (number[:, None] + joined)
    bounds = torch.maximum(means.amax(2), starts / number)
    # A start that is absent bounds nobody, also above a rest that has ended (inf - inf).
    return bounds.masked_fill_(starts == torch.inf, torch.inf).amin(1, keepdim=True) / scale


def summable(number: int) -> float:
    """Return a power of two by which so many numbers of any size have a finite sum.

    Example:
        >>> summable(5)
        0.125
    """
    return 0.5 ** math.ceil(math.log2(number))


def climb(values: Tensor, rows: npt.NDArray[np.int64], chain: FloatArray, level: FloatArray) -> FloatArray:
    """Return the level of some rows, exactly, from lower bounds of it; see :func:`level_below`. On the CPU.

    Args:
        values: ``(batch, classes)``, with -inf at the ranked classes.
        rows: ``(rows,)``, which of them.
        chain: ``(k, batch)``; inf where absent.
        level: lower bounds ``(batch,)``.

    Returns:
        ``(rows,)``.
    """
    block = max(1, _BLOCK // values.shape[1])
    found = []
    for some in (rows[start : start + block] for start in range(0, len(rows), block)):
        rest = values if len(some) == len(values) else values.index_select(0, torch.from_numpy(some))
        found.append(_climb(rest, np.ascontiguousarray(chain[:, some]), level[some]))
    return np.concatenate(found)


def _climb(rest: Tensor, chain: FloatArray, level: FloatArray) -> FloatArray:
    """Newton's method on ``sum relu(rest - v) = sum relu(v - chain)``, from the left.

    As long as the classes of the chain below the level stay the same the equation is concave, so that no step passes
    the root; a step ends where the next one joins. So the level only climbs, the rest above it only becomes smaller and
    the chain below it only larger, and where neither changed the level solves the equation: after 3 to 10 steps on
    rows of a classifier, 20 in the worst that a search has found.

    Args:
        rest: ``(rows, classes)``, -inf at the ranked classes.
        chain: ``(k, rows)``; inf where absent.
        level: lower bounds ``(rows,)``.
    """
    before: FloatArray | None = None
    buffer = torch.empty_like(rest)
    while True:
        torch.sub(rest, torch.from_numpy(level)[:, None], out=buffer).relu_()
        excess = buffer.sum(1).numpy()
        number = buffer.sign_().sum(1).numpy()
        joins = chain <= level
        members = joins.sum(0, dtype=level.dtype)
        gap = excess - np.where(joins, level - chain, 0).sum(0)
        following = np.where(joins, np.inf, chain).min(0)
        level = np.minimum(level + np.maximum(gap / (number + members), 0), following).astype(level.dtype)
        remaining = number - members
        moving = np.ones_like(remaining, dtype=bool) if before is None else remaining < before  # false for NaN too
        active = int(moving.sum())
        if not active:
            return level
        if 2 * active < len(level):
            rows = moving.nonzero()[0]
            level[rows] = _climb(rest.index_select(0, torch.from_numpy(rows)), chain[:, rows], level[rows])
            return level
        before = remaining
