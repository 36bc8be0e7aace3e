"""Cross-entropy with the hard label of a mixed image."""

import torch
from torch import Tensor

from ida_lightning.addressing import addressable, nan_rows
from ida_lightning.errors import positive
from ida_lightning.label_mix import LabelMix, check_label_mix


def mixed_cross_entropy(student_logits: Tensor, label_mix: LabelMix, temperature: float = 1.0) -> Tensor:
    """Compute the cross-entropy of the student with the hard label: every class counts with its share of the image.

    Equal to the cross-entropy with ``label_mix.dense(classes)`` without building that matrix. At a temperature T it is
    ``T^2`` times the cross-entropy with ``softmax(student_logits / T)``, so that its gradient keeps its size, as in
    :func:`distillation_loss`: up to a constant it is the distillation loss of a teacher that answers the hard label.

    Args:
        student_logits: ``(batch, classes)``; half types are computed in float32.
        label_mix: ``(batch, k)``, in any order, repeats allowed.
        temperature: T > 0 of the student's softmax.

    Returns:
        One loss per row, ``(batch,)``, in nats; NaN, on an accelerator, where a label is out of range.

    Raises:
        InputError: if shapes or devices do not fit and, on the CPU, for labels out of range, and if the temperature is
            not > 0.

    Example:
        >>> mixed_cross_entropy(torch.zeros(1, 4), LabelMix.unmixed(torch.tensor([2])))
        tensor([1.3863])
    """
    check_label_mix(label_mix, student_logits, "student_logits")
    dtype = torch.promote_types(student_logits.dtype, torch.float32)
    positive("temperature", temperature)
    softened = student_logits if temperature == 1 else student_logits.to(dtype) / temperature
    log_probs = softened.log_softmax(1, dtype=dtype)
    labels, outside = addressable(label_mix.labels, student_logits.shape[1])
    return nan_rows(-(label_mix.weights * log_probs.gather(1, labels)).sum(1) * temperature**2, outside)
