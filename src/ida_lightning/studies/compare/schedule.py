"""Runs the cells that are not finished: here one after the other, or side by side in processes of their own."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from time import perf_counter, sleep
from typing import Any

from ida_lightning.cli import IDACLI
from ida_lightning.errors import InputError
from ida_lightning.lightning_internals import Terminated
from ida_lightning.locks import HeldError
from ida_lightning.studies.compare.cells import TUNING, Cell
from ida_lightning.studies.compare.claims import Claims
from ida_lightning.studies.compare.run import attempt
from ida_lightning.studies.compare.settings import Settings
from ida_lightning.studies.compare.sharing import Sharing
from ida_lightning.studies.console import duration, print_line, quiet

_TERMINATED = 128 + signal.SIGTERM
_HELD = 75  # EX_TEMPFAIL of sysexits.h: another process has claimed the cell
_POLL = 1.0  # seconds between looks at what other processes have finished


def train_teacher(fit: str, settings: Settings) -> None:
    """Run a fit config; in a process of its own where the cells are, so that none of the accelerator stays taken."""
    if settings.jobs == 1 and not settings.devices:
        IDACLI(["fit", "--config", fit]).run()
    else:
        process = _start(_fit, (fit, settings.threads), settings.devices[0] if settings.devices else None)
        try:
            process.join()
        finally:
            process.terminate()
            process.join()
        if process.exitcode:
            raise InputError(f"teacher: {fit} {_ending(process.exitcode)}")


def _fit(fit: str, threads: int | None) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        with quiet(threads):
            IDACLI(["fit", "--config", fit]).run()
    except Terminated:
        sys.exit(_TERMINATED)
    except InputError as error:
        print_line(f"teacher: {error}")
        sys.exit(1)


def run_cells(cells: Sequence[Cell], settings: Settings) -> dict[str, str]:
    """Run those of ``cells`` that are not finished, and print a line about each; one that fails stops no other.

    Other processes may work on the same cells. Those that they run are waited for, so all have ended when this returns.

    Args:
        cells: of the comparison.
        settings: how many side by side, on which devices; one job without devices runs in this process.

    Returns:
        The name of every cell that failed, and why.
    """
    waiting = [cell for cell in cells if cell.result() is None]
    finished, total, start = len(cells) - len(waiting), len(cells), perf_counter()
    print_line(f"{total} cells, {finished} finished, {len(waiting)} to run")
    failed: dict[str, str] = {}
    sharing = Sharing(waiting, settings)
    side_by_side = settings.jobs > 1 or bool(settings.devices)
    endings = (_in_processes if side_by_side else _in_this_process)(sharing, settings)
    for done, (cell, error, here) in enumerate(endings, start=1):
        result = cell.last_result() if error is None else None
        sharing.end(cell, result is not None, here)
        if result is None:
            error = error or f"it left no usable {cell.folder / 'cell.json'}"
            failed[cell.name], text = error, f"failed: {error}"
        else:
            split, name = ("val", "validation") if cell.method == TUNING else ("test", "test")
            best, last = (result[weights][f"{split}_acc"] for weights in ("best", "last"))
            text = f"{name} accuracy {best:.1%} (best epoch), {last:.1%} (last), {result['seconds']:.0f} s"
        text += "" if here else ", run by another process"
        left = (len(waiting) - done) * (perf_counter() - start) / done
        print_line(f"[{finished + done}/{total}] {cell.name}: {text}" + (f"; {duration(left)} left" if left else ""))
    sharing.finish()
    return failed


_Ending = tuple[Cell, "str | None", bool]  # what went wrong; whether it ran here


def _in_this_process(sharing: Sharing, settings: Settings) -> Iterator[_Ending]:
    """Run cells one after the other."""
    claims = Claims(sharing.cells)
    while claims.waiting:
        yield from ((*ending, False) for ending in claims.ended_elsewhere())
        cell = claims.take(sharing.may_start)
        if cell is not None:
            try:
                yield cell, attempt(cell), True
            except HeldError:
                claims.give_back(cell)
        elif claims.waiting:
            sleep(_POLL)


def _in_processes(sharing: Sharing, settings: Settings) -> Iterator[_Ending]:
    """Run cells side by side, each in a process of its own; yields each when it ends, with what went wrong."""
    claims, jobs, devices = Claims(sharing.cells), settings.jobs, settings.devices
    running: dict[int, tuple[BaseProcess, Cell]] = {}  # by the number of the job, which takes devices in turn
    threads = settings.threads or max(1, (os.cpu_count() or 1) // jobs)
    try:
        while claims.waiting or running:
            yield from ((*ending, False) for ending in claims.ended_elsewhere())
            for job in range(jobs):
                cell = claims.take(sharing.may_start) if job not in running else None
                if cell is not None:
                    sharing.start(cell)
                    device = devices[job % len(devices)] if devices else None
                    running[job] = _start(_run_apart, (cell, threads), device), cell
            ready = wait([process.sentinel for process, _ in running.values()], _POLL if claims.waiting else None)
            for job, (process, cell) in list(running.items()):
                if process.sentinel in ready:
                    process.join()
                    del running[job]
                    if process.exitcode == _HELD:
                        sharing.give_back(cell)
                        claims.give_back(cell)
                    else:
                        yield cell, None if process.exitcode == 0 else _reason(cell, process.exitcode), True
    finally:
        for process, _ in running.values():
            process.terminate()
            process.join()


def _start(target: Callable[..., None], args: tuple[Any, ...], device: int | None) -> BaseProcess:
    """Start a process; what it may see of CUDA is settled before it starts, since importing may look."""
    process = multiprocessing.get_context("spawn").Process(target=target, args=args)
    before = dict(os.environ)
    try:
        if device is not None:
            os.environ["CUDA_VISIBLE_DEVICES"] = str(device)
        process.start()
    finally:
        os.environ.pop("CUDA_VISIBLE_DEVICES", None)
        os.environ.update(before)
    return process


def _run_apart(cell: Cell, threads: int) -> None:
    """Run a cell in a process of its own, with what it prints in ``log.txt``."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    cell.folder.mkdir(parents=True, exist_ok=True)
    with (cell.folder / "log.txt").open("w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        try:
            with quiet(threads):
                code = int(attempt(cell) is not None)
        except HeldError:
            code = _HELD
        except Terminated:
            code = _TERMINATED
        sys.stdout.flush()
    sys.exit(code)


def _end_with_parent() -> None:
    """End this process when the comparison ends, however: another one may run the cell in the same folder."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _reason(cell: Cell, code: int | None) -> str:
    error = cell.folder / "error.txt"
    if code == 1 and error.is_file():  # otherwise it may be an earlier run's
        return ["", *error.read_text().strip().splitlines()][-1]
    log = cell.folder / "log.txt"
    return _ending(code) + (f"; see {log}" if log.is_file() else "")


def _ending(code: int | None) -> str:
    """Say how a process ended: by a signal (some tell it by 128 and its number), or with a code."""
    number = -code if code is not None and code < 0 else (code or 0) - 128
    if number in {member.value for member in signal.Signals}:
        return f"was ended by {signal.Signals(number).name}"
    return f"ended with {code}"
