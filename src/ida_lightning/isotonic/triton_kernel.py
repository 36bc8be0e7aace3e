"""The exact correction as one kernel per batch: every row is read once and written once.

The only file that imports Triton, and imported only when it is used. On a machine without a GPU the kernels run in
Triton's interpreter (``TRITON_INTERPRET=1`` before the import): slow, for tests.
"""

# Triton reads the annotations of its kernels, so they must not become strings.
import torch
import triton
import triton.language as tl
from torch import Tensor

from ida_lightning.errors import InputError
from ida_lightning.isotonic.backward import isotonic_vjp
from ida_lightning.label_mix import LabelMix, tie_tolerance


@triton.jit
def _level(rest, base, base_count):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    """Largest mean of a block of ``base_count`` classes of sum ``base`` joined by the largest of the rest.

    Newton's method on ``base_count * (v - base / base_count) = sum relu(rest - v)``: take the classes above the level,
    move it to their mean with the base, until their number no longer changes.
    """
    level = base / base_count
    count = tl.sum((rest > level).to(tl.float32), axis=0)
    before = count - 1
    while count != before:
        before = count
        level = tl.maximum(level, (base + tl.sum(tl.where(rest > level, rest, 0.0), axis=0)) / (base_count + count))
        count = tl.sum((rest > level).to(tl.float32), axis=0)
    return level


