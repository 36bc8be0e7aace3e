"""The one exception that is meant for the person who called."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


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


def kind_of(tensor: Tensor) -> str:
    """What came, for messages: dtype and shape, such as ``float32 (2, 10)``."""
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
