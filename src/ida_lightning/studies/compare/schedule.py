"""Runs the cells that are not finished: here one after the other, or side by side in processes of their own."""

from __future__ import annotations

import logging
import multiprocessing
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from time import perf_counter
from typing import Any

import torch

from ida_lightning.cli import IDACLI
from ida_lightning.studies.compare.cells import Cell, result_of
from ida_lightning.studies.compare.run import attempt
from ida_lightning.studies.compare.settings import Settings

Say = Callable[[str], None]


class Progress:
    """One line per cell: how many of how many, what came out, and how long the rest will take.

    Args:
        total: cells of the comparison.
        finished: of these, before this call.
        say: prints a line.
    """

    def __init__(self, total: int, finished: int, say: Say) -> None:
        self.total, self.before, self.say = total, finished, say
        self.done = 0
        self.start = perf_counter()

    def report(self, cell: Cell, error: str | None) -> None:
        """Say that a cell has ended."""
        self.done += 1
        number = self.before + self.done
        left = (self.total - number) * (perf_counter() - self.start) / self.done
        result = result_of(cell) if error is None else None
        text = f"failed: {error}"
        if result is not None:
            last, best = result["last"], result["best"]
            text = f"test accuracy {best['test_acc']:.1%} (best epoch), {last['test_acc']:.1%} (last)"
            text += f", {result['seconds']:.0f} s"
        self.say(f"[{number}/{self.total}] {cell.name}: {text}" + (f"; {duration(left)} left" if left else ""))


def duration(seconds: float) -> str:
    """For people."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


@contextmanager
def quiet(threads: int | None = None) -> Iterator[None]:
    """Only warnings and errors of Lightning, and none that a comparison brings about itself; so many CPU threads."""
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


def train_teacher(fit: str, apart: bool, device: int | None, threads: int | None) -> None:
    """Run a fit config; in a process of its own where the cells are, so that none of the accelerator stays taken."""
    if not apart:
        IDACLI(["fit", "--config", fit])
        return
    process = _start(_teacher, (fit, threads), device)
    process.join()


def _teacher(fit: str, threads: int | None) -> None:
    with quiet(threads):
        IDACLI(["fit", "--config", fit])


def run_cells(cells: Sequence[Cell], progress: Progress, settings: Settings) -> dict[str, str]:
    """Run ``cells``; one that fails does not stop the others.

    Args:
        cells: to be run.
        progress: is told of every end.
        settings: how many side by side, on which devices; one job without devices runs in this process.

    Returns:
        The name of every cell that failed, and why.
    """
    failed: dict[str, str] = {}
    jobs, devices = settings.jobs, settings.devices

    def ended(cell: Cell, error: str | None) -> None:
        if error is not None:
            failed[cell.name] = error
        progress.report(cell, error)

    if jobs == 1 and not devices:
        for cell in cells:
            ended(cell, attempt(cell))
        return failed
    waiting = list(cells)
    # A place is free, or has a process; places take devices in turn.
    places: dict[int, tuple[BaseProcess, Cell]] = {}
    threads = settings.threads or max(1, (os.cpu_count() or 1) // jobs)
    try:
        while waiting or places:
            for place in range(jobs):
                if waiting and place not in places:
                    cell = waiting.pop(0)
                    (cell.folder / "error.txt").unlink(missing_ok=True)  # it may die before it can do so itself
                    device = devices[place % len(devices)] if devices else None
                    places[place] = _start(_work, (cell, threads), device), cell
            ready = wait([process.sentinel for process, _ in places.values()])
            for place, (process, cell) in list(places.items()):
                if process.sentinel in ready:
                    process.join()
                    del places[place]
                    ended(cell, None if process.exitcode == 0 else _reason(cell, process.exitcode))
    finally:
        for process, _ in places.values():
            process.terminate()
            process.join()
    return failed


def _start(target: Callable[..., None], args: tuple[Any, ...], device: int | None) -> BaseProcess:
    """A fresh process; what it may see of CUDA is settled before it starts, since importing may look."""
    process = multiprocessing.get_context("spawn").Process(target=target, args=args)
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    try:
        if device is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = str(device)
        process.start()
    finally:
        if device is not None:
            os.environ.pop("CUDA_VISIBLE_DEVICES")
            os.environ |= {} if before is None else {"CUDA_VISIBLE_DEVICES": before}
    return process


def _work(cell: Cell, threads: int) -> None:
    """In a process of its own: run a cell, with what it prints in ``log.txt``."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    cell.folder.mkdir(parents=True, exist_ok=True)
    with (cell.folder / "log.txt").open("w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        with quiet(threads):
            failed = attempt(cell) is not None
        sys.stdout.flush()
    sys.exit(failed)


def _end_with_parent() -> None:
    """However the comparison was ended: another one may run this cell, and both would write to its folder."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _reason(cell: Cell, code: int | None) -> str:
    error = cell.folder / "error.txt"
    if error.is_file():
        return error.read_text().strip().splitlines()[-1]
    return f"its process ended with {code}; see {cell.folder / 'log.txt'}"
