"""Printing of the studies, and the silence around it."""

from __future__ import annotations

import logging
import signal
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import torch


def print_line(text: str) -> None:
    """Print a line without buffering, also into a file or a pipe."""
    print(text, flush=True)  # noqa: T201


def duration(seconds: float) -> str:
    """Write a duration in seconds, minutes or hours."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """Leave the block by ``SystemExit(143)`` at SIGTERM, so that what it has begun is ended too."""

    def leave(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():  # where Python handles no signals
        yield
        return
    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def quiet(threads: int | None = None) -> Iterator[None]:
    """Silence Lightning but for warnings that are no study's own doing, and set the number of CPU threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads or before)
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for message in (
                "LightningCLI's args parameter is intended",
                "Discarding init_args",  # of the class that a method replaces
                "The '.*_dataloader' does not have many workers",
                ".*skip_none parameter was deprecated",
            ):
                warnings.filterwarnings("ignore", message=message)
            yield
    finally:
        torch.set_num_threads(before)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
