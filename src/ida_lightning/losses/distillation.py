"""The distillation loss: the only place that holds the factor temperature squared."""

import torch
from torch import Tensor
from torch.nn import functional as F

from ida_lightning.errors import InputError


def distillation_loss(student_logits: Tensor, soft_labels: Tensor, temperature: float) -> Tensor:
    """How far the softened student is from the soft label: ``T^2 KL(soft_labels || softmax(student_logits / T))``.

    The factor keeps the gradient's size when the temperature changes, so that hard and soft weights mean the
    same at every temperature (Hinton, Vinyals, Dean 2015, arXiv 1503.02531, section 2).

    Args:
        student_logits: ``(batch, classes)``; half types are computed in float32.
        soft_labels: probabilities ``(batch, classes)``, already softened; zeros are allowed.
        temperature: T > 0.

    Returns:
        One loss per row, ``(batch,)``, in nats; the mean over rows is what others call ``batchmean``.

    Raises:
        InputError: if shapes differ; they would broadcast to a wrong loss.

    Example:
        >>> distillation_loss(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]), temperature=2.0)
        tensor([2.7726])
    """
    if student_logits.ndim != 2 or student_logits.shape != soft_labels.shape:
        raise InputError(
            f"soft_labels: expected the student's (batch, classes), {tuple(student_logits.shape)}, got "
            f"{tuple(soft_labels.shape)}"
        )
    dtype = torch.promote_types(student_logits.dtype, torch.float32)
    log_probs = (student_logits.to(dtype) / temperature).log_softmax(1)
    return F.kl_div(log_probs, soft_labels.to(dtype), reduction="none").sum(1) * temperature**2
