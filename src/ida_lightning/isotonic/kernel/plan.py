"""How the kernel is launched for rows of a length; plain arithmetic, without Triton."""

from __future__ import annotations

import math
from typing import NamedTuple

# The longest row that one program holds in registers, 32 values a thread. Longer ones are read in chunks.
IN_REGISTERS = 8192
_CHUNK = 2048
# Values of short rows that one program of a single warp holds.
_SHORT = 256


class Launch(NamedTuple):
    """What is fixed when the kernel is compiled, beside the number of ranked classes.

    Attributes:
        rows: rows of one program. Several only where a row is short; a program is one warp then, so that its
            reductions need no barrier.
        block: values of a row that are held at a time, a power of two.
        chunked: whether a row is longer than ``block``, and read chunk by chunk.
        vector: a power of two that divides the length of a row and the distance between rows: values of one load.
        warps: of one program; at most 1,024 threads, whatever the size of a warp.
    """

    rows: int
    block: int
    chunked: bool
    vector: int
    warps: int


def plan(classes: int, row_stride: int | None = None, warp_size: int = 32) -> Launch:
    """Return how rows of ``classes`` values are launched.

    Args:
        classes: values of a row, at least one.
        row_stride: values from one row to the next; None is ``classes``.
        warp_size: threads of a warp: 32, or 64 on AMD's data centre GPUs.

    Example:
        >>> plan(10), plan(1000), plan(21_841)  # doctest: +NORMALIZE_WHITESPACE
        (Launch(rows=16, block=16, chunked=False, vector=2, warps=1),
         Launch(rows=1, block=1024, chunked=False, vector=8, warps=2),
         Launch(rows=1, block=2048, chunked=True, vector=1, warps=8))
    """
    vector = math.gcd(classes, classes if row_stride is None else row_stride, 8)
    block = 1 << (classes - 1).bit_length()
    if block > IN_REGISTERS:
        return Launch(1, _CHUNK, True, vector, max(1, 8 * 32 // warp_size))
    return Launch(max(1, _SHORT // block), block, False, vector, max(1, block // (16 * warp_size)))
