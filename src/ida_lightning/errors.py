"""InputError, the one exception that is meant for the caller, and the named checks that raise it."""

from __future__ import annotations

import math
from collections.abc import Collection
from numbers import Integral, Real
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import Parameter

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
    for choice in choices:
        if type(value) is type(choice) and value == choice:
            return value
    raise InputError(f"{name}: expected one of {', '.join(map(str, choices))}, got {value!r}")


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


def share_below_one(name: str, value: float) -> float:
    """Return ``value``, which must be a number from 0 to below 1."""
    return _number(name, value, "a number from 0 to below 1", lambda number: 0 <= number < 1)


def positive_share(name: str, value: float) -> float:
    """Return ``value``, which must be a number above 0 and up to 1."""
    return _number(name, value, "a number above 0 and up to 1", lambda number: 0 < number <= 1)


def _number(name: str, value: Any, expected: str, fits: Any) -> float:
    try:
        right = not isinstance(value, bool) and isinstance(value, Real) and math.isfinite(value) and fits(value)
    except OverflowError:  # a whole number beyond float64
        right = False
    if not right:
        raise InputError(f"{name}: expected {expected}, got {value if isinstance(value, Real) else repr(value)}")
    return value  # type: ignore[no-any-return]  # as it came: an int stays one


def at_least(name: str, value: int, least: int) -> int:
    """Return ``value``, which must be a whole number of ``least`` or more."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise InputError(f"{name}: expected at least {least}, got {value!r}")
    if value >= 2**63:
        raise InputError(f"{name}: expected a number below 2**63, got {kind_of(value)}")
    return int(value)


def whole_number(name: str, value: int, least: int, most: int) -> int:
    """Return ``value``, which must be a whole number from ``least`` to ``most``."""
    if isinstance(value, bool) or not isinstance(value, Integral) or not least <= value <= most:
        raise InputError(f"{name}: expected a whole number from {least} to {most}, got {value!r}")
    return int(value)


def flag(name: str, value: bool) -> bool:
    """Return ``value``, which must be true or false; a word such as ``"no"`` would count as true."""
    if not isinstance(value, bool):
        raise InputError(f"{name}: expected true or false, got {value!r}")
    return value


def is_a(name: str, value: object, kind: type[_Value]) -> _Value:
    """Return ``value``, which must be a ``kind``.

    Example:
        >>> is_a("label_mix", [0, 1], Tensor)
        Traceback (most recent call last):
        ...
        ida_lightning.errors.InputError: label_mix: expected a Tensor, got list [0, 1]
    """
    if not isinstance(value, kind):
        raise InputError(f"{name}: expected a {kind.__name__}, got {kind_of(value)}")
    return value


def is_tensor(name: str, value: object, expected: str = "a tensor") -> Tensor:
    """Return ``value``, which must be a tensor."""
    if not isinstance(value, Tensor):
        raise InputError(f"{name}: expected {expected}, got {kind_of(value)}")
    return value


def float_matrix(name: str, value: object, columns: str = "classes") -> Tensor:
    """Return ``value``, which must be a floating point tensor ``(batch, columns)``."""
    expected = f"floating point (batch, {columns})"
    tensor = is_tensor(name, value, expected)
    if not tensor.is_floating_point() or tensor.ndim != 2 or tensor.shape[1] == 0:
        raise InputError(f"{name}: expected {expected}, got {kind_of(tensor)}")
    return tensor


def same_shape(name: str, value: object, other_name: str, other: Tensor) -> Tensor:
    """Return ``value``, which must be a tensor of the shape and on the device of ``other``."""
    tensor = is_tensor(name, value)
    if tensor.shape != other.shape:
        raise InputError(f"{name}: expected the shape of {other_name}, {tuple(other.shape)}, got {kind_of(tensor)}")
    return same_device(name, tensor, other_name, other)


def floats_like(name: str, value: object, other_name: str, other: Tensor) -> Tensor:
    """Return ``value``, which must be a floating point tensor of the shape and on the device of ``other``."""
    tensor = same_shape(name, value, other_name, other)
    if not tensor.is_floating_point():
        raise InputError(f"{name}: expected floating point {tuple(other.shape)}, got {kind_of(tensor)}")
    return tensor


def same_device(name: str, value: Tensor, other_name: str, other: Tensor) -> Tensor:
    """Return ``value``, which must be on the device of ``other``."""
    if value.device != other.device:
        raise InputError(f"{name}: expected the device of {other_name}, {other.device}, got {value.device}")
    return value


def can_look(values: Tensor, validate: bool | None = None) -> bool:
    """Tell whether to check values, and not only shapes; ``validate`` decides where it is True or False.

    None looks on the CPU only, because an accelerator would be waited for, and where there are values: in no graph.
    """
    on_cpu = values.device.type == "cpu" and not torch.compiler.is_compiling()
    return on_cpu and is_plain(values) if validate is None else flag("validate", validate)


def is_plain(*tensors: Tensor) -> bool:
    """Tell whether all hold numbers: none is a fake tensor or inside a transform of ``torch.func``."""
    try:
        return all(type(one) in (Tensor, Parameter) and one.data_ptr() >= 0 for one in tensors)
    except RuntimeError:
        return False


def sum_tolerance(dtype: torch.dtype, least: float = 1e-3) -> float:
    """Return how far a row of shares in ``dtype`` may be from a sum of 1: they reach us through other arithmetic."""
    return max(least, 4 * torch.finfo(dtype).eps)


def shares(name: str, rows: Tensor, least_tolerance: float = 1e-3) -> Tensor:
    """Return float ``rows`` ``(batch, entries)``, which must be numbers >= 0 with a sum of 1. Waits for an accelerator.

    Example:
        >>> shares("soft_labels", torch.tensor([[2.0, -1.0]]))
        Traceback (most recent call last):
        ...
        ida_lightning.errors.InputError: soft_labels: expected numbers >= 0, got -1
    """
    if rows.numel() == 0:
        return rows
    lowest = rows.detach().amin().item()
    if not lowest >= 0:  # NaN is not >= 0 either
        raise InputError(f"{name}: expected numbers >= 0, got {lowest:g}")
    return sums_of_one(name, rows, least_tolerance)


def sums_of_one(name: str, rows: Tensor, least_tolerance: float = 1e-3) -> Tensor:
    """Return float ``rows`` ``(batch, entries)``, each of which must have a sum of 1. Waits for an accelerator."""
    if rows.numel() == 0:
        return rows
    least, most = (bound.item() for bound in rows.detach().sum(1, dtype=torch.float32).aminmax())
    tolerance = sum_tolerance(rows.dtype, least_tolerance)
    if least < 1 - tolerance or not most <= 1 + tolerance:
        wrong = least if least < 1 - tolerance else most
        raise InputError(f"{name}: expected rows that sum to 1, got a row sum of {wrong:g}")
    return rows


def probabilities(name: str, value: object, validate: bool | None = None) -> Tensor:
    """Return ``value``, which must be probabilities ``(batch, classes)``; for ``validate`` see :func:`can_look`."""
    tensor = float_matrix(name, value)
    # Wide enough for a softmax in bfloat16 that was converted since.
    return shares(name, tensor, least_tolerance=0.01) if can_look(tensor, validate) else tensor


def not_nan(name: str, values: Tensor) -> Tensor:
    """Return float ``values``, of which none may be NaN where :func:`can_look`."""
    if can_look(values) and math.isnan(float(values.detach().sum())) and bool(values.isnan().any()):
        raise InputError(f"{name}: expected numbers, got NaN in {int(values.isnan().any(-1).sum())} rows")
    return values


def float_vector(name: str, value: object) -> Tensor:
    """Return ``value``, which must be floating point ``(rows,)``."""
    tensor = is_tensor(name, value, "floating point (rows,)")
    if not tensor.is_floating_point() or tensor.ndim != 1:
        raise InputError(f"{name}: expected floating point (rows,), got {kind_of(tensor)}")
    return tensor


def int_vector(name: str, value: object, rows: int | None = None) -> Tensor:
    """Return ``value``, which must be int64 ``(batch,)``, of ``rows`` entries if that is given."""
    expected = f"int64 ({'batch' if rows is None else rows},)"
    tensor = is_tensor(name, value, expected)
    if tensor.dtype != torch.int64 or tensor.ndim != 1 or rows not in (None, len(tensor)):
        raise InputError(f"{name}: expected {expected}, got {kind_of(tensor)}")
    return tensor


def labels_in_range(name: str, labels: Tensor, num_classes: int, what: str = "classes") -> Tensor:
    """Return int64 ``labels``, which must be from 0 to ``num_classes - 1``. Waits for an accelerator."""
    if is_tensor(name, labels).dtype != torch.int64:
        raise InputError(f"{name}: expected int64, got {kind_of(labels)}")
    if labels.numel():
        low, high = (bound.item() for bound in labels.aminmax())
        if low < 0 or high >= num_classes:
            wrong = low if low < 0 else high
            raise InputError(f"{name}: expected {what} 0 ... {num_classes - 1}, got {wrong}")
    return labels


def check_rows(name: str, rows: Tensor, batch: int) -> Tensor:
    """Return ``rows``, which must choose among ``batch`` rows: int64 numbers, a mask ``(batch,)`` or a slice."""
    if isinstance(rows, slice):
        return rows
    expected = f"int64 (rows,) or bool ({batch},)"
    if is_tensor(name, rows, expected).ndim != 1 or rows.dtype not in (torch.int64, torch.bool):
        raise InputError(f"{name}: expected {expected}, got {kind_of(rows)}")
    if rows.dtype == torch.bool and len(rows) != batch:
        raise InputError(f"{name}: expected {expected}, got {kind_of(rows)}")
    if rows.dtype == torch.int64 and can_look(rows) and rows.numel():
        low, high = (int(bound) for bound in rows.aminmax())
        if low < -batch or high >= batch:
            raise InputError(f"{name}: expected rows 0 ... {batch - 1}, got {low if low < -batch else high}")
    return rows


def share_of_rows(name: str, weight: Tensor | float, labels: Tensor) -> Tensor:
    """Return ``weight``, a number or ``(batch,)``, as float32 ``(batch,)`` on the device of the labels."""
    expected = f"numbers from 0 to 1, one or ({len(labels)},)"
    try:
        share = torch.as_tensor(weight, dtype=torch.float32, device=labels.device)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{name}: expected {expected}, got {kind_of(weight)}") from error
    if share.shape not in ((), labels.shape):
        raise InputError(f"{name}: expected {expected}, got {kind_of(share)}")
    if share.numel() and can_look(share) and not bool(((share >= 0) & (share <= 1)).all()):
        outside = share.detach().reshape(-1)
        wrong = float(outside[~((outside >= 0) & (outside <= 1))][0])
        raise InputError(f"{name}: expected {expected}, got {wrong:g}")
    return share.expand(len(labels))
