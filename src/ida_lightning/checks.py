"""Named checks of settings that a config gives: paths, texts, colours, lists; those of numbers are in ``errors``."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from importlib.util import find_spec
from os import PathLike
from pathlib import Path
from typing import Any

from ida_lightning.errors import InputError, at_least, kind_of, positive_share, share, whole_number
from ida_lightning.remote import checked_address, is_address, on_this_machine

_MOST_SEED = 2**32 - 1  # what seed_everything takes


def path_like(name: str, value: object) -> Path:
    """Return ``value``, which must be a path on this machine as text or a ``Path``, with ``~`` for the home folder.

    Example:
        >>> path_like("root", None)
        Traceback (most recent call last):
        ...
        ida_lightning.errors.InputError: root: expected a path, got NoneType None
    """
    if not isinstance(value, (str, PathLike)) or not str(value) or "\0" in str(value):
        raise InputError(f"{name}: expected a path, got {kind_of(value)}")
    try:
        return Path(on_this_machine(name, str(value)) if isinstance(value, (str, Path)) else value).expanduser()
    except (RuntimeError, TypeError) as error:  # no such user; a path of bytes
        raise InputError(f"{name}: expected a path, got {kind_of(value)}") from error


def path_or_address(name: str, value: object) -> Path | str:
    """Return ``value``, which must be a path as :func:`path_like` or an address such as ``s3://bucket/x``, as text.

    Example:
        >>> path_or_address("path", "memory://exports/student.safetensors")
        'memory://exports/student.safetensors'
    """
    if isinstance(value, (str, Path)) and is_address(value) and "\0" not in str(value):
        return checked_address(name, str(value))
    return path_like(name, value)


def text(name: str, value: object, optional: bool = False) -> str | None:
    """Return ``value``, which must be a text of at least one letter; if ``optional``, or None."""
    if value is None and optional:
        return None
    if not isinstance(value, str) or not value:
        raise InputError(f"{name}: expected a text, got {kind_of(value)}")
    return value


def require_extra(argument: str, extra: str, what: str, *packages: str) -> None:
    """Check that the packages of an optional extra are installed.

    Args:
        argument: that asks for them.
        extra: of this package.
        what: needs them, in words.
        packages: by the names they are imported by.

    Raises:
        InputError: naming those that are not there.
    """
    missing = [name for name in packages if find_spec(name) is None]
    if missing:
        raise InputError(f"{argument}: {what} needs {', '.join(missing)}: pip install 'ida-lightning[{extra}]'")


def seed_or_none(name: str, value: int | None) -> int | None:
    """Return ``value``, which must be a seed that ``seed_everything`` would take, or None."""
    return None if value is None else whole_number(name, value, 0, _MOST_SEED)


def function(name: str, value: Any) -> Any:
    """Return ``value``, which must be a function, or any object that can be called; a class is none."""
    if not callable(value) or isinstance(value, type):
        raise InputError(f"{name}: expected a function of an image, got {kind_of(value)}")
    return value


def list_of(name: str, value: object, what: str, least: int = 1) -> list[Any]:
    """Return ``value``, which must be a list or tuple of ``least`` or more entries, as a list; a text is none."""
    if not isinstance(value, Collection) or not isinstance(value, Sequence) or isinstance(value, (str, bytes)):
        raise InputError(f"{name}: expected a list of {what}, got {kind_of(value)}")
    if len(value) < least:
        raise InputError(f"{name}: expected a list of {least} or more {what}, got {kind_of(value)}")
    return list(value)


def texts(name: str, value: object, least: int = 1) -> list[str]:
    """Return ``value``, which must be a list of texts."""
    entries = list_of(name, value, "texts", least)
    for entry in entries:
        if not isinstance(entry, str):
            raise InputError(f"{name}: expected a list of texts, got {kind_of(entry)} in it")
    return entries


def whole_numbers(name: str, value: object, least: int, fewest: int = 0) -> list[int]:
    """Return ``value``, which must be a list of ``fewest`` or more whole numbers, none below ``least``."""
    return [at_least(name, entry, least) for entry in list_of(name, value, "whole numbers", fewest)]


def pixel_means(name: str, value: object, channels: int | None = None) -> tuple[float, ...]:
    """Return ``value``, which must be a number from 0 to 1 for each channel: of pixel values from 0 to 1.

    Example:
        >>> pixel_means("mean", (127.5,), 1)
        Traceback (most recent call last):
        ...
        ida_lightning.errors.InputError: mean: expected a number from 0 to 1, got 127.5
    """
    return tuple(float(share(name, entry)) for entry in _one_a_channel(name, value, channels))


def pixel_deviations(name: str, value: object, channels: int | None = None) -> tuple[float, ...]:
    """Return ``value``, which must be a number above 0 and up to 1 for each channel."""
    return tuple(float(positive_share(name, entry)) for entry in _one_a_channel(name, value, channels))


def _one_a_channel(name: str, value: object, channels: int | None) -> list[Any]:
    entries = list_of(name, value, "numbers, one a channel")
    if channels is not None and len(entries) != channels:
        raise InputError(f"{name}: expected {channels} numbers, one a channel, got {len(entries)}")
    return entries
