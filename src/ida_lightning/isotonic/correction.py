"""Isotonic correction of soft labels: checks the input and chooses a solver."""

from __future__ import annotations

import math
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from ida_lightning.errors import InputError, can_look, is_a, is_plain, one_of, positive, probabilities
from ida_lightning.isotonic.backward import isotonic_vjp
from ida_lightning.isotonic.choice import choose
from ida_lightning.isotonic.threshold import threshold_solver
from ida_lightning.isotonic.tree import tree_solver
from ida_lightning.isotonic.weak_order import weak_order_solver
from ida_lightning.label_mix import LabelMix

Solver = Literal["auto", "threshold", "triton", "weak_order", "tree"]
Space = Literal["softened", "probabilities", "logits"]


def isotonic_soft_labels(
    values: Tensor, label_mix: LabelMix, solver: Solver = "auto", validate: bool | None = None
) -> Tensor:
    """Repair a teacher's soft labels so that they respect the order of the mixed image's label.

    On an image that is 0.7 panda and 0.3 cat a teacher should say panda >= cat >= every other class, and often does
    not. This returns the nearest row that does: the least-squares projection, which for probabilities is also the
    nearest in KL divergence, and again sums to one. Rows that were right come back bit for bit.

    ``"auto"`` chooses by device and dtype:

    * ``"triton"`` on CUDA, if a trial on the device agrees with ``"threshold"`` (:func:`kernel_trials` says what
      came of it), for rows of up to 8,192 classes, labels of up to four, and not in float64: one kernel that reads
      every row once and writes it once. Asked for by name it takes rows of any length, and raises where it fails.
    * ``"threshold"`` everywhere else: vectorised PyTorch, on the CPU a few passes over the rows.

    For checking only, row by row in Python and float64: ``"weak_order"`` (sort and pool adjacent violators) and
    ``"tree"`` (IRT-BIN on the tree of the order). All solve the same problem exactly, and all can be differentiated:
    gradients are averaged over the blocks that were pooled (:func:`isotonic_vjp`).

    Args:
        values: floating point ``(batch, classes)``; probabilities or logits, the projection is for any real rows.
            bfloat16 and float16 are computed in float32 and returned in their own type.
        label_mix: the classes of each row and their weights, on the same device. Any number of classes per row, in
            any order, repeats allowed; tied classes, by the rule of :class:`LabelOrder`, are not ordered among
            themselves; a row of one class is ordered as that class above the rest.
        solver: see above.
        validate: whether to look at the values, and not only at shapes: True always, False never, None on the CPU only,
            because looking makes the host wait for an accelerator.

    Returns:
        The corrected rows, ``(batch, classes)``, in the dtype and on the device of ``values``.

    Raises:
        InputError: for shapes, dtypes, devices or a solver that do not fit; with validation also for labels out of
            range, weights that are no shares of one, and NaN or infinite values.

    Example:
        >>> soft_labels = torch.tensor([[0.30, 0.15, 0.45, 0.10]])  # says class 2 first
        >>> mix = LabelMix.pair(torch.tensor([0]), torch.tensor([1]), 0.7)  # 0.7 of class 0, 0.3 of class 1
        >>> isotonic_soft_labels(soft_labels, mix)
        tensor([[0.3000, 0.3000, 0.3000, 0.1000]])

    References:
        Cui and Yan, Isotonic Data Augmentation for Knowledge Distillation, IJCAI 2021, arXiv 2107.01412.
    """
    one_of("solver", solver, get_args(Solver))
    is_a("label_mix", label_mix, LabelMix).check_describes(values, "values")
    if can_look(values, validate):
        _validate("values", values, label_mix)
    if solver == "auto":
        solver = choose(values, label_mix)
    needs_grad = values.requires_grad and torch.is_grad_enabled()
    # Blocks are found in the solution before it is rounded: half types would join what is only close.
    computed = values.float() if needs_grad and values.dtype.itemsize < 4 else values
    # In a compiled graph the operators bring their own derivative, the same one.
    if not torch.compiler.is_compiling() and (needs_grad or not is_plain(values, *label_mix)):
        corrected: Tensor = _Projection.apply(computed, *label_mix, solver)
    else:
        corrected = _solve(computed, label_mix, solver)
    return _in_type(corrected, values.dtype)


