"""The code that runs on the GPU: rows in registers, several in one program if they are short, or chunk by chunk.

On a machine without a GPU it runs in Triton's interpreter (``TRITON_INTERPRET=1`` before the import): slow, for tests.
Shapes: R rows of one program, K ranked classes padded to a power of two, B values of a row held at a time. A class
that is not in the label, or has no weight, has the label -1 from :func:`canonical_order` on.
"""

# Triton reads the annotations of its kernels, so they must not become strings.
import triton
import triton.language as tl

from ida_lightning.isotonic.kernel.order import canonical_order, positions


@triton.jit
def _load(source, columns, classes, stats, per_temperature, SOFTMAX: tl.constexpr):
    """Values (R, B) of the columns, -inf behind the row's end, 0 there after a softmax."""
    inside = columns < classes
    values = tl.load(source[:, None] + columns[None, :], mask=inside[None, :], other=-float("inf")).to(tl.float32)
    if SOFTMAX:
        values = _soften(values, stats[0][:, None], stats[1][:, None], per_temperature)
    return values


@triton.jit
def _soften(logits, highest, total, per_temperature):
    return tl.exp((logits - highest) * per_temperature) / total


@triton.jit
def _is_rest(columns, classes, label, RANKED: tl.constexpr, K: tl.constexpr):
    """Which columns are classes that the label does not rank: (R, B)."""
    rest = (columns < classes)[None, :]
    entry = tl.arange(0, K)[None, :]
    for j in tl.static_range(RANKED):
        label_j = tl.sum(tl.where(entry == j, label, 0), axis=1)
        rest = rest & (columns[None, :] != label_j[:, None])
    return rest


@triton.jit
def _rest(values, is_rest):
    """Values of the rest, -inf elsewhere. NaN becomes inf, which a maximum does not lose."""
    return tl.where(is_rest, tl.where(values != values, float("inf"), values), -float("inf"))


@triton.jit
def _above(
    rest, level, scale, source, classes, label, stats, per_temperature,
    RANKED: tl.constexpr, K: tl.constexpr, BLOCK: tl.constexpr, CHUNKED: tl.constexpr, SOFTMAX: tl.constexpr,
):  # fmt: skip
    """How many classes of the rest lie above a level, and the sum of their scaled values: (R,) each."""
    if CHUNKED:
        columns = tl.arange(0, BLOCK)
        count = tl.zeros_like(rest)
        total = tl.zeros_like(rest)
        for start in range(0, classes, BLOCK):
            values = _load(source, start + columns, classes, stats, per_temperature, SOFTMAX)
            now = _rest(values, _is_rest(start + columns, classes, label, RANKED, K))
            above = now > level[:, None]
            count += above.to(tl.float32)
            total += tl.where(above, now * scale[:, None], 0.0)
    else:
        above = rest > level[:, None]
        count = above.to(tl.float32)
        total = tl.where(above, rest * scale[:, None], 0.0)
    return tl.sum(count, axis=1), tl.sum(total, axis=1)


@triton.jit
def _solve(
    own, ranked, wrong, highest_rest, rest, source, classes, label, stats, per_temperature,
    RANKED: tl.constexpr, K: tl.constexpr, BLOCK: tl.constexpr, CHUNKED: tl.constexpr, SOFTMAX: tl.constexpr,
):  # fmt: skip
    """Solve rows that are wrong for their ranked classes (R, K), which come and go in the order of their positions.

    ``m_i = min over starts a <= i of the largest mean from a to any end at or behind i``. Ends in the rest are found by
    Newton's method on ``n * (v - base / n) = sum relu(rest - v)``: take the classes above the level, move it to their
    mean with the base, until their number no longer changes. From the last start to the first; one that is joined by
    what stands at least as high as the level found so far cannot lower it, and is not looked at.
    """
    place = tl.arange(0, K)[None, :]
    here = place < ranked[:, None]
    # Sums near the end of the number range must not leave it; a power of two changes no bits.
    largest = tl.maximum(tl.max(tl.where(here, tl.abs(own), 0.0), axis=1), tl.abs(tl.maximum(highest_rest, -1.0)))
    scale = tl.where(largest > 1e30, 2.0**-30, 1.0)
    back = tl.where(largest > 1e30, 2.0**30, 1.0)
    scaled = tl.where(here, own * scale[:, None], 0.0)
    lowest = tl.full(highest_rest.shape, float("inf"), tl.float32)
    lowest_start = ranked
    lowest_count = tl.zeros_like(highest_rest)
    solved = tl.full(own.shape, float("inf"), tl.float32)
    for behind in range(RANKED):
        start = ranked - 1 - behind
        size = behind + 1.0
        from_start = here & (place >= start[:, None])
        base = tl.sum(tl.where(from_start, scaled, 0.0), axis=1)
        joins = from_start & (place < lowest_start[:, None])
        joining, joined_count = tl.sum(tl.where(joins, scaled, 0.0), axis=1), tl.sum(joins.to(tl.float32), axis=1)
        searched = wrong & (start >= 0) & (joining / tl.maximum(joined_count, 1.0) * back < lowest)
        # From below: the block alone, or joined by the classes of the rest that joined the last one.
        before = size - joined_count + lowest_count
        reached = tl.where(before > 0, lowest, 0.0) * scale * before
        known = (joining + reached) / tl.maximum(before + joined_count, 1.0)
        level = tl.where(searched, tl.maximum(base / size, known) * back, lowest)
        searching = searched & (level < highest_rest)
        count = tl.full(level.shape, -1.0, tl.float32)
        while tl.max(searching.to(tl.int32), axis=0) > 0:
            now, joined = _above(
                rest, level, scale, source, classes, label, stats, per_temperature,
                RANKED, K, BLOCK, CHUNKED, SOFTMAX,
            )  # fmt: skip
            level = tl.where(searching, tl.maximum(level, (base + joined) / (size + now) * back), level)
            searching = searching & (now != count)
            count = now
        lower = searched & (level < lowest)
        lowest_start = tl.where(lower, start, lowest_start)
        lowest_count = tl.where(lower, tl.maximum(count, 0.0), lowest_count)
        lowest = tl.where(lower, level, lowest)
        # The largest mean from this start to an end at or behind each place, before the last ranked class.
        within = from_start[:, None, :] & (place[:, None, :] <= place[:, :, None])
        means = tl.sum(tl.where(within, scaled[:, None, :], 0.0), axis=2) / tl.maximum(place - start[:, None] + 1, 1)
        ends = (place[:, None, :] >= place[:, :, None]) & (place[:, None, :] < (ranked - 1)[:, None, None])
        bound = tl.max(tl.where(ends, means[:, None, :] * back[:, None, None], -float("inf")), axis=2)
        bound = tl.maximum(bound, level[:, None])
        solved = tl.where(from_start & (start >= 0)[:, None], tl.minimum(solved, bound), solved)
    return tl.where(wrong[:, None], solved, own)


