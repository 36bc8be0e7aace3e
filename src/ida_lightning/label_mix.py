"""The label of a mixed image, and the order that it puts on the classes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ida_lightning.errors import InputError, kind_of

# Weights reach us through float32 and through other people's arithmetic.
_SUM_TOLERANCE = 1e-3


class LabelOrder(NamedTuple):
    """The canonical form of a :class:`LabelMix`: what an order-aware algorithm needs to know per row.

    Repeated labels are merged, the heaviest class comes first, classes of equal weight follow each other by
    label, and entries without weight come last.

    Attributes:
        labels: int64 ``(batch, k)``. Absent entries repeat the first label, so that gathering is always safe.
        weights: float ``(batch, k)``, descending; 0 where absent.
        present: bool ``(batch, k)``: the entry is a class of its own that has weight.
        tied: bool ``(batch, k)``: the entry weighs as much as the one before it (up to rounding), so the order says
            nothing between the two.
    """

    labels: Tensor
    weights: Tensor
    present: Tensor
    tied: Tensor

    def rank(self) -> Tensor:
        """Number the groups of equal weight from the heaviest on: int64 ``(batch, k)``; tied classes share a number.

        Absent entries have numbers too; look at ``present``.
        """
        return (~self.tied).cumsum(1)

    def outranks(self) -> Tensor:
        """Tell which class lies above which: bool ``(batch, k, k)``, entry i weighs more than entry j, both present."""
        rank = self.rank()
        return (rank[:, :, None] < rank[:, None, :]) & self.present[:, None, :]


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
        """Labels ``(batch,)`` of ordinary images: every row is one class with weight 1."""
        return cls(labels[:, None], torch.ones(len(labels), 1, device=labels.device))

    @classmethod
    def pair(cls, labels: Tensor, partner_labels: Tensor, weight: Tensor | float) -> LabelMix:
        """Two labels ``(batch,)`` per row; ``weight``, a number or ``(batch,)``, is the share of ``labels``.

        Example:
            >>> LabelMix.pair(torch.tensor([3]), torch.tensor([1]), 0.25)
            LabelMix(labels=tensor([[3, 1]]), weights=tensor([[0.2500, 0.7500]]))
        """
        own = torch.as_tensor(weight, dtype=torch.float32, device=labels.device).expand(len(labels))
        return cls(torch.stack((labels, partner_labels), 1), torch.stack((own, 1 - own), 1))

    @classmethod
    def from_dense(cls, hard: Tensor, k: int | None = None, smoothing: float | None = None) -> LabelMix:
        """The mix behind a matrix of class weights, such as the soft targets of torchvision's or timm's mixup.

        A weight that a row gives to all its other classes too (label smoothing) is taken off: it ranks nothing.
        The order is right in any case. Whether the lowest weight is smoothing or the share of an image cannot be
        seen in a row that may name every class, of two classes for example: say ``smoothing`` there.

        Args:
            hard: ``(batch, classes)``, non-negative, rows sum to 1.
            k: how many classes a row can name; None counts them, and waits for the device to do it.
            smoothing: of which every class was given an equal part, as in timm; None takes the lowest weight of
                a row for such a part if several classes have it.

        Raises:
            InputError: if ``hard`` is no floating point matrix, ``k`` is not from 1 to its width, or ``smoothing``
                is not from 0 to below 1.

        Example:
            >>> LabelMix.from_dense(torch.tensor([[0.05, 0.55, 0.35, 0.05]]))
            LabelMix(labels=tensor([[1, 2]]), weights=tensor([[0.6250, 0.3750]]))
        """
        if not hard.is_floating_point() or hard.ndim != 2:
            raise InputError(f"hard: expected floating point (batch, classes), got {kind_of(hard)}")
        if smoothing is not None and not 0 <= smoothing < 1:
            raise InputError(f"smoothing: expected a number from 0 to below 1, got {smoothing}")
        lowest, highest = hard.aminmax(dim=1, keepdim=True)
        if smoothing is None:
            part = torch.where((hard == lowest).sum(1, keepdim=True) > 1, lowest, 0)
        else:
            # What the row itself has, if that is the part up to rounding, so that exactly nothing is left of it.
            part = lowest.clamp(max=(1 + 16 * torch.finfo(hard.dtype).eps) * smoothing / max(1, hard.shape[1]))
        hard = torch.where(highest > lowest, hard - part, hard)
        if k is None:
            k = max(1, int((hard > 0).sum(1).amax())) if len(hard) else 1
        if not 1 <= k <= hard.shape[1]:
            raise InputError(f"k: expected 1 ... {hard.shape[1]}, the number of classes, got {k}")
        weights, labels = hard.topk(k, dim=1)
        return cls(labels, weights / weights.sum(1, keepdim=True))

    @classmethod
    def from_taxonomy(cls, labels: Tensor, superclass: Tensor) -> LabelMix:
        """The order true class >= other classes of its superclass >= rest, for unmixed images.

        Args:
            labels: int64 ``(batch,)``.
            superclass: int64 ``(classes,)``, the superclass of every class (the 20 of CIFAR-100, for example).

        Raises:
            InputError: if ``superclass`` is not one-dimensional int64.

        Example:
            >>> mix = LabelMix.from_taxonomy(torch.tensor([2]), torch.tensor([0, 1, 0, 0, 1]))
            >>> mix.dense(5)
            tensor([[0.2500, 0.0000, 0.5000, 0.2500, 0.0000]])
        """
        if superclass.dtype != torch.int64 or superclass.ndim != 1:
            raise InputError(f"superclass: expected int64 (classes,), got {kind_of(superclass)}")
        siblings = (superclass[:, None] == superclass[None, :]).float()
        # Twice the weight of each sibling; one more than the siblings, so that two classes are not a tie.
        hard = siblings + torch.eye(len(superclass), device=superclass.device)
        return cls.from_dense((hard / hard.sum(1, keepdim=True))[labels], int(siblings.sum(1).amax()))

    def order(self) -> LabelOrder:
        """The canonical form. The only place that merges, ranks and ties; no host synchronisation."""
        labels, weights = self
        # By label first, so that rows that mean the same come out the same.
        labels, by_label = labels.sort(dim=1, stable=True)
        weights = weights.gather(1, by_label)
        same = labels[:, :, None] == labels[:, None, :]
        merged = (same * weights[:, None, :]).sum(2)
        repeat = torch.zeros_like(labels, dtype=torch.bool)
        repeat[:, 1:] = labels[:, 1:] == labels[:, :-1]
        weights, by_weight = merged.masked_fill(repeat, 0).sort(dim=1, descending=True, stable=True)
        labels = labels.gather(1, by_weight)
        present = weights > 0
        tied = torch.zeros_like(present)
        # Up to rounding: a class of 0.1 + 0.2 weighs what one of 0.3 does.
        tied[:, 1:] = present[:, 1:] & (weights[:, :-1] - weights[:, 1:] <= 4 * torch.finfo(weights.dtype).eps)
        return LabelOrder(torch.where(present, labels, labels[:, :1]), weights, present, tied)

    def canonical(self) -> LabelMix:
        """The same mix, heaviest class first, repeats merged (their place is left with weight 0)."""
        order = self.order()
        return LabelMix(order.labels, order.weights)

    def dense(self, num_classes: int) -> Tensor:
        """The hard-label matrix ``(batch, num_classes)``: class weights that sum to 1 per row."""
        hard = self.weights.new_zeros(len(self.labels), num_classes)
        return hard.scatter_add_(1, self.labels, self.weights)

    def select(self, rows: Tensor) -> LabelMix:
        """The rows named by an index or a boolean mask ``(batch,)``."""
        return LabelMix(self.labels[rows], self.weights[rows])

    def check_shape(self) -> None:
        """Raise :class:`InputError` unless both fields are ``(batch, k)`` of the right kind. Free of cost."""
        labels, weights = self
        if labels.dtype != torch.int64 or labels.ndim != 2 or labels.shape[1] == 0:
            raise InputError(f"label_mix.labels: expected int64 (batch, k) with k >= 1, got {kind_of(labels)}")
        if not weights.is_floating_point() or weights.shape != labels.shape:
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
        rows = len(self.labels)
        if not values.is_floating_point() or values.ndim != 2 or len(values) != rows:
            raise InputError(
                f"{name}: expected floating point (batch, classes) with the batch of {rows} of label_mix, "
                f"got {kind_of(values)}"
            )
        if values.device != self.labels.device:
            raise InputError(f"label_mix: expected the device of {name}, {values.device}, got {self.labels.device}")

    def check_values(self, num_classes: int) -> None:
        """Raise :class:`InputError` for labels out of range or weights that are no shares.

        Looks at the values, so on an accelerator it waits for the device.
        """
        labels, weights = self
        if labels.numel() == 0:
            return
        low, high = (int(bound) for bound in labels.aminmax())
        if low < 0 or high >= num_classes:
            wrong_label = low if low < 0 else high
            raise InputError(f"label_mix.labels: expected classes 0 ... {num_classes - 1}, got {wrong_label}")
        lowest = float(weights.amin())
        if not lowest >= 0:  # NaN is not >= 0 either
            raise InputError(f"label_mix.weights: expected numbers >= 0, got {lowest:g}")
        off = weights.sum(1) - 1
        if not float(off.abs().amax()) <= _SUM_TOLERANCE:
            wrong = float(off[off.abs().argmax()] + 1)
            raise InputError(f"label_mix.weights: expected rows that sum to 1, got a row sum of {wrong:g}")