@triton.jit  # type: ignore[untyped-decorator]
def _correct_rows(  # type: ignore[no-untyped-def]  # noqa: ANN202
    values_ptr,  # noqa: ANN001  (rows, classes), any row stride
    labels_ptr,  # noqa: ANN001  (rows, RANKED) int64, contiguous
    weights_ptr,  # noqa: ANN001  (rows, RANKED), contiguous
    corrected_ptr,  # noqa: ANN001  (rows, classes), contiguous
    row_stride,  # noqa: ANN001
    classes,  # noqa: ANN001
    per_temperature,  # noqa: ANN001  1 / T, used with SOFTMAX
    tie_tolerance,  # noqa: ANN001
    RANKED: tl.constexpr,
    RANKED_BLOCK: tl.constexpr,
    BLOCK: tl.constexpr,
    SOFTMAX: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < classes
    values = tl.load(values_ptr + row * row_stride + columns, mask=inside, other=-float("inf")).to(tl.float32)
    if SOFTMAX:
        exponents = tl.exp((values - tl.max(values, axis=0)) * per_temperature)
        values = tl.where(inside, exponents / tl.sum(exponents, axis=0), -float("inf"))

    # The canonical order of the row's label, as LabelMix.order has it: merge repeats, drop what has no weight. A
    # class's position is the number of those before it: of more weight or, in a tie, of larger value.
    entry = tl.arange(0, RANKED_BLOCK)
    label = tl.load(labels_ptr + row * RANKED + entry, mask=entry < RANKED, other=-1)
    share = tl.load(weights_ptr + row * RANKED + entry, mask=entry < RANKED, other=0.0)
    same = label[:, None] == label[None, :]
    repeats = tl.sum((same & (entry[None, :] < entry[:, None])).to(tl.int32), axis=1)
    weight = tl.sum(tl.where(same, share.to(tl.float64)[None, :], 0.0), axis=1)
    if share.dtype != tl.float64:
        weight = weight.to(tl.float32)
    present = (label >= 0) & (repeats == 0) & (weight > 0)
    if RANKED > 1:
        # Ties chain down the weights, so a group begins where nothing is heavier within the tolerance, and every class
        # gets the weight with which its group begins. Axis 0 is the heavier class of a pair.
        ahead = weight[:, None] - weight[None, :]
        close = present[:, None] & (ahead > 0) & (ahead <= tie_tolerance)
        begins = tl.sum(close.to(tl.int32), axis=0) == 0
        above = begins[None, :] & present[None, :] & (weight[None, :] >= weight[:, None])
        weight = tl.min(tl.where(above, weight[None, :], float("inf")), axis=1)
    mix_values = tl.zeros((RANKED_BLOCK,), tl.float32)
    is_rest = inside
    for j in tl.static_range(RANKED):
        label_j = tl.sum(tl.where((entry == j) & present, label + 1, 0), axis=0) - 1  # -1 where absent
        here = columns == label_j
        mix_values = tl.where(entry == j, tl.sum(tl.where(here, values, 0.0), axis=0), mix_values)
        is_rest = is_rest & (columns != label_j)
    tie = weight[None, :] == weight[:, None]
    larger = (mix_values[None, :] > mix_values[:, None]) | (
        (mix_values[None, :] == mix_values[:, None]) & (entry[None, :] < entry[:, None])
    )
    before = present[None, :] & ((weight[None, :] > weight[:, None]) | (tie & larger))
    position = tl.where(present, tl.sum(before.to(tl.int32), axis=1), RANKED_BLOCK)
    ranked = tl.sum(present.to(tl.int32), axis=0)

    # m_i = min over starts a <= i of the largest mean from a to any end at or behind i.
    rest = tl.where(is_rest, values, -float("inf"))
    solved = tl.full((RANKED_BLOCK,), float("inf"), tl.float32)
    for a in tl.static_range(RANKED):
        if a < ranked:
            from_a = present & (position >= a)
            bound = tl.zeros_like(mix_values) + _level(
                rest, tl.sum(tl.where(from_a, mix_values, 0.0), axis=0), tl.sum(from_a.to(tl.float32), axis=0)
            )
            for b in tl.static_range(a, RANKED - 1):
                mean = tl.sum(tl.where(from_a & (position <= b), mix_values, 0.0), axis=0) / (b - a + 1)
                bound = tl.where((position <= b) & (b < ranked - 1), tl.maximum(bound, mean), bound)
            solved = tl.where(from_a, tl.minimum(solved, bound), solved)

    # Rounding of the means must not touch what already is in order.
    reversed_pair = present[:, None] & present[None, :] & (position[:, None] < position[None, :])
    reversed_pair = reversed_pair & (mix_values[:, None] < mix_values[None, :])
    wrong = tl.sum(tl.sum(reversed_pair.to(tl.int32), axis=1), axis=0)
    smallest = tl.min(tl.where(present, mix_values, float("inf")), axis=0)
    in_order = (wrong == 0) & (tl.max(rest, axis=0) <= smallest)
    solved = tl.where(in_order, mix_values, solved)

    corrected = tl.minimum(values, tl.min(tl.where(present, solved, float("inf")), axis=0))
    for j in tl.static_range(RANKED):
        label_j = tl.sum(tl.where((entry == j) & present, label + 1, 0), axis=0) - 1
        corrected = tl.where(columns == label_j, tl.sum(tl.where(entry == j, solved, 0.0), axis=0), corrected)
    tl.store(corrected_ptr + row * classes + columns, corrected, mask=inside)


# The decorator has decided which of the two it is.
_INTERPRETED = not isinstance(_correct_rows, triton.JITFunction)


def _launch(values: Tensor, labels: Tensor, weights: Tensor, temperature: float | None) -> Tensor:
    if values.stride(1) != 1:
        values = values.contiguous()
    dtype = values.dtype if temperature is None else torch.float32
    corrected = torch.empty(values.shape, dtype=dtype, device=values.device)
    rows, classes = values.shape
    if corrected.numel() == 0:
        return corrected
    block = triton.next_power_of_2(classes)
    _correct_rows[(rows,)](
        values,
        labels.contiguous(),
        weights.contiguous(),
        corrected,
        values.stride(0),
        classes,
        1.0 if temperature is None else 1 / temperature,
        tie_tolerance(weights),
        RANKED=labels.shape[1],
        RANKED_BLOCK=triton.next_power_of_2(labels.shape[1]),
        BLOCK=block,
        SOFTMAX=temperature is not None,
        num_warps=min(32, max(4, block // 512)),
    )
    return corrected


@torch.library.custom_op("ida_lightning::isotonic", mutates_args=())
def _isotonic_op(values: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    return _launch(values, labels, weights, None)


@_isotonic_op.register_fake
def _(values: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    return values.new_empty(values.shape)


def _save(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]  # noqa: ANN001
    ctx.save_for_backward(*inputs, output)


def _backward(ctx, grad):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
    values, labels, weights, corrected = ctx.saved_tensors
    return isotonic_vjp(grad, values, corrected, LabelMix(labels, weights)), None, None


_isotonic_op.register_autograd(_backward, setup_context=_save)


@torch.library.custom_op("ida_lightning::isotonic_softmax", mutates_args=())
def _isotonic_softmax_op(logits: Tensor, labels: Tensor, weights: Tensor, temperature: float) -> Tensor:
    return _launch(logits, labels, weights, temperature)


@_isotonic_softmax_op.register_fake
def _(logits: Tensor, labels: Tensor, weights: Tensor, temperature: float) -> Tensor:
    return logits.new_empty(logits.shape, dtype=torch.float32)


def triton_solver(values: Tensor, label_mix: LabelMix) -> Tensor:
    """Compute the map of :func:`threshold_solver` in one kernel.

    One program per row holds it in registers, puts the label's classes in order, finds the level of every ranked start
    by Newton's method (as many steps as the row needs, each a reduction over registers) and writes the row.

    Args:
        values: float32, bfloat16 or float16 ``(batch, classes)``, computed in float32.
        label_mix: ``(batch, k)``; the program grows with k squared, so k is meant to be small.

    Returns:
        The corrected rows ``(batch, classes)``, contiguous, in the dtype of ``values``.

    Raises:
        InputError: for float64, and away from a GPU unless Triton interprets.
    """
    _check_usable(values)
    corrected: Tensor = _isotonic_op(values, *label_mix)
    return corrected


def triton_softmax_solver(logits: Tensor, label_mix: LabelMix, temperature: float) -> Tensor:
    """Compute ``softmax(logits / temperature)``, corrected before it is written; float32 ``(batch, classes)``.

    Args:
        logits: float32, bfloat16 or float16 ``(batch, classes)``.
        label_mix: ``(batch, k)``.
        temperature: T > 0.

    Raises:
        InputError: as :func:`triton_solver`.
    """
    _check_usable(logits)
    corrected: Tensor = _isotonic_softmax_op(logits, *label_mix, temperature)
    return corrected


def _check_usable(values: Tensor) -> None:
    if values.dtype == torch.float64:
        raise InputError("solver: triton computes in float32, got float64 values; use threshold")
    if values.device.type != "cuda" and not _INTERPRETED:
        raise InputError(f"solver: triton needs a CUDA device, got values on {values.device}; use threshold")
