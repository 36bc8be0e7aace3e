"""How often, and how far, soft labels break the order of their hard label."""

import torch
from torch import Tensor

from ida_lightning.label_mix import LabelMix


def violated_rows(values: Tensor, label_mix: LabelMix) -> Tensor:
    """Which rows reverse at least one pair of classes whose order the hard label fixes.

    A row is right if every class of the mix is at least as large as the next lighter one (exact ties are free)
    and the lightest is at least as large as every other class. Comparison is exact, without tolerance.

    Args:
        values: ``(batch, classes)``: probabilities or logits.
        label_mix: ``(batch, k)``.

    Returns:
        bool ``(batch,)``.

    Raises:
        InputError: if shapes or devices do not fit.

    Example:
        >>> mix = LabelMix.pair(torch.tensor([0, 0]), torch.tensor([1, 1]), 0.7)
        >>> violated_rows(torch.tensor([[0.5, 0.3, 0.2], [0.5, 0.2, 0.3]]), mix)
        tensor([False,  True])
    """
    label_mix.check_describes(values, "values")
    order = label_mix.order()
    own = values.gather(1, order.labels)
    rest_top = values.scatter(1, order.labels, -torch.inf).amax(1, keepdim=True)
    below_rest = (order.present & (own < rest_top)).any(1)
    # A class heavier than j and not tied with it: compare all pairs, k is small.
    group = (~order.tied).cumsum(1)
    heavier = (group[:, :, None] < group[:, None, :]) & order.present[:, None, :]
    reversed_pair = heavier & (own[:, :, None] < own[:, None, :])
    return below_rest | reversed_pair.any(2).any(1)


def moved_mass(before: Tensor, after: Tensor) -> Tensor:
    """Share of every row's probability that a correction moved: total variation ``(batch,)``, from 0 to 1.

    Example:
        >>> moved_mass(torch.tensor([[0.2, 0.8]]), torch.tensor([[0.5, 0.5]]))
        tensor([0.3000])
    """
    return (after - before).abs().sum(1) / 2
