"""How often soft labels break the order of their hard label."""

from typing import NamedTuple

import torch
from torch import Tensor

from ida_lightning.addressing import addressable, nan_rows
from ida_lightning.errors import not_nan
from ida_lightning.label_mix import LabelMix, check_label_mix


def violated_rows(values: Tensor, label_mix: LabelMix) -> Tensor:
    """Find the rows that reverse at least one pair of classes whose order the hard label fixes.

    A row is right if every class of the mix is at least as large as the next lighter one (ties, by the
    rule of :class:`LabelOrder`, are free) and the lightest is at least as large as every other class. Comparison of
    values is exact, without tolerance.

    Args:
        values: ``(batch, classes)``: probabilities or logits.
        label_mix: ``(batch, k)``.

    Returns:
        bool ``(batch,)``. On an accelerator, where nobody looks at labels, a row with one out of range is violated.

    Raises:
        InputError: if shapes or devices do not fit and, on the CPU, for NaN and labels out of range.

    Example:
        >>> mix = LabelMix.pair(torch.tensor([0, 0]), torch.tensor([1, 1]), 0.7)
        >>> violated_rows(torch.tensor([[0.5, 0.3, 0.2], [0.5, 0.2, 0.3]]), mix)
        tensor([False,  True])
    """
    check_label_mix(label_mix, values, "values")
    not_nan("values", values)
    labels, outside = addressable(label_mix.labels, values.shape[1])
    order = LabelMix(labels, label_mix.weights).order()
    mix_values = values.gather(1, order.labels)
    rest_top = values.scatter(1, order.labels, -torch.inf).amax(1, keepdim=True)
    below_rest = (order.present & (mix_values < rest_top)).any(1)
    reversed_pair = order.outranks() & (mix_values[:, :, None] < mix_values[:, None, :])
    violated = below_rest | reversed_pair.any(2).any(1)
    return violated if outside is None else violated | outside[:, 0]


class OrderStatistics(NamedTuple):
    """What :func:`order_statistics` finds in every row; each field is ``(batch,)``.

    "Mix" are the classes that the hard label names, "rest" is every other class.

    Attributes:
        mix_reversed: bool: a heavier class of the mix lies below a lighter one (first < second). Never in rows of
            one class.
        rest_above: bool: a class of the rest lies above a lightest class of the mix (rest > second; in rows of one
            class rest > own).
        violated: bool: one of the two; the same as :func:`violated_rows`.
        tau: Kendall's tau over the known pairs, from -1 to 1.
        covers_any: bool: a class of the mix is among the largest ones.
        covers_all: bool: all of them are.
    """

    mix_reversed: Tensor
    rest_above: Tensor
    violated: Tensor
    tau: Tensor
    covers_any: Tensor
    covers_all: Tensor


def order_statistics(values: Tensor, label_mix: LabelMix) -> OrderStatistics:
    """Measure how well every row keeps the order of its hard label: violations by kind, Kendall's tau, top-2 coverage.

    At 100 classes nearly every mixed image has *some* reversed pair, because the second class is compared with the
    best of 98. Violations say that the order is broken, tau says how much of it, and coverage whether the teacher
    sees what is in the image.

    * **Known pairs** are those that the hard label ranks: heavier and lighter class of the mix, and each class of the
      mix and each of the rest. Pairs within the rest, and of classes that tie (:class:`LabelOrder`), are not counted.
    * **tau** = (right - reversed) / known pairs. A pair on which the row has two equal values is neither right nor
      reversed, so that only strictly ordered rows reach 1, and a constant row has 0. With every class ranked and no
      equal values it is the ordinary tau. NaN where no pair is known (all classes tie).
    * **Coverage** looks at the top 2, or at the top m where the row's mix has m > 2 classes; the own class of an
      unmixed row is looked for in the top 2, too. A class is in the top m if fewer than m classes are larger: equal
      values count in its favour, as they do for violations.

    Comparison is exact, without tolerance, in the dtype of ``values``. Needs
    O(classes * k) time per row, and on an accelerator the host does not wait.

    Args:
        values: ``(batch, classes)``: probabilities or logits.
        label_mix: ``(batch, k)``, in any order, repeats allowed.

    Returns:
        One value per row and statistic. On an accelerator, where nobody looks at labels, a row with one out of range is
        violated, and its tau is NaN.

    Raises:
        InputError: if shapes or devices do not fit and, on the CPU, for NaN and labels out of range.

    Example:
        >>> mix = LabelMix.pair(torch.tensor([0]), torch.tensor([1]), 0.7)
        >>> found = order_statistics(torch.tensor([[0.4, 0.2, 0.3, 0.1]]), mix)
        >>> found.mix_reversed, found.rest_above
        (tensor([False]), tensor([True]))
        >>> found.tau  # of five known pairs one is reversed
        tensor([0.6000])
        >>> found.covers_any, found.covers_all
        (tensor([True]), tensor([False]))

    References:
        Cui and Yan, IJCAI 2021, arXiv 2107.01412, figure 1: tau over known pairs, and at least one class in the top 2.
    """
    check_label_mix(label_mix, values, "values")
    not_nan("values", values)
    labels, outside = addressable(label_mix.labels, values.shape[1])
    order = LabelMix(labels, label_mix.weights).order()
    present, heavier = order.present, order.outranks()
    mix_values = values.gather(1, order.labels)
    columns = [mix_values[:, j : j + 1] for j in range(mix_values.shape[1])]
    larger = torch.stack([(values > column).sum(1) for column in columns], 1)
    smaller = torch.stack([(values < column).sum(1) for column in columns], 1)
    # Entry (i, j): how the values of two classes of the mix compare, whatever their weights.
    above, below = mix_values[:, :, None] > mix_values[:, None, :], mix_values[:, :, None] < mix_values[:, None, :]
    rest_larger = larger - (above & present[:, :, None]).sum(1)
    rest_smaller = smaller - (below & present[:, :, None]).sum(1)

    mix_reversed = (heavier & below).any(2).any(1)
    lightest = present & ~heavier.any(2)
    rest_above = (lightest & (rest_larger > 0)).any(1)
    violated = mix_reversed | rest_above
    if outside is not None:
        violated = violated | outside[:, 0]

    mix_score = (heavier & above).sum((1, 2)) - (heavier & below).sum((1, 2))
    rest_score = ((rest_smaller - rest_larger) * present).sum(1)
    members = present.sum(1)
    known = heavier.sum((1, 2)) + members * (values.shape[1] - members)
    covered = present & (larger < members.clamp(min=2)[:, None])
    return OrderStatistics(
        mix_reversed,
        rest_above,
        violated,
        nan_rows((mix_score + rest_score) / known, outside),
        covered.any(1),
        (covered == present).all(1),
    )