@triton.jit(do_not_specialize=["rows"])
def isotonic_rows(
    values_ptr,  # (rows, classes), any row stride
    labels_ptr,  # (rows, RANKED) int64, contiguous
    weights_ptr,  # (rows, RANKED), contiguous
    corrected_ptr,  # (rows, classes), contiguous
    rows,
    vectors,  # classes / VECTOR
    row_vectors,  # row stride / VECTOR
    per_temperature,  # 1 / T, used with SOFTMAX
    margin,  # used with MARGIN
    tie_tolerance,
    RANKED: tl.constexpr,
    K: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
    CHUNKED: tl.constexpr,
    VECTOR: tl.constexpr,
    SOFTMAX: tl.constexpr,
    MARGIN: tl.constexpr,
):
    """Correct the rows of this program; see plan.py for the sizes, operators.py for what a caller gets."""
    # A product says what divides it, and so how wide a load may be.
    classes = vectors * VECTOR
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    known = row < rows
    row = tl.minimum(row, rows - 1)  # what is left over reads the last row, and writes nothing
    source = values_ptr + row * row_vectors * VECTOR
    target = corrected_ptr + row * classes
    columns = tl.arange(0, BLOCK)
    entry = tl.arange(0, K)[None, :]

    given = entry < RANKED
    label = tl.load(labels_ptr + row[:, None] * RANKED + entry, mask=given, other=-1)
    share = tl.load(weights_ptr + row[:, None] * RANKED + entry, mask=given, other=0.0)
    in_range = (label >= 0) & (label < classes)  # before they are narrowed, and before any is an address
    broken = tl.sum((given & ~in_range).to(tl.int32), axis=1) > 0
    label, weight, group = canonical_order(tl.where(in_range, label, -1).to(tl.int32), share, tie_tolerance, RANKED, K)
    present = label >= 0

    # One pass over the row: for the softmax, and for the largest value of the rest.
    one = tl.full((ROWS,), 1.0, tl.float32)
    stats = (one, one)
    if CHUNKED:
        rest = tl.full((ROWS, BLOCK), -float("inf"), tl.float32)
        if SOFTMAX:
            highest = rest
            total = tl.zeros_like(rest)
        for start in range(0, classes, BLOCK):
            now = start + columns
            values = _load(source, now, classes, stats, per_temperature, False)
            is_rest = _is_rest(now, classes, label, RANKED, K)
            rest = tl.maximum(rest, _rest(values, is_rest))
            if SOFTMAX:
                higher = tl.maximum(highest, values)
                shift = tl.where(higher == -float("inf"), 0.0, higher)
                total = total * tl.exp((highest - shift) * per_temperature)
                total += tl.exp((values - shift) * per_temperature)
                highest = higher
            else:
                # Most rows are in order, and done.
                tl.store(target[:, None] + now[None, :], values, mask=known[:, None] & (now < classes)[None, :])
        highest_rest = tl.max(rest, axis=1)
        if SOFTMAX:
            top = tl.max(highest, axis=1)
            stats = (top, tl.sum(total * tl.exp((highest - top[:, None]) * per_temperature), axis=1))
            highest_rest = _soften(highest_rest, stats[0], stats[1], per_temperature)
    else:
        values = _load(source, columns, classes, stats, per_temperature, False)
        if SOFTMAX:
            top = tl.max(values, axis=1)
            exponents = tl.exp((values - top[:, None]) * per_temperature)
            stats = (top, tl.sum(exponents, axis=1))
            values = exponents / stats[1][:, None]
        rest = _rest(values, _is_rest(columns, classes, label, RANKED, K))
        highest_rest = tl.max(rest, axis=1)

    as_given = tl.load(source[:, None] + label, mask=present, other=0.0).to(tl.float32)
    if SOFTMAX:
        as_given = tl.where(present, _soften(as_given, stats[0][:, None], stats[1][:, None], per_temperature), 0.0)
    finite = (tl.abs(as_given) < float("inf")) | ~present
    broken = broken | (tl.min(finite.to(tl.int32), axis=1) == 0)
    broken = broken | ~(highest_rest < float("inf")) | ~(stats[1] < float("inf"))

    own = as_given
    if MARGIN:
        own = own - margin * tl.where(present, weight, 0.0)
    position = positions(label, own, group, K)
    place = tl.arange(0, K)
    at = position[:, :, None] == place[None, None, :]
    ranked = tl.sum(present.to(tl.int32), axis=1)
    chain = tl.sum(tl.where(at, own[:, :, None], 0.0), axis=1)
    here = place[None, :] < ranked[:, None]

    # Rounding of the means must not touch what already is in order.
    reversed_pair = (place[None, None, :] > place[None, :, None]) & here[:, None, :]
    reversed_pair = reversed_pair & (chain[:, :, None] < chain[:, None, :])
    smallest = tl.min(tl.where(here, chain, float("inf")), axis=1)
    wrong = (tl.sum(tl.sum(reversed_pair.to(tl.int32), axis=2), axis=1) > 0) | (highest_rest > smallest)
    wrong = wrong & ~broken & known
    if tl.max(wrong.to(tl.int32), axis=0) > 0:
        chain = _solve(
            chain, ranked, wrong, highest_rest, rest, source, classes, label, stats, per_temperature,
            RANKED, K, BLOCK, CHUNKED, SOFTMAX,
        )  # fmt: skip
        smallest = tl.min(tl.where(here, chain, float("inf")), axis=1)
    broken = broken | (smallest != smallest)

    shift = tl.zeros((ROWS,), tl.float32)
    below_zero = wrong & False
    if MARGIN:
        # A chain that ends below 0 has all of the rest with it: only ranked classes keep mass, 1 - margin together.
        below_zero = smallest < 0
        prefix = tl.sum(tl.where(here[:, None, :] & (place[None, None, :] <= place[None, :, None]),
                                 chain[:, None, :], 0.0), axis=2)  # fmt: skip
        shift = tl.max(tl.where(here, (prefix - (1 - margin)) / (place + 1)[None, :], -float("inf")), axis=1)
        chain = tl.where(below_zero[:, None], tl.maximum(chain - shift[:, None], 0.0), chain)
    changed = wrong | below_zero
    found = tl.sum(tl.where(at, chain[:, None, :], 0.0), axis=2)
    if MARGIN:
        found = found + margin * weight
    found = tl.where(changed[:, None], found, as_given)

    if CHUNKED:
        rewritten = changed | broken
        if SOFTMAX:
            rewritten = known
        if tl.max(rewritten.to(tl.int32), axis=0) > 0:
            for start in range(0, classes, BLOCK):
                now = start + columns
                values = _load(source, now, classes, stats, per_temperature, SOFTMAX)
                _store(target, known, now, classes, values, label, found, smallest, below_zero, shift, broken,
                       RANKED, K, MARGIN)  # fmt: skip
    else:
        # Ranked classes are written from what was found for them, so that the rest is all that is kept in registers.
        _store(target, known, columns, classes, rest, label, found, smallest, below_zero, shift, broken,
               RANKED, K, MARGIN)  # fmt: skip


@triton.jit
def _store(
    target, known, columns, classes, values, label, found, smallest, below_zero, shift, broken,
    RANKED: tl.constexpr, K: tl.constexpr, MARGIN: tl.constexpr,
):  # fmt: skip
    """Write columns (R, B): the rest capped by the smallest ranked class, and what was found for the ranked ones."""
    corrected = tl.minimum(values, smallest[:, None])
    if MARGIN:
        corrected = tl.where(below_zero[:, None], tl.maximum(corrected - shift[:, None], 0.0), corrected)
    entry = tl.arange(0, K)[None, :]
    for j in tl.static_range(RANKED):
        label_j = tl.sum(tl.where(entry == j, label, 0), axis=1)
        found_j = tl.sum(tl.where(entry == j, found, 0.0), axis=1)
        corrected = tl.where(columns[None, :] == label_j[:, None], found_j[:, None], corrected)
    corrected = tl.where(broken[:, None], float("nan"), corrected)
    inside = known[:, None] & (columns < classes)[None, :]
    tl.store(target[:, None] + columns[None, :], corrected, mask=inside)
