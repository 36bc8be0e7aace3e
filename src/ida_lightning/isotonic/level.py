"""The level at which what is taken from the rest of a row is what its ranked classes need."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

FloatArray = npt.NDArray[np.floating[Any]]

# Up to so many classes a whole row is sorted. Rows of so many and more are looked at in pieces of this length.
_SHORT, _LONG, _PIECE = 32, 4096, 128
# Where the largest value leaves more than so many a row, the bound is sought anew, from as many large ones.
_FEW = 16
# Rows with more than so many values above that bound are climbed.
_MANY = 128
# Rows are climbed in blocks of about so many values: what a step writes is still in the cache for the next one.
_BLOCK = 2**18


def heads_of(rest: Tensor) -> FloatArray:
    """Return the largest value of every row ``(batch, 1)``, and, of long rows, of each of their pieces.

    Args:
        rest: contiguous ``(batch, classes)``, on the CPU.

    Returns:
        ``(batch, 1)`` or ``(batch, 1 + pieces)``. What fills no piece is one of its own.
    """
    classes = rest.shape[1]
    if classes < _LONG:
        return rest.amax(1, keepdim=True).numpy()
    whole = classes // _PIECE * _PIECE
    pieces = rest[:, :whole].view(len(rest), -1, _PIECE).amax(2)
    if whole < classes:
        pieces = torch.cat((pieces, rest[:, whole:].amax(1, keepdim=True)), 1)
    return torch.cat((pieces.amax(1, keepdim=True), pieces), 1).numpy()


def lower_to_level(rest: FloatArray, chain: FloatArray, lowest: FloatArray, heads: FloatArray) -> FloatArray:
    """Lower what is above the level of its row, in place, and return the levels, exactly; see :func:`level_below`.

    Only values above the level count. The largest one gives a bound below it, and what is above the bound is seldom
    more than a few, which are taken out and sorted. It is in NumPy, whose operators cost a third of PyTorch's to call.

    Args:
        rest: contiguous ``(batch, classes)``, -inf at the ranked classes.
        chain: ``(k, batch)``; inf where absent.
        lowest: the least of the chain, ``(batch,)``.
        heads: of the rest; see :func:`heads_of`.

    Returns:
        ``(batch,)``, in the dtype of the rest. Rows of which nothing is above their chain stay as they are.
    """
    starts = np.empty(chain.shape)
    if len(chain) > 2:
        np.sort(chain, 0).cumsum(0, out=starts)
    else:
        starts[0] = lowest
        chain.sum(0, out=starts[-1])
    if rest.shape[1] <= _SHORT:
        level = _highest_means(np.sort(rest, 1), lowest, starts)
        np.minimum(rest, np.where(heads[:, 0] > lowest, level, np.inf).astype(rest.dtype)[:, None], out=rest)
        return level
    wide = rest.shape[1] > 2 * _SHORT
    for thorough in (wide and len(chain) > 2, wide):
        some = _some_of_the_largest(rest, heads) if thorough else heads[:, :1]
        bound = _highest_means(some, lowest, starts)
        above = _above(rest, heads, bound)
        if thorough or not wide or len(above) <= _FEW * len(rest):
            break
    row = above // rest.shape[1]
    number = np.bincount(row, minlength=len(rest))
    many = (number > _MANY).nonzero()[0]
    if len(many):
        few = number[row] <= _MANY
        above, row = above[few], row[few]
        number[many] = 0
    values = rest.reshape(-1)[above]
    taken = np.repeat(bound[:, None], max(1, number.max()), 1)
    taken[row, np.arange(len(row)) - (number.cumsum() - number)[row]] = values
    taken.sort(1)
    level = np.maximum(_highest_means(taken, bound, starts), bound)  # what is not above the bound stays as it is
    rest.reshape(-1)[above] = np.minimum(values, level[row])
    if len(many):
        level[many] = climb(torch.from_numpy(rest), many, chain, bound)
        rest[many] = np.minimum(rest[many], level[many, None])
    return level


def _above(rest: FloatArray, heads: FloatArray, bound: FloatArray) -> npt.NDArray[np.int64]:
    """Return where the rest is above the bound of its row, as ascending indices of the flat rest."""
    pieces = heads.shape[1] - 1
    if not pieces:
        return np.flatnonzero(rest > bound[:, None])
    whole = rest.shape[1] // _PIECE
    row, piece = (heads[:, 1 : whole + 1] > bound[:, None]).nonzero()
    values = rest[:, : whole * _PIECE].reshape(len(rest), whole, _PIECE)[row, piece]
    found, place = np.divmod(np.flatnonzero(values > bound[row][:, None]), _PIECE)
    above: npt.NDArray[np.int64] = row[found] * rest.shape[1] + piece[found] * _PIECE + place
    if pieces == whole:
        return above
    row, place = (rest[:, whole * _PIECE :] > bound[:, None]).nonzero()
    return np.sort(np.concatenate((above, row * rest.shape[1] + whole * _PIECE + place)))


def _some_of_the_largest(rest: FloatArray, heads: FloatArray) -> FloatArray:
    """Return large values of every row, ascending ``(batch, size)``: of pieces, or the largest of every 32nd value."""
    pieces = heads[:, 1:]
    if not pieces.shape[1]:
        pieces = torch.from_numpy(rest)[:, : rest.shape[1] // 32 * 32].view(len(rest), -1, 32).amax(1).numpy()
    return np.sort(pieces, 1)[:, -_FEW:]


def _highest_means(some: FloatArray, floor: FloatArray, starts: FloatArray) -> FloatArray:
    """Return the least, over the starts, of the highest running mean into the rest: :func:`level_below` in NumPy.

    Args:
        some: of the rest, ascending ``(batch, size)``. What is below the floor counts as the floor.
        floor: ``(batch,)``, not above the level.
        starts: float64, running sums of the chain from the lowest on, ``(k, batch)``; inf where absent.
    """
    sum_up, counts = _running(len(starts), some.shape[1])
    means = starts[:, None] + sum_up @ np.maximum(some.T, floor)
    means /= counts
    least: FloatArray = means.max(1).min(0).astype(some.dtype)
    return least


@lru_cache(maxsize=64)
def _running(starts: int, size: int) -> tuple[FloatArray, FloatArray]:
    """Return the matrix that sums up the largest of ascending columns, none of them first, and how many that makes."""
    sum_up = np.ascontiguousarray(np.tri(size + 1, size, -1)[:, ::-1])
    return sum_up, np.arange(1.0, starts + 1)[:, None, None] + np.arange(size + 1)[:, None]


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
