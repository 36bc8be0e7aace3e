"""Batches as they reach a module: converted, and their labels checked."""

from __future__ import annotations

import torch
from torch import Tensor

from ida_lightning.adapters import as_mixed_batch, inputs_and_targets, not_raw
from ida_lightning.errors import InputError, can_look, labels_in_range
from ida_lightning.inputs import check_inputs, on_each, tensors_in
from ida_lightning.mixing import MixedBatch

_TOLERANCE = 0.01  # of the sum of a row of class weights


class BatchIntake:
    """Converts the batches of any loader, and reports labels that no network of so many classes can learn.

    On the CPU every batch is checked at once. On an accelerator nothing waits: labels out of range are put into it, so
    that no kernel reads outside of its memory, and counted there; :meth:`check` reports them.

    Args:
        num_classes: labels are 0 ... num_classes - 1.

    Example:
        >>> BatchIntake(3).take((torch.zeros(2, 3, 8, 8), torch.tensor([0, 3])))
        Traceback (most recent call last):
        ...
        ida_lightning.errors.InputError: batch: labels: expected classes 0 ... 2, got 3
    """

    def __init__(self, num_classes: int) -> None:
        self.num_classes = num_classes
        self._wrong: Tensor | None = None  # labels out of range, rows that are no shares

    def take(self, batch: object, dtype: torch.dtype | None = None, labelled: bool = True) -> MixedBatch:
        """Return a batch as a :class:`MixedBatch` that a network can be given.

        Args:
            batch: see :func:`ida_lightning.as_mixed_batch`.
            dtype: of the network's weights: inputs in float64 are converted to it.
            labelled: whether the labels are known, and so checked.

        Raises:
            InputError: for a batch of another structure, inputs that are none or pictures that are not floating
                point and, on the CPU, labels out of range and class weights that do not sum to 1.
        """
        foreign = not isinstance(batch, MixedBatch)
        mixed = as_mixed_batch(batch, self.num_classes if labelled else None)
        labels = mixed.label_mix.labels
        if not foreign:  # which is checked already
            check_inputs("batch: inputs", mixed.inputs)
            not_raw(mixed.inputs, "give the Trainer the data module instead of its loader")
        if dtype is not None and any(one.dtype == torch.float64 for one in tensors_in(mixed.inputs)):
            narrow = on_each(lambda one: one.to(dtype) if one.dtype == torch.float64 else one, mixed.inputs)
            mixed = mixed._replace(inputs=narrow)
        if can_look(labels):
            if labelled and not foreign:
                labels_in_range("batch: labels", labels, self.num_classes)
        elif labelled:
            mixed = self._make_safe(mixed, inputs_and_targets(batch)[1] if foreign else labels)
        return mixed

    def _make_safe(self, mixed: MixedBatch, targets: Tensor) -> MixedBatch:
        """Count what is wrong without waiting for it, and put labels into their range."""
        labels = mixed.label_mix.labels.clamp(0, self.num_classes - 1)
        outside = (labels != mixed.label_mix.labels).sum()
        no_shares = torch.zeros_like(outside)
        if targets.ndim == 2 and targets.is_floating_point():
            sums, lowest = targets.sum(1, dtype=torch.float32), targets.amin(1)
            no_shares = (((sums - 1).abs() <= _TOLERANCE) & (lowest >= 0)).logical_not().sum()  # NaN is wrong too
        counts = torch.stack((outside, no_shares))
        self._wrong = counts if self._wrong is None else self._wrong + counts
        return mixed._replace(label_mix=mixed.label_mix._replace(labels=labels))

    def check(self) -> None:
        """Report what was counted since the last check; waits for an accelerator.

        Raises:
            InputError: for labels out of range, and class weights that are no shares.
        """
        if self._wrong is None:
            return
        outside, no_shares = self._wrong.tolist()
        self._wrong = None
        if outside:
            raise InputError(
                f"batch: labels: expected classes 0 ... {self.num_classes - 1}, got others in {outside} rows"
            )
        if no_shares:
            raise InputError(
                f"batch: class weights: expected rows of numbers >= 0 that sum to 1, got others in {no_shares} rows"
            )
