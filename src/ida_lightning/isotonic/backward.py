"""The derivative of the projection: gradients are averaged over blocks, whatever solver found them."""

from __future__ import annotations

import torch
from torch import Tensor

from ida_lightning.addressing import addressable, nan_rows
from ida_lightning.errors import floats_like
from ida_lightning.label_mix import LabelMix, check_label_mix


def isotonic_vjp(grad: Tensor, values: Tensor, corrected: Tensor, label_mix: LabelMix) -> Tensor:
    """Compute the vector-Jacobian product of the isotonic correction, from its input and its output.

    The projection replaces every block by its mean, so its Jacobian is symmetric: 1 / size within a block, the
    identity elsewhere. A block is what has one value after the correction and moved: ranked classes of equal
    corrected value, joined at the last by the rest classes that stood above it. Where a row sits on a kink (values
    equal before any correction), this is the derivative of leaving it alone.

    Args:
        grad: gradient with respect to the corrected rows, ``(batch, classes)``.
        values: what was corrected, ``(batch, classes)``.
        corrected: the solution for it.
        label_mix: ``(batch, k)``.

    Returns:
        Gradient with respect to ``values``, ``(batch, classes)``. The host does not wait for an accelerator, where
        labels out of range make their row NaN.

    Raises:
        InputError: for shapes, dtypes or devices that do not fit and, on the CPU, for labels out of range.

    Example:
        >>> values = torch.tensor([[0.1, 0.2, 0.6, 0.1]])
        >>> mix = LabelMix.pair(torch.tensor([0]), torch.tensor([1]), 0.7)
        >>> corrected = torch.tensor([[0.3, 0.3, 0.3, 0.1]])
        >>> isotonic_vjp(torch.tensor([[3.0, 0.0, 0.0, 5.0]]), values, corrected, mix)
        tensor([[1., 1., 1., 5.]])
    """
    check_label_mix(label_mix, values, "values")
    floats_like("corrected", corrected, "values", values)
    floats_like("grad", grad, "values", values)
    labels, outside = addressable(label_mix.labels, values.shape[1])
    order = LabelMix(labels, label_mix.weights).order()
    labels, present = order.labels, order.present
    own, solved, own_grad = (rows.gather(1, labels) for rows in (values, corrected, grad))
    moved = (own != solved) & present
    # The last class of the chain is the smallest, also where a tie put another one behind it.
    level = torch.where(present, solved, torch.inf).amin(1, keepdim=True)
    joined = (values > level).scatter(1, labels, False)
    joined_count, joined_grad = joined.sum(1, keepdim=True), torch.where(joined, grad, 0).sum(1, keepdim=True)

    same = (solved[:, :, None] == solved[:, None, :]) & (moved[:, :, None] | moved[:, None, :])
    same = (same | torch.eye(labels.shape[1], dtype=torch.bool, device=grad.device)) & present[:, None, :]
    at_level = (solved == level) & (joined_count > 0)
    total = (same * own_grad[:, None, :]).sum(2) + at_level * joined_grad
    count = same.sum(2) + at_level * joined_count
    mean = total / count.clamp_min(1)
    # Absent entries carry the first label, so they must carry the first label's gradient too.
    mean = torch.where(present, mean, mean[:, :1])
    level_grad = torch.where(at_level & present, mean, -torch.inf).amax(1, keepdim=True)
    result = torch.where(joined, level_grad, grad).scatter(1, labels, mean)
    return nan_rows(result, outside)
