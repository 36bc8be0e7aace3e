"""Label revision: soft labels that break the order of their hard label, blended with it until they do not."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from ida_lightning.addressing import addressable, nan_rows
from ida_lightning.errors import inner_share, one_of, positive, probabilities
from ida_lightning.label_mix import LabelMix, check_label_mix

Which = Literal["wrong", "all"]
RevisionSpace = Literal["softened", "probabilities"]


def revise_soft_labels(
    soft_labels: Tensor,
    label_mix: LabelMix,
    eta: float = 0.8,
    which: Which = "wrong",
    temperature: float = 1.0,
    space: RevisionSpace = "softened",
) -> Tensor:
    """Repair a teacher's soft labels with the ground truth: as little of it as restores the order, with a margin.

    Row by row ``beta * p + (1 - beta) * hard_label``. For an image of one class this is the rule of the paper,
    ``beta = eta / (p_max - p_target + 1)``: the target ends up exactly ``1 - eta`` above the class that was on top.

    For mixed images, which the paper does not treat, it is generalised so: wherever the hard label gives a class more
    weight than another (0 for the rest), by a gap g, the revised label shall keep at least the share 1 - eta of that
    gap between the two, in this direction. The largest beta <= eta for which all pairs do is

        ``beta = eta / (1 + max over pairs of relu(p_lighter - p_heavier) / g)``.

    It exists for every hard label: a smaller gap asks for a smaller margin, and classes of equal weight (g = 0) are not
    ordered and ask for nothing. The price is paid where the weights of two classes are almost equal and the teacher
    has them the other way round: there little of its label is left. The isotonic correction, which has no margin,
    moves less mass; see :func:`ida_lightning.isotonic_soft_labels`.

    Sums stay one, the classes of the rest keep their ratios, and with ``"wrong"`` rows in order come back bit for bit.
    The margin holds up to rounding. On an accelerator the host does not wait.

    Args:
        soft_labels: probabilities ``(batch, classes)``, float32 or better.
        label_mix: ``(batch, k)``, in any order, repeats allowed.
        eta: between 0 and 1; what is not margin.
        which: ``"wrong"``: rows that break their order; ``"all"``: also the others, with beta = eta, which is ordinary
            blending with the hard label.
        temperature: the T at which the soft labels were softened; used by ``"probabilities"`` only.
        space: ``"softened"`` revises the soft label itself, softmax(z / T), where the margin then holds;
            ``"probabilities"`` revises softmax(z), read back from the soft label, and softens the result, which keeps
            the order and equal ratios but narrows the margin. The same at T = 1, the paper's.

    Returns:
        The revised rows, ``(batch, classes)``.

    Raises:
        InputError: for shapes or devices that do not fit, and options out of range.

    Example:
        >>> soft_labels = torch.tensor([[0.3, 0.6, 0.1]])
        >>> revise_soft_labels(soft_labels, LabelMix.unmixed(torch.tensor([0]))).round(decimals=4)
        tensor([[0.5692, 0.3692, 0.0615]])
        >>> revise_soft_labels(soft_labels, LabelMix.pair(torch.tensor([0]), torch.tensor([1]), 0.7)).round(decimals=4)
        tensor([[0.5171, 0.4371, 0.0457]])

    References:
        Lan et al., Improve Knowledge Distillation via Label Revision and Data Selection, arXiv 2404.03693.
    """
    check_revision(eta, which, space)
    positive("temperature", temperature)
    check_label_mix(label_mix, probabilities("soft_labels", soft_labels), "soft_labels")
    tiny = torch.finfo(soft_labels.dtype).tiny
    probs = soft_labels
    if space == "probabilities":
        probs = (soft_labels.clamp_min(tiny).log() * temperature).softmax(1)
    labels, outside = addressable(label_mix.labels, probs.shape[1])
    label_mix = LabelMix(labels, label_mix.weights)
    reversal = broken = _worst_reversal(probs, label_mix)
    hard = label_mix.dense(probs.shape[1]).to(probs.dtype)
    revised = torch.lerp(hard, probs, eta / (1 + reversal))
    if space == "probabilities":
        revised = (revised.clamp_min(tiny).log() / temperature).softmax(1)
        broken = _worst_reversal(soft_labels, label_mix)
    return nan_rows(revised if which == "all" else torch.where(broken > 0, revised, soft_labels), outside)


def check_revision(eta: float, which: str, space: str) -> None:
    """Raise :class:`InputError` for options that cannot be."""
    inner_share("eta", eta)
    one_of("which", which, get_args(Which))
    one_of("space", space, get_args(RevisionSpace))


def _worst_reversal(probs: Tensor, label_mix: LabelMix) -> Tensor:
    """Compute the largest ``relu(p_lighter - p_heavier) / gap`` of every row, ``(batch, 1)``; 0 for rows in order."""
    order = label_mix.order()
    mix_values = probs.gather(1, order.labels)
    gap = (order.weights[:, :, None] - order.weights[:, None, :]).to(probs.dtype)
    known = order.outranks()
    reversed_by = torch.relu(mix_values[:, None, :] - mix_values[:, :, None])
    among = torch.where(known, reversed_by / torch.where(known, gap, 1), 0).flatten(1).amax(1, keepdim=True)
    rest = probs.scatter(1, order.labels, 0).amax(1, keepdim=True)
    # Only the lightest of the mix matters here: what the heavier ones ask for follows from it and the pairs.
    weights = torch.where(order.present, order.weights, 1).to(probs.dtype)
    below = torch.where(order.present, torch.relu(rest - mix_values) / weights, 0).amax(1, keepdim=True)
    return torch.maximum(among, below)
