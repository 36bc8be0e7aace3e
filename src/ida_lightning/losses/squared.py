"""Squared differences between student and teacher: of the logits, and of the probabilities."""

import torch
from torch import Tensor

from ida_lightning.errors import float_matrix, floats_like, positive, probabilities


def logit_loss(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Compute how far the student's logits are from the teacher's: the mean square over the classes.

    Args:
        student_logits: ``(batch, classes)``; half types are computed in float32.
        teacher_logits: ``(batch, classes)``.

    Returns:
        One loss per row, ``(batch,)``.

    Raises:
        InputError: if shapes differ; they would broadcast to a wrong loss.

    Example:
        >>> logit_loss(torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0, 0.0]]))
        tensor([2.])
    """
    float_matrix("student_logits", student_logits)
    floats_like("teacher_logits", teacher_logits, "student_logits", student_logits)
    dtype = torch.promote_types(student_logits.dtype, torch.float32)
    return (student_logits.to(dtype) - teacher_logits.to(dtype)).square().mean(1)


def probability_loss(student_logits: Tensor, soft_labels: Tensor, temperature: float = 1.0) -> Tensor:
    """Compute the mean square over the classes of ``softmax(student_logits / temperature) - soft_labels``.

    At many classes it is small: the squares add up to 2 at most, and are divided by the number of classes.

    Args:
        student_logits: ``(batch, classes)``; half types are computed in float32.
        soft_labels: probabilities ``(batch, classes)``, already softened. Checked on the CPU.
        temperature: T > 0.

    Returns:
        One loss per row, ``(batch,)``.

    Raises:
        InputError: if shapes differ, soft labels are no probabilities or the temperature is not > 0.

    Example:
        >>> probability_loss(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]))
        tensor([0.2500])
    """
    float_matrix("student_logits", student_logits)
    floats_like("soft_labels", soft_labels, "student_logits", student_logits)
    probabilities("soft_labels", soft_labels)
    positive("temperature", temperature)
    dtype = torch.promote_types(student_logits.dtype, torch.float32)
    student_probs = (student_logits.to(dtype) / temperature).softmax(1)
    return (student_probs - soft_labels.to(dtype)).square().mean(1)
