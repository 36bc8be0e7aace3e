"""Checkpoints of other people's making, read without running anything that they hold."""

from __future__ import annotations

import argparse
import pathlib
import pickle
import re
import types
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ida_lightning.errors import InputError

_NUMBERS = (*np.typecodes["AllInteger"], *np.typecodes["AllFloat"], "?", "S", "U")
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def _values_only() -> list[Any]:
    """Classes that hold values and run nothing: of training arguments, numbers of NumPy, and paths.

    Under the names of every release that writes them, as those are what a file holds.
    """
    scalar = np.float64(0).__reduce__()[0]
    array = np.zeros(1).__reduce__()[0]
    kinds = {type(np.dtype(code)) for code in _NUMBERS}
    allowed: list[Any] = [bytes, argparse.Namespace, types.SimpleNamespace, np.ndarray, np.dtype, *kinds]
    for room in ("numpy.core.multiarray", "numpy._core.multiarray"):
        allowed += [(scalar, f"{room}.scalar"), (array, f"{room}._reconstruct")]
    for room in ("pathlib", "pathlib._local"):
        allowed += [(pathlib.PurePosixPath, f"{room}.{name}") for name in ("PosixPath", "PurePosixPath")]
        allowed += [(pathlib.PureWindowsPath, f"{room}.{name}") for name in ("WindowsPath", "PureWindowsPath")]
    return allowed


@contextmanager
def values_allowed() -> Iterator[None]:
    """Let ``torch.load(weights_only=True)`` read the arguments and numbers that training scripts keep with weights."""
    with torch.serialization.safe_globals(_values_only()):
        yield


def explain(path: str | Path, error: Exception, kind: str = "weight file") -> str:
    """Say in one line why a file could not be read, without terminal codes and advice to switch the guard off.

    Args:
        path: the file.
        error: what ``torch.load(weights_only=True)`` raised.
        kind: what the file should be.
    """
    text = _ESCAPES.sub("", str(error)).strip()
    if _is_torchscript(path):
        return f"{path} is a TorchScript program, not weights; give torch.jit.load(...) as a network in Python instead"
    names = _refused(path, text)
    if names:
        return (
            f"{path} holds code, {', '.join(names)}, which is never run; where it was made, save the weights alone: "
            "torch.save(model.state_dict(), file)"
        )
    if isinstance(error, pickle.UnpicklingError) and "nsupported" in text:
        reason = re.search(r"(Unsupported[^\n]*|unsupported[^\n]*)", text)
        return f"{path} holds what is no plain value ({reason[1].strip() if reason else 'pickled code'})"
    reason_line = next((line.strip() for line in text.splitlines() if line.strip()), type(error).__name__)
    if reason_line.startswith("Weights only load failed"):
        detail = re.search(r"(?:WeightsUnpickler error|Please file an issue[^:]*): *([^\n]+)", text)
        reason_line = detail[1].strip() if detail else "not a pickle of tensors"
    if reason_line.isdigit():  # the first byte that is none of a pickle
        reason_line = "no file of torch.save"
    return f"{path} is damaged or no {kind} ({reason_line[:200]})"


def _is_torchscript(path: str | Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/constants.pkl") for name in archive.namelist())
    except (OSError, zipfile.BadZipFile):
        return False


def _refused(path: str | Path, text: str) -> list[str]:
    """Return the names of classes and functions that a file would call and that are not allowed."""
    try:
        with values_allowed():
            names = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # noqa: BLE001 (anything at all can stand in such a file, and older formats are not looked into)
        names = []
    named = re.search(r"GLOBAL ([\w.]+)", text) or re.search(r"(?:global|class|function) ([\w.]+) (?:was|is) not", text)
    if not names and named:
        names = [named[1]]
    shown = [re.sub(r"[^\w.<>]", "?", name)[:80] for name in names]
    return shown if len(shown) <= 4 else [*shown[:4], f"{len(shown) - 4} more"]


def load_values(
    path: str | Path, argument: str, load: Callable[..., Any] = torch.load, kind: str = "weight file"
) -> Any:
    """Read a file of ``torch.save``: tensors, plain values, training arguments and numbers, never code.

    Args:
        path: the file.
        argument: which gave the path, for the message.
        load: reads it.
        kind: what the file should be, for the message.

    Raises:
        InputError: if the file is damaged, or holds code, which is named.
    """
    if _is_torchscript(path):
        raise InputError(f"{argument}: {explain(path, ValueError())}")
    try:
        with values_allowed():
            return load(path, map_location="cpu", weights_only=True)
    except Exception as error:
        raise InputError(f"{argument}: {explain(path, error, kind)}") from error
