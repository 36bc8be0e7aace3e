"""The one exception that is meant for the caller, and the named checks that raise it."""

from __future__ import annotations

import math
from collections.abc import Collection
from numbers import Integral, Real
from typing import Any, TypeVar

import torch
from torch import Tensor

_Value = TypeVar("_Value")


class InputError(ValueError):
    """Something that was passed in cannot be used.

    The message names the argument, what was expected and what came. The command line prints it as one
    line and exits with code 2; from Python it is an ordinary ``ValueError``.

    Example:
        >>> raise InputError("temperature: expected a number > 0, got -1")
        Traceback (most recent call last):
        ...
        ida_lightning.errors.InputError: temperature: expected a number > 0, got -1
    """

    def __init__(self, message: str) -> None:
        # A loader's worker process hands its whole traceback on as the message; only the end was meant for anyone.
        if message.startswith("Caught InputError in DataLoader worker"):
            message = message.rsplit("InputError: ", 1)[-1].rstrip()
        super().__init__(message)


def kind_of(value: object) -> str:
    """Describe what came, for messages: ``float32 (2, 10)`` for a tensor, ``str 'a'`` for anything else."""
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:59] + '…'}"


def one_of(name: str, value: _Value, choices: Collection[_Value]) -> _Value:
    """Return ``value``, which must be one of ``choices``.

    Example:
        >>> one_of("space", "logit", ("softened", "logits"))
        Traceback (most recent call last):
        ...
        ida_lightning.errors.InputError: space: expected one of softened, logits, got 'logit'
    """
    # A list is in no set, and comparing it with a tensor would not give a bool.
    if not any(type(value) is type(choice) and value == choice for choice in choices):
        raise InputError(f"{name}: expected one of {', '.join(map(str, choices))}, got {value!r}")
    return value


def positive(name: str, value: float) -> float:
    """Return ``value``, which must be a finite number > 0."""
    return _number(name, value, "a number > 0", lambda number: number > 0)


def non_negative(name: str, value: float) -> float:
    """Return ``value``, which must be a finite number >= 0."""
    return _number(name, value, "a number >= 0", lambda number: number >= 0)


def share(name: str, value: float) -> float:
    """Return ``value``, which must be a number from 0 to 1."""
    return _number(name, value, "a number from 0 to 1", lambda number: 0 <= number <= 1)


def inner_share(name: str, value: float) -> float:
    """Return ``value``, which must be a number between 0 and 1, neither of the two."""
    return _number(name, value, "a number between 0 and 1", lambda number: 0 < number < 1)


def positive_share(name: str, value: float) -> float:
    """Return ``value``, which must be a number above 0 and up to 1."""
    return _number(name, value, "a number above 0 and up to 1", lambda number: 0 < number <= 1)


def _number(name: str, value: Any, expected: str, fits: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, Real) or not math.isfinite(value) or not fits(value):
        raise InputError(f"{name}: expected {expected}, got {value if isinstance(value, Real) else repr(value)}")
    return value  # type: ignore[return-value]  # as it came: an int stays one


def at_least(name: str, value: int, least: int) -> int:
    """Return ``value``, which must be a whole number of ``least`` or more."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise InputError(f"{name}: expected at least {least}, got {value!r}")
    return int(value)


def is_tensor(name: str, value: object, expected: str = "a tensor") -> Tensor:
    """Return ``value``, which must be a tensor."""
    if not isinstance(value, Tensor):
        raise InputError(f"{name}: expected {expected}, got {kind_of(value)}")
    return value


def float_matrix(name: str, value: object, columns: str = "classes") -> Tensor:
    """Return ``value``, which must be a floating point tensor ``(batch, columns)``."""
    expected = f"floating point (batch, {columns})"
    tensor = is_tensor(name, value, expected)
    if not tensor.is_floating_point() or tensor.ndim != 2:
        raise InputError(f"{name}: expected {expected}, got {kind_of(tensor)}")
    return tensor


def same_shape(name: str, value: object, other_name: str, other: Tensor) -> Tensor:
    """Return ``value``, which must be a tensor of the shape and on the device of ``other``."""
    tensor = is_tensor(name, value)
    if tensor.shape != other.shape:
        raise InputError(f"{name}: expected the shape of {other_name}, {tuple(other.shape)}, got {kind_of(tensor)}")
    if tensor.device != other.device:
        raise InputError(f"{name}: expected the device of {other_name}, {other.device}, got {tensor.device}")
    return tensor


def labels_in_range(name: str, labels: Tensor, num_classes: int) -> Tensor:
    """Return int64 ``labels``, which must be from 0 to ``num_classes - 1``. Waits for an accelerator."""
    if is_tensor(name, labels).dtype != torch.int64:
        raise InputError(f"{name}: expected int64, got {kind_of(labels)}")
    if labels.numel():
        low, high = (int(bound) for bound in labels.aminmax())
        if low < 0 or high >= num_classes:
            wrong = low if low < 0 else high
            raise InputError(f"{name}: expected classes 0 ... {num_classes - 1}, got {wrong}")
    return labels
