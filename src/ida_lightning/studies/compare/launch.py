"""Starts a comparison's processes on a cluster; they find their cells by themselves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from time import sleep
from typing import Any

from ida_lightning.errors import InputError
from ida_lightning.studies.compare.settings import Settings
from ida_lightning.studies.console import print_line

_POLL = 1.0  # seconds between looks at the scheduler


def run_in_jobs(work: Callable[[Sequence[str]], int], args: Sequence[str], settings: Settings) -> None:
    """Submit ``jobs`` jobs that each run the comparison by themselves, and wait until all have ended.

    Nothing is scheduled here: a job claims cells as any other process at the comparison does, so it does not matter
    how many of the jobs the cluster starts, when, and which of them it ends.

    Args:
        work: the command, from its arguments to its exit code.
        args: of the command line.
        settings: of the comparison.

    Raises:
        InputError: without submitit, and for parameters that it does not have.
    """
    try:
        import submitit
    except ModuleNotFoundError as error:
        raise InputError("launcher: expected the package submitit, pip install 'ida-lightning[cluster]'") from error
    parameters = {"name": "ida-lightning-compare", **settings.submitit}
    folder = Path(settings.output, "jobs")
    try:
        executor = submitit.AutoExecutor(folder=folder, cluster=parameters.pop("cluster", None))
        executor.update_parameters(**parameters)
    except (TypeError, ValueError, NameError, RuntimeError) as error:
        raise InputError(f"submitit: {error}") from error
    alone = [*args, "--launcher", "local", "--jobs", "1"]
    with executor.batch():
        jobs = [executor.submit(work, alone) for _ in range(settings.jobs)]
    print_line(f"{len(jobs)} jobs, logs in {folder}: {', '.join(job.job_id for job in jobs)}")
    try:
        while not all(job.done() for job in jobs):
            sleep(_POLL)
    except BaseException:  # the jobs end with who has submitted them, as other processes of a comparison do
        for job in jobs:
            job.cancel()
        raise
    for job in jobs:
        if (problem := _problem(job)) is not None:
            print_line(f"job {job.job_id}: {problem}; see {job.paths.stderr}")


def _problem(job: Any) -> str | None:
    """Say how a job ended that did not end well; what it left undone, the cells tell."""
    error = job.exception()
    if error is not None:
        return str([*str(error).strip().splitlines(), type(error).__name__][0])
    return None if job.result() == 0 else "it could not finish every cell"
