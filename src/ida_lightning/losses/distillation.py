"""The distillation loss, with the factor temperature squared; the cross-entropy at a temperature has it too."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from ida_lightning.losses.base import DistillationLoss, Taught, soften


def distillation_loss(student_logits: Tensor, soft_labels: Tensor, temperature: float) -> Tensor:
    """Compute the distillation loss: ``T^2 KL(soft_labels || softmax(student_logits / T))``.

    The factor keeps the gradient's size when the temperature changes, so that hard and soft weights mean the
    same at every temperature (Hinton, Vinyals, Dean 2015, arXiv 1503.02531, section 2). It also magnifies rounding, so
    that the loss at a temperature above 10 is computed in float64, where the device has it. Soft labels in float32 are
    good for temperatures up to 10,000.

    Args:
        student_logits: ``(batch, classes)``; half types are computed in float32.
        soft_labels: probabilities ``(batch, classes)``, already softened; zeros are allowed. Checked on the CPU.
        temperature: T > 0.

    Returns:
        One loss per row, ``(batch,)``, in nats; the mean over rows is what others call ``batchmean``.

    Raises:
        InputError: if shapes differ (they would broadcast to a wrong loss), soft labels are no probabilities or the
            temperature is not > 0.

    Example:
        >>> import torch
        >>> distillation_loss(torch.zeros(1, 2), torch.tensor([[1.0, 0.0]]), temperature=2.0)
        tensor([2.7726])
    """
    log_probs, targets, dtype = soften(student_logits, soft_labels, temperature)
    divergence = F.kl_div(log_probs, targets, reduction="none").sum(1)
    if temperature > 10:  # what rounding left of the sum of 1 counts as much as the divergence
        divergence = divergence + (1 - targets.sum(1))
    return (divergence * temperature**2).to(dtype)


@dataclass(frozen=True)
class KL(DistillationLoss):
    """The divergence of the student from the soft labels, :func:`distillation_loss`; what is used if nothing is said.

    Example:
        >>> KL()
        KL()

    References:
        Hinton, Vinyals, Dean 2015, arXiv 1503.02531.
    """

    def __call__(self, student_logits: Tensor, taught: Taught) -> Tensor:
        """Compute :func:`distillation_loss` of every row."""
        return distillation_loss(student_logits, taught.soft_labels, taught.temperature)