def _in_type(values: Tensor, dtype: torch.dtype) -> Tensor:
    return values if values.dtype == dtype else values.to(dtype)  # to() is not free where there is nothing to do


def _solve(values: Tensor, label_mix: LabelMix, solver: Solver) -> Tensor:
    if solver == "triton":
        from ida_lightning.isotonic.kernel.operators import triton_solver

        return triton_solver(values, label_mix)
    computed = _in_type(values, torch.promote_types(values.dtype, torch.float32))
    if solver == "weak_order":
        corrected = weak_order_solver(computed, label_mix.order().levels(values.shape[1]))
    elif solver == "tree":
        corrected = tree_solver(computed, label_mix.order())
    else:
        corrected = threshold_solver(computed, label_mix)
    return _in_type(corrected, values.dtype)


class _Projection(torch.autograd.Function):
    """Any solver forward, block averaging backward; also inside the transforms of ``torch.func``."""

    @staticmethod
    def forward(values: Tensor, labels: Tensor, weights: Tensor, solver: Solver) -> Tensor:
        return _solve(values, LabelMix(labels, weights), solver)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:3], output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        values, labels, weights, corrected = ctx.saved_tensors
        return isotonic_vjp(grad, values, corrected, LabelMix(labels, weights)), None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *inputs: Any) -> tuple[Tensor, int]:
        """Rows know nothing of each other: a batch of batches is one long batch."""
        *tensors, solver = inputs
        rows = [
            (tensor.expand(info.batch_size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)).flatten(0, 1)
            for tensor, dim in zip(tensors, in_dims, strict=False)
        ]
        corrected: Tensor = _Projection.apply(*rows, solver)
        return corrected.view(info.batch_size, -1, corrected.shape[1]), 0


def _validate(name: str, values: Tensor, label_mix: LabelMix) -> None:
    classes = values.shape[1]
    label_mix.check_values(classes)
    if values.numel() == 0:
        return
    # One pass; the rows are only looked through when it says that there may be something to find: a sum of squares is
    # finite only of numbers that are, and that are far from where any other sum is not.
    flat = _in_type(values.detach(), torch.promote_types(values.dtype, torch.float32)).reshape(-1)
    if flat.device.type == "cpu":
        array = flat.numpy()
        with np.errstate(over="ignore", invalid="ignore"):
            squares = np.dot(array, array)
    else:
        squares = float(flat @ flat)
    if math.isfinite(squares):
        return
    most = torch.finfo(flat.dtype).max / (4 * classes)
    low, high = (float(bound) for bound in flat.aminmax())
    if -most <= low and high <= most:  # not so if one is NaN
        return
    wrong = int((~torch.isfinite(values)).any(1).sum())
    if wrong:
        raise InputError(f"{name}: expected finite numbers, got NaN or infinity in {wrong} of {len(values)} rows")
    raise InputError(
        f"{name}: expected numbers whose sums are finite, up to {most:.3g} for {classes} classes, "
        f"got {max(high, -low):.3g}"
    )


