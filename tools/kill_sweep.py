"""Kill fits, an export, an audit and a comparison with SIGKILL at their file events, and look at what is left.

``python -m tools.kill_sweep --every 5`` from the root of the repository. A job runs in a forked process, in which an
audit hook counts what touches files under the job's folder or under ``TMPDIR`` and kills the process at the n-th event.
Then nothing there may be damaged or false, and going on must give what the job gives when nobody kills it: bit-equal
weights, equal figures. ``TMPDIR`` is once on the file system of the outputs and once on another one.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import torch

from tools.kill_jobs import JOBS

_EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink"}


def _apart(folder: Path, temporary: Path, call: Callable[[], Any], kill_at: int | None = None) -> tuple[int, Any]:
    """Run a function in a forked process in ``folder``; return its exit code and what it returned or raised.

    With ``kill_at`` it ends itself at that file event; the number of events is returned where there are fewer.
    """
    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=_life, args=(folder, temporary, call, kill_at, theirs))
    process.start()
    theirs.close()
    try:
        answer = ours.recv()
    except EOFError:
        answer = None
    process.join()
    return process.exitcode or 0, answer


def _life(folder: Path, temporary: Path, call: Callable[[], Any], kill_at: int | None, answer: Any) -> None:
    os.chdir(folder)
    tempfile.tempdir = str(temporary)
    with Path("printed.txt").open("a") as printed:
        os.dup2(printed.fileno(), 1)
        os.dup2(printed.fileno(), 2)
    torch.set_num_threads(1)
    seen, roots = [0], (str(folder), str(temporary))

    def watch(event: str, args: tuple[Any, ...]) -> None:
        if event not in _EVENTS or not args or not isinstance(args[0], (str, bytes, os.PathLike)):
            return
        if event == "open" and not (args[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            return
        if os.path.abspath(os.fsdecode(args[0])).startswith(roots):
            seen[0] += 1
            if seen[0] == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    if kill_at is not None:
        sys.addaudithook(watch)
    try:
        content = call()
    except BaseException:  # noqa: BLE001 (SystemExit too)
        traceback.print_exc()
        answer.send(traceback.format_exc(limit=-2))
        os._exit(1)
    answer.send(seen[0] if kill_at is not None else content)
    os._exit(0)


def sweep(name: str, every: int, temporary: Path | None, minutes: float, first: int = 1) -> Counter[str]:
    """Kill one job at every ``every``-th of its file events.

    Args:
        name: of the job.
        every: 1 for all events.
        temporary: a folder for temporary files; None for one beside the outputs.
        minutes: after which no further kill is tried.
        first: of the events.

    Returns:
        How many kills there were, how many events, and what was wrong after how many of them.
    """
    job, figures = JOBS[name], Counter({"events": 0, "kills": 0})
    end = time.monotonic() + 60 * minutes
    with tempfile.TemporaryDirectory() as outputs, tempfile.TemporaryDirectory(dir=temporary) as elsewhere:
        prepared = Path(outputs, "prepared")
        prepared.mkdir()
        _must(_apart(prepared, Path(elsewhere), job.prepare))
        numbers = count()

        def fresh() -> Path:
            return Path(shutil.copytree(prepared, Path(outputs, str(next(numbers))))).resolve()

        folder = fresh()
        figures["events"] = _must(_apart(folder, Path(elsewhere), job.run, kill_at=0))
        expected = _must(_apart(folder, Path(elsewhere), job.result))
        for event in range(first, figures["events"] + 1, every):
            if time.monotonic() > end:
                figures["left out for want of time"] += 1
                continue
            folder = fresh()
            code, error = _apart(folder, Path(elsewhere), job.run, kill_at=event)
            if code != -signal.SIGKILL:  # the number of events varies by a few
                figures["ended before"] += code == 0
                figures["failed"] += code != 0
                continue
            figures["kills"] += 1
            code, found = _apart(folder, Path(elsewhere), job.look)
            problems = [f"looking: {found}"] if code else list(found)
            code, error = _apart(folder, Path(elsewhere), job.run)
            if code:
                problems.append(f"going on: {error}")
            elif _must(_apart(folder, Path(elsewhere), job.result)) != expected:
                problems.append("the result is another one")
            problems += [f"{path} stays" for path in folder.rglob(".*") if path.is_file() and "cell" not in str(path)]
            for problem in problems:
                figures["wrong"] += 1
                print(f"{name}, event {event}: {problem}", flush=True)  # noqa: T201
    return figures


def _must(ended: tuple[int, Any]) -> Any:
    code, answer = ended
    if code:
        raise RuntimeError(f"a process ended with {code}: {answer}")
    return answer


def main(args: list[str] | None = None) -> int:
    """Sweep the jobs and print the figures; the exit code is 1 if anything was wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("jobs", nargs="*", choices=[[], *JOBS], help="all by default")
    parser.add_argument("--every", type=int, default=1, help="kill at every so many file events")
    parser.add_argument("--first", type=int, default=1, help="of these events; --every 7 --first 3 is a seventh of all")
    parser.add_argument("--elsewhere", type=Path, default=Path("/dev/shm"), help="a folder on another file system")
    parser.add_argument("--minutes", type=float, default=60, help="at most, for each job and place")
    options = parser.parse_args(args)
    wrong = 0
    for name in options.jobs or JOBS:
        for place, temporary in (("beside", None), ("elsewhere", options.elsewhere)):
            figures = sweep(name, options.every, temporary, options.minutes, options.first)
            wrong += figures["wrong"] + figures["failed"]
            told = ", ".join(f"{count} {what}" for what, count in figures.items())
            print(f"{name}, TMPDIR {place}: {told}, {figures['wrong']} wrong in all", flush=True)  # noqa: T201
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
