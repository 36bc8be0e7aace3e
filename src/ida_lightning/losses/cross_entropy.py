"""Cross-entropy with the hard label of a mixed image."""

import torch
from torch import Tensor

from ida_lightning.label_mix import LabelMix, check_label_mix


def mixed_cross_entropy(student_logits: Tensor, label_mix: LabelMix) -> Tensor:
    """Compute the cross-entropy of the student with the hard label: every class counts with its share of the image.

    Equal to the cross-entropy with ``label_mix.dense(classes)`` without building that matrix.

    Args:
        student_logits: ``(batch, classes)``; half types are computed in float32.
        label_mix: ``(batch, k)``, in any order, repeats allowed.

    Returns:
        One loss per row, ``(batch,)``, in nats.

    Raises:
        InputError: if shapes or devices do not fit and, on the CPU, for labels out of range.

    Example:
        >>> mixed_cross_entropy(torch.zeros(1, 4), LabelMix.unmixed(torch.tensor([2])))
        tensor([1.3863])
    """
    check_label_mix(label_mix, student_logits, "student_logits")
    dtype = torch.promote_types(student_logits.dtype, torch.float32)
    log_probs = student_logits.log_softmax(1, dtype=dtype)
    return -(label_mix.weights * log_probs.gather(1, label_mix.labels)).sum(1)
