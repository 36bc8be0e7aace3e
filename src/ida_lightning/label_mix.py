"""The label of a mixed image, and the order that it puts on the classes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from ida_lightning.addressing import addressable, nan_rows
from ida_lightning.errors import (
    InputError,
    at_least,
    can_look,
    check_rows,
    float_matrix,
    int_vector,
    is_a,
    is_tensor,
    kind_of,
    labels_in_range,
    same_device,
    share_below_one,
    share_of_rows,
    shares,
    whole_number,
)


def tie_tolerance(weights: Tensor) -> float:
    """Return the difference up to which two class weights are a tie; see :class:`LabelOrder`."""
    return 4 * torch.finfo(weights.dtype).eps


class LabelOrder(NamedTuple):
    """The canonical form of a :class:`LabelMix`: what an order-aware algorithm needs to know per row.

    Repeated labels are merged, the heaviest class comes first, classes of equal weight follow each other by
    label, and entries without weight come last.

    **The rule of ties**, for every solver, metric, loss and kernel of this package: going down the merged weights from
    the heaviest, a class is tied with the one before it if it weighs less by at most 4 eps of the weights' dtype (5e-7
    in float32), because 0.1 + 0.2 should weigh what 0.3 does. Ties chain: where a ties with b, and b with c, all three
    are one group, also if a and c differ by more. Within a group the label orders nothing. A class is in the picture if
    its weight is > 0, without tolerance. Differences are taken in float32, or in float64 for float64 weights.

    Attributes:
        labels: int64 ``(batch, k)``. Absent entries repeat the first label, so that gathering is always safe.
        weights: float ``(batch, k)``, descending; 0 where absent.
        present: bool ``(batch, k)``: the entry is a class of its own that has weight.
        tied: bool ``(batch, k)``: the entry is in one group with the one before it, so the order says nothing between
            the two.
    """

    labels: Tensor
    weights: Tensor
    present: Tensor
    tied: Tensor

    def rank(self) -> Tensor:
        """Number the groups of tied classes from the heaviest on: int64 ``(batch, k)``.

        Absent entries have numbers too; look at ``present``.
        """
        return (~self.tied).cumsum(1)

    def outranks(self) -> Tensor:
        """Tell which class lies above which: bool ``(batch, k, k)``, entry i weighs more than entry j, both present."""
        rank = self.rank()
        return (rank[:, :, None] < rank[:, None, :]) & self.present[:, None, :]

    def levels(self, num_classes: int) -> Tensor:
        """Return the order as a matrix: int64 ``(batch, num_classes)``, larger outranks smaller, 0 for the rest."""
        labels, outside = addressable(self.labels, at_least("num_classes", num_classes, 1))
        level = (labels.shape[1] + 1 - self.rank()) * (self.present if outside is None else self.present & ~outside)
        return level.new_zeros(len(level), num_classes).scatter_add_(1, labels, level)


class LabelMix(NamedTuple):
    """Which classes a batch of mixed images shows, and how much of each.

    Mixing libraries return a blended target, from which the order of the classes cannot be read back (a pair
    of the same class has no second class; label smoothing hides the weight). This keeps the order's source:
    0.7 panda + 0.3 cat is ``labels = [panda, cat]``, ``weights = [0.7, 0.3]``. A tuple of tensors, so it
    survives collating, pinning, transfer and ``torch.compile``.

    Attributes:
        labels: int64 ``(batch, k)``, classes in any order; a class may repeat. k = 1 for unmixed images.
        weights: float ``(batch, k)``, non-negative, rows sum to 1.

    Example:
        >>> mix = LabelMix(torch.tensor([[3, 1], [2, 2]]), torch.tensor([[0.25, 0.75], [0.5, 0.5]]))
        >>> order = mix.order()
        >>> order.labels.tolist(), order.present.tolist()
        ([[1, 3], [2, 2]], [[True, True], [True, False]])
        >>> mix.dense(4)[0].tolist()
        [0.0, 0.75, 0.0, 0.25]
    """

    labels: Tensor
    weights: Tensor

    @classmethod
    def unmixed(cls, labels: Tensor) -> LabelMix:
        """Make the mix of ordinary images from their labels ``(batch,)``: every row is one class with weight 1."""
        int_vector("labels", labels)
        return cls(labels[:, None], torch.ones(len(labels), 1, device=labels.device))

    @classmethod
    def pair(cls, labels: Tensor, partner_labels: Tensor, weight: Tensor | float) -> LabelMix:
        """Make the mix of two labels per row.

        Args:
            labels: int64 ``(batch,)``.
            partner_labels: int64 ``(batch,)``.
            weight: the share of ``labels``, from 0 to 1 (checked on the CPU): a number, or ``(batch,)``.

        Raises:
            InputError: for labels or weights that do not fit.

        Example:
            >>> LabelMix.pair(torch.tensor([3]), torch.tensor([1]), 0.25)
            LabelMix(labels=tensor([[3, 1]]), weights=tensor([[0.2500, 0.7500]]))
        """
        int_vector("labels", labels)
        same_device("partner_labels", int_vector("partner_labels", partner_labels, len(labels)), "labels", labels)
        share = share_of_rows("weight", weight, labels)
        return cls(torch.stack((labels, partner_labels), 1), torch.stack((share, 1 - share), 1))

    @classmethod
    def from_dense(cls, hard: Tensor, k: int | None = None, smoothing: float | None = None) -> LabelMix:
        """Find the mix behind a matrix of class weights, such as the soft targets of torchvision's or timm's mixup.

        A weight that a row gives to all its other classes too (label smoothing) is taken off: it ranks nothing.
        The order is right in any case. Whether the lowest weight is smoothing or the share of an image cannot be
        seen in a row that may name every class, of two classes for example: say ``smoothing`` there.

        Args:
            hard: ``(batch, classes)``, non-negative, rows sum to 1.
            k: how many classes a row can name; None counts them, and waits for the device to do it.
            smoothing: of which every class was given an equal part, as in timm; None takes the lowest weight of
                a row for such a part if several classes have it.

        Raises:
            InputError: if ``hard`` is no floating point matrix or (checked on the CPU) its rows are no shares of 1,
                ``k`` is not from 1 to its width, or ``smoothing`` is not from 0 to below 1.

        Example:
            >>> LabelMix.from_dense(torch.tensor([[0.05, 0.55, 0.35, 0.05]]))
            LabelMix(labels=tensor([[1, 2]]), weights=tensor([[0.6250, 0.3750]]))
        """
        classes = float_matrix("hard", hard).shape[1]
        if smoothing is not None:
            share_below_one("smoothing", smoothing)
        if k is not None:
            whole_number("k", k, 1, classes)
        if can_look(hard):
            shares("hard", hard)
        lowest, highest = hard.aminmax(dim=1, keepdim=True)
        if smoothing is None:
            given_to_all = torch.where((hard == lowest).sum(1, keepdim=True) > 1, lowest, 0)
        else:
            # What the row itself has, if that is the part up to rounding, so that exactly nothing is left of it.
            given_to_all = lowest.clamp(max=(1 + 16 * torch.finfo(hard.dtype).eps) * smoothing / classes)
        hard = torch.where(highest > lowest, hard - given_to_all, hard)
        weights, labels = hard.topk(k or max(1, int((hard > 0).sum(1).amax()) if len(hard) else 1), dim=1)
        return cls(labels, weights / weights.sum(1, keepdim=True))

    @classmethod
    def from_taxonomy(cls, labels: Tensor, superclass: Tensor) -> LabelMix:
        """Make the order true class >= other classes of its superclass >= rest, for unmixed images.

        Args:
            labels: int64 ``(batch,)``.
            superclass: int64 ``(classes,)``, the superclass of every class (the 20 of CIFAR-100, for example).

        Raises:
            InputError: if one is not one-dimensional int64, or a label is out of range (checked on the CPU).

        Example:
            >>> mix = LabelMix.from_taxonomy(torch.tensor([2]), torch.tensor([0, 1, 0, 0, 1]))
            >>> mix.dense(5)
            tensor([[0.2500, 0.0000, 0.5000, 0.2500, 0.0000]])
        """
        int_vector("labels", labels)
        if is_tensor("superclass", superclass).dtype != torch.int64 or superclass.ndim != 1 or not len(superclass):
            raise InputError(f"superclass: expected int64 (classes,), got {kind_of(superclass)}")
        same_device("superclass", superclass, "labels", labels)
        if can_look(labels):
            labels_in_range("labels", labels, len(superclass))
        siblings = (superclass[:, None] == superclass[None, :]).float()
        # Twice the weight of each sibling; one more than the siblings, so that two classes are not a tie.
        hard = siblings + torch.eye(len(superclass), device=superclass.device)
        return cls.from_dense((hard / hard.sum(1, keepdim=True))[labels], int(siblings.sum(1).amax()))

    def order(self) -> LabelOrder:
        """Return the canonical form; nothing else merges, ranks and ties. The host does not wait for an accelerator."""
        self.check_shape()
        labels, dtype = self.labels, torch.promote_types(self.weights.dtype, torch.float32)
        # By label first, so that rows that mean the same come out the same.
        labels, by_label = labels.sort(dim=1, stable=True)
        weights, repeat = self.weights.gather(1, by_label), F.pad(labels[:, 1:] == labels[:, :-1], (1, 0))
        if not can_look(labels) or bool(repeat.any()):
            same = labels[:, :, None] == labels[:, None, :]
            # Sums of float32 are exact in float64, so a tie does not depend on the order of the entries.
            exact = dtype if labels.device.type == "mps" else torch.float64
            weights = (same * weights[:, None, :]).sum(2, dtype=exact).masked_fill(repeat, 0)
        weights, by_weight = weights.to(dtype).sort(dim=1, descending=True, stable=True)
        labels = labels.gather(1, by_weight)
        present = weights > 0
        behind = F.pad(weights[:, :-1] - weights[:, 1:], (1, 0), value=torch.inf)
        tied = (behind <= tie_tolerance(self.weights)).logical_and_(present)
        return LabelOrder(torch.where(present, labels, labels[:, :1]), weights, present, tied)

    def canonical(self) -> LabelMix:
        """Return the same mix, heaviest class first, repeats merged (their place is left with weight 0)."""
        order = self.order()
        return LabelMix(order.labels, order.weights.to(self.weights.dtype))

    def dense(self, num_classes: int) -> Tensor:
        """Return the hard-label matrix ``(batch, num_classes)``: class weights that sum to 1 per row.

        Raises:
            InputError: for fields of the wrong kind and, on the CPU, for labels out of range.
        """
        self.check_shape()
        at_least("num_classes", num_classes, 1)
        if can_look(self.labels):
            labels_in_range("label_mix.labels", self.labels, num_classes)
        labels, outside = addressable(self.labels, num_classes)
        hard = self.weights.new_zeros(len(labels), num_classes)
        return nan_rows(hard.scatter_add_(1, labels, self.weights), outside)

    def select(self, rows: Tensor) -> LabelMix:
        """Return the rows named by an index or a boolean mask ``(batch,)``.

        Raises:
            InputError: for fields or ``rows`` of the wrong kind and, on the CPU, for an index that is no row.
        """
        self.check_shape()
        check_rows("rows", rows, len(self.labels))
        return LabelMix(self.labels[rows], self.weights[rows])

    def check_shape(self) -> None:
        """Raise :class:`InputError` unless both fields are ``(batch, k)`` of the right kind. Free of cost."""
        labels, weights = self
        if not isinstance(labels, Tensor) or labels.dtype != torch.int64 or labels.ndim != 2 or labels.shape[1] == 0:
            raise InputError(f"label_mix.labels: expected int64 (batch, k) with k >= 1, got {kind_of(labels)}")
        if not isinstance(weights, Tensor) or not weights.is_floating_point() or weights.shape != labels.shape:
            raise InputError(
                f"label_mix.weights: expected floating point of the labels' shape {tuple(labels.shape)}, "
                f"got {kind_of(weights)}"
            )
        if weights.device != labels.device:
            raise InputError(f"label_mix.weights: expected the labels' device {labels.device}, got {weights.device}")

    def check_describes(self, values: Tensor, name: str) -> None:
        """Raise :class:`InputError` unless ``values`` is float ``(batch, classes)``, row for row. Free of cost.

        Args:
            values: what is about to be used together with this mix.
            name: its argument name, for the message.
        """
        self.check_shape()
        rows = self.labels.shape[0]  # len() would make the batch of a traced graph a constant
        if not isinstance(values, Tensor) or not values.is_floating_point() or values.shape[:-1] != (rows,):
            raise InputError(
                f"{name}: expected floating point (batch, classes) with the batch of {rows} of label_mix, "
                f"got {kind_of(values)}"
            )
        if values.shape[1] == 0:
            raise InputError(f"{name}: expected at least one class, got {kind_of(values)}")
        if values.device != self.labels.device:
            raise InputError(f"label_mix: expected the device of {name}, {values.device}, got {self.labels.device}")

    def check_values(self, num_classes: int) -> None:
        """Raise :class:`InputError` for labels out of range or weights that are no shares.

        Looks at the values, so on an accelerator it waits for the device.
        """
        self.check_shape()
        labels_in_range("label_mix.labels", self.labels, num_classes)
        shares("label_mix.weights", self.weights)


def check_label_mix(label_mix: LabelMix, values: Tensor, name: str) -> LabelMix:
    """Return ``label_mix``, which must be a :class:`LabelMix` that describes ``values``, row for row.

    On the CPU its labels must also be classes of ``values``, which are about to be gathered; see :func:`can_look`.

    Args:
        label_mix: what came as the argument of that name.
        values: floating point ``(batch, classes)``.
        name: the argument name of ``values``, for the message.
    """
    is_a("label_mix", label_mix, LabelMix).check_describes(values, name)
    if can_look(label_mix.labels):
        labels_in_range("label_mix.labels", label_mix.labels, values.shape[1])
    return label_mix
