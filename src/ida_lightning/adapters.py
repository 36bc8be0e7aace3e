"""Batches of other people's pipelines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ida_lightning.errors import InputError, at_least, can_look, kind_of, labels_in_range, shares
from ida_lightning.inputs import Inputs, check_inputs, device_of, rows_in, tensors_in
from ida_lightning.label_mix import LabelMix
from ida_lightning.mixing import MixedBatch

_PICTURES, _LABELS = ("image", "images", "pixel_values"), ("label", "labels")


def as_mixed_batch(batch: object, num_classes: int | None = None, smoothing: float | None = None) -> MixedBatch:
    """Convert a batch of somebody else's pipeline to a :class:`MixedBatch` on the same device.

    Args:
        batch: a MixedBatch, which comes back as it is; ``(inputs, targets)``; or a dict with ``label`` or ``labels``
            and either ``image``, ``images`` or ``pixel_values``, or other tensors, which are the inputs by name, as
            tokenizers give them. Targets are labels, int64 ``(batch,)``, or class weights, float ``(batch, classes)``,
            such as torchvision's ``v2.MixUp`` or timm's ``Mixup`` return.
        num_classes: how many classes there are; None takes any number.
        smoothing: of the class weights, see :meth:`LabelMix.from_dense`.

    Raises:
        InputError: for anything else and, on the CPU, for labels out of range and class weights that are no shares.

    Example:
        >>> as_mixed_batch([torch.rand(1, 3, 8, 8), torch.tensor([[0.25, 0.0, 0.75]])]).label_mix
        LabelMix(labels=tensor([[2, 0]]), weights=tensor([[0.7500, 0.2500]]))
    """
    if isinstance(batch, MixedBatch):
        return batch
    if num_classes is not None:
        at_least("num_classes", num_classes, 1)
    inputs, targets = inputs_and_targets(batch)
    check_inputs("batch", inputs)
    not_raw(inputs, "convert and normalise them, or give the Trainer the data module instead of its loader")
    rows, device = rows_in(inputs), device_of(inputs)
    itself = torch.arange(rows, device=device)
    dense = targets.is_floating_point() and targets.ndim == 2
    if targets.device != device:
        raise InputError(f"batch: expected targets on the device of the inputs, {device}, got {targets.device}")
    if targets.dtype == torch.int64 and targets.shape == itself.shape:
        if can_look(targets):
            labels_in_range("batch: labels", targets, num_classes or int(targets.amax().clamp_min(0)) + 1)
        mix = LabelMix.unmixed(targets)
    elif dense and len(targets) == rows and num_classes in (None, targets.shape[1]):
        if can_look(targets):
            shares("batch: class weights", targets)
        mix = LabelMix.from_dense(targets, smoothing=smoothing)
    else:
        wanted = f"int64 ({rows},) or float ({rows}, {num_classes or 'classes'})"
        raise InputError(f"batch: expected targets {wanted}, got {kind_of(targets)}")
    return MixedBatch(inputs, mix, torch.full_like(itself, -1), itself[:, None])


def not_raw(inputs: Inputs, advice: str) -> None:
    """Refuse pictures as they are stored: uint8 anywhere, and what has the form of a picture but no fractions.

    Args:
        inputs: of a batch.
        advice: what to do, for the message.
    """
    for tensor in tensors_in(inputs):
        if not tensor.is_floating_point() and (tensor.dtype == torch.uint8 or tensor.ndim == 4):
            raise InputError(f"batch: expected normalised floating point images, got {kind_of(tensor)}; {advice}")


def inputs_and_targets(batch: object) -> tuple[Inputs, Tensor]:
    """Return inputs and targets of a batch of somebody else's pipeline, of whatever kind they are.

    Args:
        batch: see :func:`as_mixed_batch`.

    Raises:
        InputError: for a batch of another structure.
    """
    pair: list[Any] = list(batch) if isinstance(batch, (tuple, list, Mapping)) else []
    fields = pair
    if isinstance(batch, Mapping):
        pictures, labels = ([batch[name] for name in names if name in batch] for names in (_PICTURES, _LABELS))
        others = {name: entry for name, entry in batch.items() if name not in _LABELS and isinstance(entry, Tensor)}
        pair = [*(pictures or ([others] if others else [])), *labels]
    if len(pair) != 2 or not isinstance(pair[1], Tensor) or not isinstance(pair[0], (Tensor, Mapping)):
        kinds = (kind_of(field) if isinstance(field, Tensor) else repr(field)[:40] for field in fields)
        came = " of ".join(filter(None, (type(batch).__name__, ", ".join(kinds))))
        raise InputError(f"batch: expected a MixedBatch, (inputs, targets) or a dict with inputs and label, got {came}")
    return pair[0], pair[1]
