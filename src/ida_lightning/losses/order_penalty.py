"""The penalty on a student whose probabilities break the order of a mixed label (KD-p)."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from ida_lightning.addressing import addressable, nan_rows
from ida_lightning.errors import non_negative, one_of
from ida_lightning.label_mix import LabelMix, check_label_mix

PenaltyForm = Literal["edges", "worst"]


def order_penalty(
    student_logits: Tensor, label_mix: LabelMix, sigma: float = 2.0, form: PenaltyForm = "edges"
) -> Tensor:
    """Compute how far the student's probabilities break the order: a hinge instead of a projection.

    With q = softmax(student_logits), at temperature 1 and without its square, in O(classes):

    * ``"edges"`` adds ``relu(q_lower - q_upper)`` over the edges of the order: every class of one rank above every
      class of the next rank, and the lowest rank above every class of the rest.
    * ``"worst"`` is the form of the code released with the paper: ``relu(q_lower - q_upper)`` between neighbouring
      classes of the mix, and for the rest only its largest class against the smallest class of the mix,
      ``relu(max_rest q - min_mix q)``.

    For a pair of classes the two agree while at most one rest class stands above the second, and the second is the
    smaller one. Otherwise ``"edges"`` counts every rest class that is too high (more gradient at many classes), and
    ``"worst"`` also presses the first class when that is the smaller one.

    ``"worst"`` is equal to the released code's for two classes of different weight. That one takes the two largest
    entries of the target whatever they are: where a row shows one class (weight 0 or 1, or twice the same class) it
    ranks some class that is not in the picture as the second, and where both have the weight 0.5 it ranks one above the
    other. Here what the label does not rank is not penalised, because such a penalty presses on a class by the accident
    of its number. For the released code's figures hand in the order that it uses,
    :func:`ida_lightning.methods.authors_isotonic.authors_order`.

    Args:
        student_logits: ``(batch, classes)``; half types are computed in float32.
        label_mix: ``(batch, k)``, in any order, repeats allowed.
        sigma: weight of the penalty; the paper recommends 2.
        form: see above.

    Returns:
        One penalty per row, ``(batch,)``, 0 for rows in order; NaN, on an accelerator, where a label is out of range.

    Raises:
        InputError: for shapes that do not fit, an unknown form and a negative sigma.

    Example:
        >>> logits = torch.tensor([[0.3, 0.2, 0.4, 0.1]]).log()
        >>> mix = LabelMix.pair(torch.tensor([0]), torch.tensor([1]), 0.7)
        >>> order_penalty(logits, mix, sigma=1.0)
        tensor([0.2000])

    References:
        Cui and Yan, IJCAI 2021, arXiv 2107.01412, KD-p.
    """
    check_penalty(sigma, form)
    check_label_mix(label_mix, student_logits, "student_logits")
    student_probs = student_logits.softmax(1, dtype=torch.promote_types(student_logits.dtype, torch.float32))
    labels, outside = addressable(label_mix.labels, student_logits.shape[1])
    order = LabelMix(labels, label_mix.weights).order()
    present = order.present
    mix_values = student_probs.gather(1, order.labels)
    rank = order.rank()
    upper, lower = mix_values[:, :, None], mix_values[:, None, :]
    follows = rank[:, None, :] == rank[:, :, None] + 1
    among = (F.relu(lower - upper) * (follows & present[:, None, :])).sum((1, 2))
    if form == "worst":
        smallest = torch.where(present, mix_values, torch.inf).amin(1)
        worst = student_probs.scatter(1, order.labels, 0).amax(1)
        return nan_rows(sigma * (among + F.relu(worst - smallest)), outside)
    last = torch.where(present, rank, 0).amax(1, keepdim=True)
    rest = student_probs.scatter(1, order.labels, 0)
    above = [
        F.relu(rest - mix_values[:, j : j + 1]).sum(1) * (present & (rank == last))[:, j]
        for j in range(mix_values.shape[1])
    ]
    return nan_rows(sigma * (among + torch.stack(above).sum(0)), outside)


def check_penalty(sigma: float, form: str) -> None:
    """Raise :class:`InputError` for an unknown form or a negative sigma."""
    one_of("form", form, get_args(PenaltyForm))
    non_negative("sigma", sigma)
