"""Inputs of networks: a tensor, or a mapping of tensors, whose rows belong together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, TypeGuard, cast

import torch
from torch import Tensor

from ida_lightning.errors import InputError, kind_of

Inputs: TypeAlias = Tensor | Mapping[str, Tensor]
"""``(batch, ...)``, or several such by name (token ids and their mask, say), all with the same number of rows."""


def tensors_in(inputs: Inputs) -> list[Tensor]:
    """Return the tensor, or those of a mapping in the order of their names.

    Example:
        >>> [tensor.shape for tensor in tensors_in({"mask": torch.ones(2, 7), "ids": torch.zeros(2, 7, 3)})]
        [torch.Size([2, 7, 3]), torch.Size([2, 7])]
    """
    return [inputs[name] for name in sorted(inputs)] if isinstance(inputs, Mapping) else [inputs]


def rows_in(inputs: Inputs) -> int:
    """Return the number of rows."""
    return len(tensors_in(inputs)[0])


def device_of(inputs: Inputs) -> torch.device:
    """Return the device of the first tensor."""
    return tensors_in(inputs)[0].device


def on_each(function: Callable[[Tensor], Tensor], inputs: Inputs) -> Inputs:
    """Apply a function to the tensor, or to every one of a mapping, which comes back as a dict.

    Example:
        >>> on_each(lambda tensor: tensor[1:], {"ids": torch.arange(3)})
        {'ids': tensor([1, 2])}
    """
    if isinstance(inputs, Mapping):
        return {name: function(tensor) for name, tensor in inputs.items()}
    return function(inputs)


def take_rows(inputs: Inputs, rows: Tensor | slice) -> Inputs:
    """Return the rows named by numbers, a boolean mask or a slice, of every tensor."""
    return on_each(lambda tensor: tensor[rows], inputs)


def join_rows(several: Sequence[Inputs]) -> Inputs:
    """Return the rows of several inputs of one kind, one after the other."""
    first = several[0]
    if isinstance(first, Mapping):
        mappings = cast("Sequence[Mapping[str, Tensor]]", several)
        return {name: torch.cat([inputs[name] for inputs in mappings]) for name in first}
    return torch.cat(cast("list[Tensor]", list(several)))


def is_picture(inputs: object) -> TypeGuard[Tensor]:
    """Say whether inputs have the form of pictures, ``(batch, channels, height, width)``."""
    return isinstance(inputs, Tensor) and inputs.ndim == 4


def as_pictures(name: str, inputs: object) -> Tensor:
    """Return inputs, which must have the form of pictures.

    Args:
        name: of what is for pictures alone, for the message.
        inputs: to check.

    Raises:
        InputError: for anything else.

    Example:
        >>> as_pictures("augmentation", torch.zeros(2, 20, 32))
        Traceback (most recent call last):
        ...
        ida_lightning.errors.InputError: augmentation: expected pictures (batch, channels, height, width), got float32 (2, 20, 32)
    """  # noqa: E501
    if not is_picture(inputs):
        raise InputError(f"{name}: expected pictures (batch, channels, height, width), got {shown(inputs)}")
    return inputs


def shown(inputs: object) -> str:
    """Describe inputs for messages.

    Example:
        >>> shown({"ids": torch.zeros(2, 7, dtype=torch.int64), "mask": torch.ones(2, 7)})
        'ids int64 (2, 7), mask float32 (2, 7)'
    """
    if isinstance(inputs, Mapping):
        return ", ".join(f"{name} {kind_of(entry)}" for name, entry in inputs.items()) or "an empty mapping"
    return kind_of(inputs)


def check_inputs(name: str, inputs: object) -> Inputs:
    """Return inputs, which must be a tensor ``(batch, ...)`` or a mapping of such with the same number of rows.

    Args:
        name: of the argument, for the message.
        inputs: to check.

    Raises:
        InputError: for anything else, naming the entries that differ.

    Example:
        >>> check_inputs("inputs", {"ids": torch.zeros(3, 7), "mask": torch.ones(2, 7)})
        Traceback (most recent call last):
        ...
        ida_lightning.errors.InputError: inputs: expected tensors with the same number of rows, got ids float32 (3, 7), mask float32 (2, 7)
    """  # noqa: E501
    named = isinstance(inputs, Mapping) and inputs and all(isinstance(key, str) for key in inputs)
    entries: list[Any] = list(inputs.values()) if isinstance(inputs, Mapping) and named else [inputs]
    if not all(isinstance(entry, Tensor) and entry.ndim for entry in entries):
        raise InputError(f"{name}: expected a tensor (batch, ...) or a mapping of tensors by name, got {shown(inputs)}")
    if len({len(entry) for entry in entries}) > 1:
        raise InputError(f"{name}: expected tensors with the same number of rows, got {shown(inputs)}")
    return inputs  # type: ignore[return-value]
