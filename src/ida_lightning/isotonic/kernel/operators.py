"""The kernel as operators of PyTorch: for eager and compiled code, with a derivative."""

from __future__ import annotations

import torch
import triton
from torch import Tensor

from ida_lightning.errors import InputError
from ida_lightning.isotonic.backward import isotonic_vjp
from ida_lightning.isotonic.kernel.device import isotonic_rows
from ida_lightning.isotonic.kernel.plan import plan
from ida_lightning.label_mix import LabelMix, tie_tolerance

# Triton has decided which of the two it is when the kernel was imported.
INTERPRETED = not isinstance(isotonic_rows, triton.JITFunction)


def launch(
    values: Tensor, labels: Tensor, weights: Tensor, temperature: float | None = None, margin: float = 0.0
) -> Tensor:
    """Run the kernel: rows corrected as they are, or their softmax at a temperature; with a margin or without.

    On the device of ``values``, whichever is the current one.
    """
    if values.stride(1) != 1 and values.shape[1] > 1:
        values = values.contiguous()
    dtype = values.dtype if temperature is None else torch.float32
    corrected = torch.empty(values.shape, dtype=dtype, device=values.device)
    if corrected.numel() == 0:
        return corrected
    rows, classes = values.shape
    fixed = plan(classes, values.stride(0), _warp_size(values.device))
    with torch.cuda.device_of(values):  # type: ignore[no-untyped-call]
        isotonic_rows[(triton.cdiv(rows, fixed.rows),)](
            values,
            labels.contiguous(),
            weights.contiguous(),
            corrected,
            rows,
            classes // fixed.vector,
            values.stride(0) // fixed.vector,
            1.0 if temperature is None else 1 / temperature,
            margin,
            tie_tolerance(weights),
            RANKED=labels.shape[1],
            K=triton.next_power_of_2(labels.shape[1]),
            ROWS=fixed.rows,
            BLOCK=fixed.block,
            CHUNKED=fixed.chunked,
            VECTOR=fixed.vector,
            SOFTMAX=temperature is not None,
            MARGIN=margin > 0,
            num_warps=fixed.warps,
            **compile_options(fixed.warps, torch.version.hip is not None),
        )
    return corrected


def compile_options(warps: int, hip: bool) -> dict[str, bool | int]:
    """Return what the compiler is told beside the number of warps.

    Left to itself, NVIDIA's assembler aims at 80 or 96 registers a thread in places, and spills to get there.
    """
    if hip:
        return {"enable_fp_fusion": True}
    return {"enable_fp_fusion": True, "maxnreg": 192 if warps == 1 else 128}


def _warp_size(device: torch.device) -> int:
    return int(torch.cuda.get_device_properties(device).warp_size) if device.type == "cuda" else 32


@torch.library.custom_op("ida_lightning::isotonic", mutates_args=())
def _isotonic_op(values: Tensor, labels: Tensor, weights: Tensor) -> Tensor:
    return launch(values, labels, weights)


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
    return launch(logits, labels, weights, temperature)


@_isotonic_softmax_op.register_fake
def _(logits: Tensor, labels: Tensor, weights: Tensor, temperature: float) -> Tensor:
    return logits.new_empty(logits.shape, dtype=torch.float32)


@torch.library.custom_op("ida_lightning::isotonic_margin", mutates_args=())
def _isotonic_margin_op(values: Tensor, labels: Tensor, weights: Tensor, margin: float) -> Tensor:
    return launch(values, labels, weights, margin=margin)


@_isotonic_margin_op.register_fake
def _(values: Tensor, labels: Tensor, weights: Tensor, margin: float) -> Tensor:
    return values.new_empty(values.shape)


def triton_solver(values: Tensor, label_mix: LabelMix) -> Tensor:
    """Compute the map of :func:`threshold_solver` in one kernel.

    A program puts the classes of its rows' labels in order, finds the level of every ranked start by Newton's method
    (as many steps as the row needs) and writes the rows. Rows of up to 8,192 classes are held in registers, read
    once and written once; short ones are several to a program, which is one warp then. Longer rows are read in chunks:
    once where they are in order, and again (from the cache, as a rule) for every step that they need. There is no
    limit on classes.

    A row with NaN, with an infinite value (-inf in a class of the rest is fine) or with a label out of range comes back
    as NaN, all of it.

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


def triton_margin_solver(soft_labels: Tensor, label_mix: LabelMix, margin: float) -> Tensor:
    """Compute the map of :func:`ida_lightning.isotonic_with_margin` in one kernel, without a derivative.

    Args:
        soft_labels: probabilities, float32, bfloat16 or float16 ``(batch, classes)``.
        label_mix: ``(batch, k)``.
        margin: above 0, up to 1.

    Raises:
        InputError: as :func:`triton_solver`.
    """
    _check_usable(soft_labels)
    corrected: Tensor = _isotonic_margin_op(soft_labels, *label_mix, margin)
    return corrected


def _check_usable(values: Tensor) -> None:
    if values.dtype == torch.float64:
        raise InputError("solver: triton computes in float32, got float64 values; use threshold")
    if values.device.type != "cuda" and not INTERPRETED:
        raise InputError(f"solver: triton needs a CUDA device, got values on {values.device}; use threshold")
