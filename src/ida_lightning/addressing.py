"""Labels that may be out of range, on devices where nobody looks at them."""

from __future__ import annotations

import torch
from torch import Tensor

# Devices on which gathering with an index out of range is a plain error.
_GATHER_CHECKS = ("cpu",)


def addressable(labels: Tensor, classes: int) -> tuple[Tensor, Tensor | None]:
    """Return labels that can be gathered from ``classes`` columns, and which rows needed a change for that.

    On an accelerator nobody looks at labels, and one out of range would address memory outside or end the process's
    use of the device. Whoever gathers there clamps them, and says of such rows that they are NaN (:func:`nan_rows`).

    Args:
        labels: int64 ``(batch, k)``.
        classes: how many there are.

    Returns:
        The labels, and bool ``(batch, 1)``: a label of the row was out of range; None on the CPU, where gathering
        itself raises. The host does not wait.
    """
    if labels.device.type in _GATHER_CHECKS:
        return labels, None
    inside = labels.clamp(0, classes - 1)
    return inside, (inside != labels).any(1, keepdim=True)


def nan_rows(values: Tensor, outside: Tensor | None) -> Tensor:
    """Return ``values``, ``(batch,)`` or ``(batch, classes)``, with NaN in the rows that :func:`addressable` named."""
    if outside is None:
        return values
    return values.masked_fill(outside if values.ndim == 2 else outside[:, 0], torch.nan)
