"""Normalised knowledge distillation (NKD), for images that show several classes."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ida_lightning.errors import flag, non_negative
from ida_lightning.label_mix import LabelMix
from ida_lightning.losses.base import DistillationLoss, Taught, as_logits, soften, target_shares
from ida_lightning.losses.dkd import split_target


def nkd_loss(
    student_logits: Tensor,
    soft_labels: Tensor,
    label_mix: LabelMix,
    temperature: float,
    gamma: float = 1.5,
    whole: bool = False,
) -> Tensor:
    """Compute normalised distillation: a soft cross-entropy of the target, and one within the other classes.

    With the target t, probabilities P (teacher) and Q (student) at temperature 1, and p and q at T normalised to 1
    over the classes that are no target::

        - P_t log Q_t - gamma T^2 sum_(i != t) p_i log q_i

    The cross-entropy with the hard label, which the paper adds, is the module's own. In a mix the first term is a sum
    over its classes, and a class is a target by its weight as a share of the heaviest class's: see :func:`dkd_loss`.
    It is a cross-entropy: the minimum is not 0.

    Args:
        student_logits: ``(batch, classes)``; half types are computed in float32, above T = 10 all in float64.
        soft_labels: probabilities ``(batch, classes)``, softened by T and corrected; P is ``softmax(T log
            soft_labels)``.
        label_mix: ``(batch, k)``, in any order, repeats allowed.
        temperature: T > 0.
        gamma: weight of the second term.
        whole: every class of the mix is a whole target, whatever its weight.

    Returns:
        One loss per row, ``(batch,)``, in nats.

    Raises:
        InputError: for shapes that do not fit, numbers out of range, and rows without a class.

    Example:
        >>> import torch
        >>> mix = LabelMix.unmixed(torch.tensor([0]))
        >>> soft_labels = torch.tensor([[0.5, 0.25, 0.25]])
        >>> nkd_loss(torch.tensor([[0.5, 0.4, 0.1]]).log(), soft_labels, mix, temperature=1.0)
        tensor([1.7210])

    References:
        Yang et al., From Knowledge Distillation to Self-Knowledge Distillation, ICCV 2023, arXiv 2303.13005, eq. 7.
    """
    non_negative("gamma", gamma)
    log_probs, targets, dtype = soften(student_logits, soft_labels, temperature)
    shares = target_shares(label_mix, student_logits, flag("whole", whole))
    sharp_student = student_logits.to(log_probs.dtype).log_softmax(1)
    sharp_targets = (temperature * as_logits(targets)).softmax(1)
    of_target = -(shares * sharp_targets * sharp_student).sum(1)
    parts = split_target(log_probs, targets, shares)
    within = -(parts.soft_within * parts.log_within).sum(1)
    return (of_target + gamma * temperature**2 * within).to(dtype)


@dataclass(frozen=True)
class NKD(DistillationLoss):
    """Normalised distillation, :func:`nkd_loss`.

    Args:
        gamma: weight of the part within the other classes; 1.5 at temperature 1 is the paper's for ImageNet.
        whole: every class of a mix is a whole target, whatever its weight.

    Raises:
        InputError: for a negative weight.

    Example:
        >>> NKD()
        NKD(gamma=1.5, whole=False)

    References:
        Yang et al., ICCV 2023, arXiv 2303.13005.
    """

    gamma: float = 1.5
    whole: bool = False

    def __post_init__(self) -> None:
        non_negative("gamma", self.gamma)
        flag("whole", self.whole)

    def __call__(self, student_logits: Tensor, taught: Taught) -> Tensor:
        """Compute :func:`nkd_loss` of every row."""
        soft_labels, label_mix = taught.soft_labels, taught.label_mix
        return nkd_loss(student_logits, soft_labels, label_mix, taught.temperature, self.gamma, self.whole)
