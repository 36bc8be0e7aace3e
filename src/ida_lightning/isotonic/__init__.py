"""Isotonic correction of soft labels: one door, several solvers."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from ida_lightning.errors import InputError
from ida_lightning.isotonic.threshold import threshold_solver
from ida_lightning.label_mix import LabelMix

__all__ = ["Solver", "Space", "correct_soft_labels", "isotonic_soft_labels"]

Solver = Literal["auto", "threshold"]
Space = Literal["softened", "probabilities", "logits"]


def isotonic_soft_labels(soft_labels: Tensor, label_mix: LabelMix, solver: Solver = "auto") -> Tensor:
    """Repair a teacher's soft labels so that they respect the order of the mixed image's label.

    On an image that is 0.7 panda and 0.3 cat a teacher should say panda >= cat >= every other class, and often
    does not. This returns the nearest row that does: the least-squares projection, which for probabilities is
    also the nearest in KL divergence, and again sums to one. Rows that were right come back bit for bit.

    Args:
        soft_labels: floating point ``(batch, classes)``; probabilities or logits, the projection is for any
            real rows. bfloat16 and float16 are computed in float32 and returned in their own type.
        label_mix: the classes of each row and their weights, on the same device. Any number of classes per
            row, in any order, repeats allowed; classes of exactly equal weight are not ordered among
            themselves; a row of one class is ordered as that class above the rest.
        solver: ``"auto"`` chooses by device and shape. Today that is always ``"threshold"``: exact, vectorised
            PyTorch, any device.

    Returns:
        The corrected rows, ``(batch, classes)``, in the dtype and on the device of ``soft_labels``.

    Raises:
        InputError: for shapes, dtypes, devices or a solver that do not fit. On the CPU also for labels out of
            range, weights that are no shares of one, and NaN or infinite soft labels; on an accelerator values
            are not looked at, because looking would stall it.

    Example:
        >>> soft_labels = torch.tensor([[0.30, 0.15, 0.45, 0.10]])  # says class 2 first
        >>> mix = LabelMix.pair(torch.tensor([0]), torch.tensor([1]), 0.7)  # 0.7 of class 0, 0.3 of class 1
        >>> isotonic_soft_labels(soft_labels, mix)
        tensor([[0.3000, 0.3000, 0.3000, 0.1000]])

    References:
        Cui and Yan, Isotonic Data Augmentation for Knowledge Distillation, IJCAI 2021, arXiv 2107.01412.
    """
    if solver not in get_args(Solver):
        raise InputError(f"solver: expected one of {', '.join(get_args(Solver))}, got {solver!r}")
    _check(soft_labels, label_mix)
    computed = soft_labels if soft_labels.dtype == torch.float64 else soft_labels.float()
    return threshold_solver(computed, label_mix.order()).to(soft_labels.dtype)


def correct_soft_labels(
    soft_labels: Tensor, label_mix: LabelMix, temperature: float, space: Space, solver: Solver = "auto"
) -> Tensor:
    """Soft labels ``(batch, classes)``, corrected in one of the three spaces, as softened probabilities again.

    At a high temperature little mass is left to move in the softened label, so where the correction acts is the
    first choice to make.

    Args:
        soft_labels: ``softmax(logits / temperature)``.
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
        InputError: as :func:`isotonic_soft_labels`, and for an unknown space or a temperature that is not > 0.

    Example:
        >>> soft_labels = torch.tensor([[0.25, 0.15, 0.35, 0.25]])
        >>> mix = LabelMix.pair(torch.tensor([0]), torch.tensor([1]), 0.7)
        >>> correct_soft_labels(soft_labels, mix, temperature=4.0, space="logits").round(decimals=4)
        tensor([[0.2611, 0.2463, 0.2463, 0.2463]])
    """
    if space not in get_args(Space):
        raise InputError(f"space: expected one of {', '.join(get_args(Space))}, got {space!r}")
    if not temperature > 0:
        raise InputError(f"temperature: expected a number > 0, got {temperature}")
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


def _check(soft_labels: Tensor, label_mix: LabelMix) -> None:
    label_mix.check_describes(soft_labels, "soft_labels")
    if soft_labels.device.type != "cpu" or torch.compiler.is_compiling():
        return
    label_mix.check_values(soft_labels.shape[1])
    # One reduction; the rows are only looked through when it says that there is something to find.
    if not bool(torch.isfinite(soft_labels.sum())):
        wrong = int((~torch.isfinite(soft_labels)).any(1).sum())
        if wrong:
            raise InputError(
                f"soft_labels: expected finite values, got NaN or infinity in {wrong} of {len(soft_labels)} rows"
            )