def isotonic_softmax(
    logits: Tensor, label_mix: LabelMix, temperature: float = 1.0, solver: Solver = "auto", validate: bool | None = None
) -> Tensor:
    """Compute corrected soft labels straight from logits.

    Equal to ``isotonic_soft_labels(softmax(logits / temperature), label_mix)``.
    With the Triton solver one kernel does both, and the uncorrected soft label is never written to memory. That one is
    for teachers: it has no gradient.

    Args:
        logits: floating point ``(batch, classes)``.
        label_mix: see :func:`isotonic_soft_labels`.
        temperature: T > 0.
        solver: see :func:`isotonic_soft_labels`.
        validate: see :func:`isotonic_soft_labels`.

    Returns:
        Probabilities ``(batch, classes)``, float32 (float64 for float64 logits).

    Raises:
        InputError: as :func:`isotonic_soft_labels`, and for a temperature that is not > 0.

    Example:
        >>> mix = LabelMix.pair(torch.tensor([0]), torch.tensor([1]), 0.7)
        >>> isotonic_softmax(torch.tensor([[2.0, 0.0, 1.0]]), mix, temperature=2.0)
        tensor([[0.5065, 0.2468, 0.2468]])
    """
    positive("temperature", temperature)
    one_of("solver", solver, get_args(Solver))
    is_a("label_mix", label_mix, LabelMix).check_describes(logits, "logits")
    if can_look(logits, validate):
        _validate("logits", logits, label_mix)
    if solver == "auto":
        solver = choose(logits, label_mix, "plain" if logits.requires_grad else "softmax")
    if solver == "triton" and not logits.requires_grad:
        from ida_lightning.isotonic.kernel.operators import triton_softmax_solver

        return triton_softmax_solver(logits, label_mix, temperature)
    dtype = torch.promote_types(logits.dtype, torch.float32)
    return isotonic_soft_labels((logits / temperature).softmax(1, dtype=dtype), label_mix, solver, validate=False)


def correct_soft_labels(
    soft_labels: Tensor, label_mix: LabelMix, temperature: float, space: Space, solver: Solver = "auto"
) -> Tensor:
    """Correct soft labels ``(batch, classes)`` in one of the three spaces; they stay softened probabilities.

    At a high temperature little mass is left to move in the softened label, so where the correction acts is the
    first choice to make.

    Args:
        soft_labels: ``softmax(logits / temperature)``, float32 or better; on the CPU it is checked that they are
            probabilities.
        label_mix: the label mix of every row.
        temperature: the T at which the soft labels were softened.
        space: ``"softened"`` corrects the soft label itself, softmax(z / T); ``"probabilities"`` corrects softmax(z)
            and softens the result, which keeps order and ties; ``"logits"`` corrects z, as the code released with
            the paper does. z is read back from the soft label, so that corrections can follow each other.
        solver: see :func:`isotonic_soft_labels`.

    Returns:
        Softened probabilities ``(batch, classes)`` in the dtype they came in. They respect the order exactly: what
        follows the projection is monotone in floating point too.

    Raises:
        InputError: as :func:`isotonic_soft_labels`, and for an unknown space, a temperature that is not > 0 and soft
            labels that are no probabilities.

    Example:
        >>> soft_labels = torch.tensor([[0.25, 0.15, 0.35, 0.25]])
        >>> mix = LabelMix.pair(torch.tensor([0]), torch.tensor([1]), 0.7)
        >>> correct_soft_labels(soft_labels, mix, temperature=4.0, space="logits").round(decimals=4)
        tensor([[0.2611, 0.2463, 0.2463, 0.2463]])
    """
    one_of("space", space, get_args(Space))
    positive("temperature", temperature)
    probabilities("soft_labels", soft_labels)
    is_a("label_mix", label_mix, LabelMix).check_describes(soft_labels, "soft_labels")
    if space == "softened":
        return isotonic_soft_labels(soft_labels, label_mix, solver)
    # The logits, up to a constant per row that neither the softmax nor the projection notices.
    logits = soft_labels.clamp_min(torch.finfo(soft_labels.dtype).tiny).log() * temperature
    if space == "logits":
        corrected = isotonic_soft_labels(logits, label_mix, solver)
    else:
        probs = isotonic_soft_labels(logits.softmax(1), label_mix, solver)
        corrected = probs.clamp_min(torch.finfo(probs.dtype).tiny).log()
    return (corrected / temperature).softmax(1)
