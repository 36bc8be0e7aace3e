"""A run that was killed and resumed is the run that was never killed: real processes, real signals."""

import contextlib
import csv
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.helpers import fault_run

ROOT = Path(__file__).parents[1]
TIMEOUT = 120  # seconds that a process may take
STEPS = 12  # four an epoch


@pytest.fixture(scope="module")
def server():
    """Imports everything once, in a fresh interpreter, and is copied for every process that a test starts."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.helpers.fault_run"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT), prepend=os.pathsep)
        first = context.Process(target=int)  # starts the server
        first.start()
        first.join(TIMEOUT)
    return context


class Runs:
    """Starts the processes of a run, tells when they wait, and leaves none behind."""

    def __init__(self, context, folder):
        self.context = context
        self.folder = folder
        self.folder.mkdir()
        self.attempt = -1
        self.processes = []

    def start(self, processes=1, environment=(), **options):
        """One process for each rank, as torchrun and SLURM start them."""
        self.attempt += 1
        (self.folder / "steps0").unlink(missing_ok=True)
        (self.folder / "steps1").unlink(missing_ok=True)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        options = {"folder": str(self.folder), "attempt": self.attempt, "processes": processes, **options}
        if processes > 1:
            options["strategy"] = "ddp"
        self.processes = []
        for rank in range(processes):
            ranks = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "NODE_RANK": "0", "LOCAL_RANK": str(rank)}
            variables = {**(ranks if processes > 1 else {}), **dict(environment)}
            errors = str(self.folder / f"errors{self.attempt}_{rank}")
            self.processes.append(self.context.Process(target=fault_run.process, args=(options, variables, errors)))
            self.processes[-1].start()

    def complaints(self):
        return "\n".join(file.read_text()[-2000:] for file in sorted(self.folder.glob(f"errors{self.attempt}_*")))

    def until(self, there):
        """Wait until something is there."""
        end = time.monotonic() + TIMEOUT
        while not there():
            alive = all(process.is_alive() for process in self.processes)
            assert alive, f"a process ended before its time: {self.complaints()}"
            assert time.monotonic() < end, self.complaints()
            time.sleep(0.01)

    def reaches(self, step):
        """Wait until all processes wait in this step."""
        files = [self.folder / f"steps{rank}" for rank in range(len(self.processes))]
        self.until(lambda: all(file.is_file() and f"{step}\n" in file.read_text() for file in files))

    def send(self, signum):
        """End all processes; what they leave must be whole."""
        for process in self.processes:
            os.kill(process.pid, signum)
        codes = self.end()
        if signum == signal.SIGKILL:
            assert codes == [-signal.SIGKILL] * len(codes)
        for file in self.last.parent.glob("*.ckpt"):
            torch.load(file, weights_only=True)
        assert not self.student.exists(), "what is exported is finished"

    def end(self):
        for process in self.processes:
            process.join(TIMEOUT)
        return [process.exitcode for process in self.processes]

    def whole(self, **options):
        """A run to its end."""
        self.start(**options)
        assert self.end() == [0] * len(self.processes), self.complaints()
        return self

    @property
    def last(self):
        return self.folder / "checkpoints" / "last.ckpt"

    def step_of_last(self):
        return torch.load(self.last, weights_only=True)["global_step"]

    @property
    def student(self):
        return self.folder / "student.safetensors"

    def close(self):
        for process in self.processes:
            process.kill()
            process.join()


@pytest.fixture
def runs(server, tmp_path):
    started = []

    def new(name="run"):
        started.append(Runs(server, tmp_path / name))
        return started[-1]

    yield new
    for each in started:
        each.close()


@pytest.fixture(scope="module")
def straight(server, tmp_path_factory):
    """The run that nobody interrupts, once for each way of running."""
    known = {}

    def of(**options):
        key = json.dumps(options, sort_keys=True)
        if key not in known:
            known[key] = Runs(server, tmp_path_factory.mktemp("straight") / "run").whole(**options)
        return known[key]

    return of


def identical(ours, theirs):
    if isinstance(ours, torch.Tensor):
        return ours.dtype == theirs.dtype and torch.equal(ours, theirs)
    if isinstance(ours, dict):
        return ours.keys() == theirs.keys() and all(identical(ours[key], theirs[key]) for key in ours)
    if isinstance(ours, (list, tuple)):
        return len(ours) == len(theirs) and all(map(identical, ours, theirs))
    return ours == theirs


def logged(run, attempt):
    """What is in the table, number by number: ``(step, column)`` to text."""
    with (run.folder / "log" / f"version_{attempt}" / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {(int(row["step"]), name): text for row in rows for name, text in row.items() if text}


def check_same_run(resumed, straight, first):
    """Weights, buffers, average, optimiser, schedule and every number in the table from step ``first`` on."""
    ours, theirs = (torch.load(run.last, weights_only=True) for run in (resumed, straight))
    assert ours["global_step"] == theirs["global_step"] == STEPS
    for part in ("state_dict", "optimizer_states", "lr_schedulers", "current_model_state", "averaging_state"):
        assert identical(ours.get(part), theirs.get(part)), part
    assert identical(load_file(resumed.student), load_file(straight.student))

    def compared(run):
        return {key: text for key, text in logged(run, run.attempt).items() if key[0] >= first}

    before = logged(straight, 0)
    again = {(first, name): before[0, name] for name in ("teacher/val_acc", "teacher/val_nll")}
    expected = compared(straight)
    assert len(expected) >= 3 * (STEPS - first)
    assert compared(resumed) == {**expected, **again}, "apart from the teacher, reported again"


MID_EPOCH = {
    # signal, the step it comes in, the step of the last checkpoint, options
    "terminated": (signal.SIGTERM, 6, 6, {"every": 2}),
    "terminated between checkpoints": (signal.SIGTERM, 7, 6, {"every": 2}),
    "terminated, saved on the way out": (signal.SIGTERM, 7, 7, {"every": 2, "rescue": True}),
    "killed between checkpoints": (signal.SIGKILL, 7, 6, {"every": 2}),
    "killed in the first epoch": (signal.SIGKILL, 4, 3, {"every": 3}),
    "killed with averaged weights": (signal.SIGKILL, 7, 6, {"every": 2, "ema": True}),
    "killed with loader processes": (signal.SIGKILL, 7, 6, {"every": 2, "workers": 2}),
}
BOUNDARY = {
    "killed after an epoch's checkpoint": (signal.SIGKILL, 6, 4, {}),
    "terminated in the last step": (signal.SIGTERM, 8, 8, {"every": 2}),
    "killed after the last step's checkpoint": (signal.SIGKILL, 9, 8, {"every": 2}),
    "killed with averaged weights": (signal.SIGKILL, 6, 4, {"ema": True}),
}


@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("case", [*MID_EPOCH.values(), *BOUNDARY.values()], ids=[*MID_EPOCH, *BOUNDARY])
def test_a_killed_run_goes_on_as_if_nothing_had_happened(runs, straight, case, processes):
    signum, hold, saved, options = case
    options = {"processes": processes, **options}
    run, uninterrupted = runs(), straight(**options)
    run.start(hold=hold, **options)
    run.reaches(hold)
    run.send(signum)
    assert torch.load(run.last, weights_only=True)["global_step"] == saved
    assert logged(run, 0).items() <= logged(uninterrupted, 0).items(), "up to the signal it was the same run too"
    run.whole(resume=str(run.last), **options)
    check_same_run(run, uninterrupted, saved)


def test_killed_twice(runs, straight):
    run = runs()
    resume = None
    for hold in (3, 7):
        run.start(hold=hold, every=2, resume=resume)
        run.reaches(hold)
        run.send(signal.SIGKILL)
        resume = str(run.last)
    run.whole(resume=resume, every=2)
    check_same_run(run, straight(every=2), 6)


@pytest.mark.parametrize(("name", "saved"), [("best", 4), ("last", 2)])
def test_killed_while_a_checkpoint_is_written(runs, straight, name, saved):
    run = runs()
    run.start(every=2, half=name)
    run.until((run.folder / "half").exists)
    run.send(signal.SIGKILL)
    assert torch.load(run.last, weights_only=True)["global_step"] == saved, "whole, if not the newest"
    run.whole(resume=str(run.last), every=2)
    check_same_run(run, straight(every=2), saved)


def script(folder, **options):
    """The run in a fresh interpreter, which shares nothing with this one, and in a group of its own."""
    command = [sys.executable, "-m", "tests.helpers.fault_run", json.dumps({"folder": str(folder), **options})]
    with (folder / f"errors{options['attempt']}").open("w") as file:
        return subprocess.Popen(command, cwd=ROOT, stdout=file, stderr=file, start_new_session=True)


@pytest.mark.slow
def test_resumed_by_a_fresh_interpreter(runs, straight):
    run = runs()
    run.start(hold=7, every=2)
    run.reaches(7)
    run.send(signal.SIGKILL)
    run.attempt = 1
    assert script(run.folder, attempt=1, every=2, resume=str(run.last)).wait(TIMEOUT) == 0, run.complaints()
    check_same_run(run, straight(every=2), 6)


@pytest.mark.slow
def test_two_processes_of_lightning_end_with_their_group(runs, straight):
    run = runs()
    options = {"every": 2, "processes": 2, "strategy": "ddp"}
    first = script(run.folder, attempt=0, hold=7, **options)
    try:
        files = [run.folder / f"steps{rank}" for rank in (0, 1)]
        while not all(file.is_file() and "7\n" in file.read_text() for file in files):
            assert first.poll() is None, (run.folder / "errors0").read_text()
            time.sleep(0.01)
        os.killpg(first.pid, signal.SIGTERM)
        first.wait(TIMEOUT)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(first.pid, signal.SIGKILL)
        first.wait()
    assert not run.student.exists()
    run.attempt = 1
    assert script(run.folder, attempt=1, resume=str(run.last), **options).wait(TIMEOUT) == 0, run.complaints()
    check_same_run(run, straight(every=2, processes=2), 6)
