"""Squared differences between student and teacher: of the logits, and of the probabilities."""

import torch
from torch import Tensor

from ida_lightning.errors import InputError


def logit_loss(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """How far the student's logits are from the teacher's: the mean square over the classes.

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
    _check(student_logits, teacher_logits, "teacher_logits")
    dtype = torch.promote_types(student_logits.dtype, torch.float32)
    return (student_logits.to(dtype) - teacher_logits.to(dtype)).square().mean(1)


def probability_loss(student_logits: Tensor, soft_labels: Tensor, temperature: float = 1.0) -> Tensor:
    """How far ``softmax(student_logits / temperature)`` is from the soft label: the mean square over the classes.

    At many classes it is small: the squares add up to 2 at most, and are divided by the number of classes.

    Args:
        student_logits: ``(batch, classes)``; half types are computed in float32.
        soft_labels: probabilities ``(batch, classes)``, already softened.
        temperature: T > 0.

    Returns:
        One loss per row, ``(batch,)``.

    Raises:
        InputError: if shapes differ.

    Example:
        >>> probability_loss(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]))
        tensor([0.2500])
    """
    _check(student_logits, soft_labels, "soft_labels")
    dtype = torch.promote_types(student_logits.dtype, torch.float32)
    student_probs = (student_logits.to(dtype) / temperature).softmax(1)
    return (student_probs - soft_labels.to(dtype)).square().mean(1)


def _check(student_logits: Tensor, other: Tensor, name: str) -> None:
    if student_logits.ndim != 2 or student_logits.shape != other.shape:
        raise InputError(
            f"{name}: expected the student's (batch, classes), {tuple(student_logits.shape)}, got {tuple(other.shape)}"
        )
