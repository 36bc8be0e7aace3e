"""Checks the labels of any data set: whole numbers from 0, or one line that says what they are instead."""

from __future__ import annotations

import math
from numbers import Real
from typing import Any, SupportsInt, cast

import numpy as np
import torch
from torch import Tensor

from ida_lightning.errors import InputError, kind_of


def whole_label(value: Any) -> int:
    """Return a label as a number; nothing of it is cut off.

    Args:
        value: a whole number of Python, NumPy or torch, or a floating point one that is whole.

    Raises:
        InputError: for text, None, one-hot vectors and numbers that are not whole.

    Example:
        >>> whole_label(np.float32(2.0))
        2
        >>> whole_label(1.7)
        Traceback (most recent call last):
        ...
        ida_lightning.errors.InputError: expected a whole number as label, got float 1.7
    """
    number = value
    if isinstance(value, (Tensor, np.ndarray)) and value.ndim == 0:
        number = value.item()
    if isinstance(number, Real) and math.isfinite(number) and int(cast(SupportsInt, number)) == number:
        return int(cast(SupportsInt, number))
    advice = "; give the class's number" if isinstance(value, str) else ""
    raise InputError(f"expected a whole number as label, got {kind_of(value)}{advice}")


def label_vector(values: Any) -> Tensor:
    """Return all labels of a data set as int64 ``(items,)``.

    Args:
        values: a tensor, an array or a list.

    Raises:
        InputError: naming the first item whose label is no whole number.
    """
    try:
        labels = torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError):
        labels = None
    if labels is None or labels.ndim != 1 or labels.is_floating_point() or labels.is_complex():
        labels = torch.tensor([_item(row, value) for row, value in enumerate(values)], dtype=torch.int64)
    return labels.long()


def _item(row: int, value: Any) -> int:
    try:
        return whole_label(value)
    except InputError as error:
        raise InputError(f"item {row}: {error}") from error


def classes_counted(labels: Tensor) -> int:
    """Return how many classes there are, for labels without names: they must be 0 ... n - 1, each of them there.

    Args:
        labels: int64 ``(items,)``.

    Raises:
        InputError: for labels below 0, a class without images, and a single class.

    Example:
        >>> classes_counted(torch.tensor([1, 2, 3]))  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        ida_lightning.errors.InputError: labels: expected 0 ... 3, each of them, got none of 0; if right, ...
    """
    not_negative(labels)
    counts = labels.bincount()
    if bool((counts == 0).any()):
        missing = int((counts == 0).int().argmax())
        raise InputError(
            f"labels: expected 0 ... {len(counts) - 1}, each of them, got none of {missing}; if right, give class_names"
        )
    if len(counts) < 2:
        raise InputError("labels: expected two classes or more, got 0 alone")
    return len(counts)


def not_negative(labels: Tensor) -> Tensor:
    """Return ``labels``, of which none may be below 0."""
    if labels.numel() and int(labels.amin()) < 0:
        row = int((labels < 0).int().argmax())
        raise InputError(
            f"labels: expected 0 or more, got {int(labels[row])} of item {row}; leave out items without a label"
        )
    return labels
