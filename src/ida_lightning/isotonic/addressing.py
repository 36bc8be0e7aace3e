"""Labels that may be out of range, on devices where nobody looks at them."""

from __future__ import annotations

from torch import Tensor

from ida_lightning.label_mix import LabelMix

# Devices on which gathering with an index out of range is a plain error.
_GATHER_CHECKS = ("cpu",)


def addressable(label_mix: LabelMix, values: Tensor) -> tuple[LabelMix, Tensor | None]:
    """Return the mix with labels that can be gathered from ``values``, and which rows needed that.

    On an accelerator nobody looks at labels, and one out of range would address memory outside or end the process's
    use of the device. Whoever gathers there clamps them and says what becomes of such rows.

    Args:
        label_mix: ``(batch, k)``.
        values: ``(batch, classes)``.

    Returns:
        The mix, and bool ``(batch, 1)``: a label of the row was out of range; None on the CPU, where gathering itself
        raises. The host does not wait.
    """
    if values.device.type in _GATHER_CHECKS:
        return label_mix, None
    labels = label_mix.labels.clamp(0, values.shape[1] - 1)
    return LabelMix(labels, label_mix.weights), (labels != label_mix.labels).any(1, keepdim=True)
