"""Kill fits, an export, an audit and a comparison with SIGKILL at their file events, and look at what is left.

``python -m tools.kill_sweep --every 5`` from the root of the repository. A job runs in a forked process, in which an
audit hook counts what touches files under the job's folder or under ``TMPDIR`` and kills the process at the n-th event.
Then nothing there may be damaged or false, and going on must give what the job gives when nobody kills it: bit-equal
weights, equal figures. ``TMPDIR`` is once on the file system of the outputs and once on another one.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
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
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml  # type: ignore[import-untyped]
from safetensors.torch import load_file, save_file

from ida_lightning.__main__ import main as command
from ida_lightning.models import build_model

_EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink"}
_DATA = {"class_path": "tests.helpers.data.BlobsDataModule", "init_args": {"batch_size": 16}}
_TRAINER = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False, "log_every_n_steps": 2}
_STUDENT = {"class_path": "ClassificationModule", "init_args": {"model": "test_resnet"}}
_KEEP = {"class_path": "CheckpointCallback", "init_args": {"dirpath": "kept", "monitor": "model/val_acc"}}
_KEEP_STUDENT = {"class_path": "CheckpointCallback", "init_args": {"dirpath": "kept", "monitor": "student/val_acc"}}
_EXPORT = {"class_path": "ExportCallback", "init_args": {"path": "network.safetensors"}}
_ISOTONIC = {"class_path": "IsotonicSoftLabelCallback"}


class Job(NamedTuple):
    """A command and what must hold of what it leaves.

    Attributes:
        prepare: makes its inputs and older outputs in the present folder.
        run: the command; called again, it goes on with what is there.
        look: returns what is wrong with what lies there, at any time.
        result: returns what is compared with the run that nobody killed.
    """

    prepare: Callable[[], None]
    run: Callable[[], None]
    look: Callable[[], list[str]]
    result: Callable[[], Any]


def _write(name: str, **content: Any) -> None:
    Path(name).write_text(yaml.safe_dump(content))


def _tensors(path: str | Path) -> dict[str, list[float]]:
    return {name: tensor.double().flatten().tolist() for name, tensor in load_file(path).items()}


# --- a fit, which is resumed; and an export over an older one


def _prepare_fit() -> None:
    trainer = {**_TRAINER, "max_epochs": 3, "callbacks": [_KEEP, _EXPORT]}
    _write("fit.yaml", trainer=trainer, model=_STUDENT, data=_DATA)


def _run_fit() -> None:
    last = Path("kept/last.ckpt")
    command(["fit", "--config", "fit.yaml", *(["--ckpt_path", str(last)] if last.is_file() else [])])


def _look_at_fit() -> list[str]:
    wrong = []
    for path in Path("kept").glob("*.ckpt"):
        try:
            torch.load(path, weights_only=True)
        except Exception as error:  # noqa: BLE001 (whatever it is, the checkpoint is damaged)
            wrong.append(f"{path} is damaged: {error}")
    if Path("network.safetensors").is_file():
        last = torch.load("kept/last.ckpt", weights_only=True)
        if last["global_step"] != 12:
            wrong.append("a network is exported that is not finished")
    return wrong


def _result_of_fit() -> Any:
    state = torch.load("kept/last.ckpt", weights_only=True)
    plain = {name: tensor.double().flatten().tolist() for name, tensor in state["state_dict"].items()}
    return state["global_step"], plain, _tensors("network.safetensors")


def _prepare_export() -> None:
    trainer = {**_TRAINER, "max_epochs": 1, "callbacks": [_EXPORT], "enable_checkpointing": False, "logger": False}
    _write("fit.yaml", trainer=trainer, model=_STUDENT, data=_DATA)
    save_file({"older": torch.zeros(1)}, "network.safetensors")


def _run_export() -> None:
    command(["fit", "--config", "fit.yaml"])


def _look_at_export() -> list[str]:
    tensors = load_file("network.safetensors")
    return [] if "older" in tensors or len(tensors) > 20 else ["the export is neither the older nor the new one"]


# --- an audit over an older one


def _prepare_audit() -> None:
    trainer = {**_TRAINER, "callbacks": [_ISOTONIC]}
    teacher = {"class_path": "tests.helpers.colours.ConfusedTeacher"}
    model = {"class_path": "DistillationModule", "init_args": {"teacher": teacher, "student": "test_resnet"}}
    data = {"class_path": "tests.helpers.colours.ColoursDataModule", "init_args": {"batch_size": 16}}
    _write("fit.yaml", trainer=trainer, model=model, data=data)
    command(["audit", "--config", "fit.yaml", "--batches=1"])


def _run_audit() -> None:
    command(["audit", "--config", "fit.yaml", "--batches=2"])


def _look_at_audit() -> list[str]:
    return _look_at_set("outputs/audit", ["audit.json", "audit.csv", "audit.png", "audit.html"])


def _look_at_set(folder: str, names: list[str]) -> list[str]:
    """Find in each file of a set the mark of the run that it is of."""
    marks: set[bytes] = set()
    for name in names:
        path = Path(folder, name)
        if not path.is_file():
            continue
        content = path.read_bytes()
        if name.endswith(".json"):
            marks.add(json.loads(content)["run"].encode())
        elif name.endswith(".csv"):
            marks |= {row["run"].encode() for row in csv.DictReader(content.decode().splitlines())}
        else:
            if name.endswith(".png") and not content.endswith(b"IEND\xaeB`\x82"):
                return [f"{path} is damaged"]
            marks.add(content.replace(b"Run ", b"run ").partition(b"run ")[2][:12])
    return [f"files of {len(marks)} runs are side by side"] if len(marks) > 1 else []


def _result_of_audit() -> Any:
    content = json.loads(Path("outputs/audit/audit.json").read_text())
    names = sorted(path.name for path in Path("outputs/audit").iterdir())
    return names, content["run"], content["measurements"]


# --- a comparison


def _prepare_compare() -> None:
    torch.manual_seed(0)
    save_file(build_model("test_resnet", 4, 1).state_dict(), "teacher.safetensors")
    networks = {"teacher": "test_resnet", "teacher_checkpoint": "teacher.safetensors", "student": "test_resnet"}
    model = {"class_path": "DistillationModule", "init_args": networks}
    _write("fit.yaml", trainer={**_TRAINER, "max_epochs": 1}, model=model, data=_DATA)
    methods = {"kd": {}, "kd_i": {"trainer": {"callbacks": [_ISOTONIC]}}}
    _write("compare.yaml", fit="fit.yaml", seeds=[0], methods=methods, reference="kd", output="out", threads=1)


def _run_compare() -> None:
    command(["compare", "--config", "compare.yaml"])


def _look_at_compare() -> list[str]:
    wrong = _look_at_set("out", ["summary.md", "summary.csv", "results.csv", "differences.png"])
    for path in Path("out/cells").rglob("cell.json"):
        if not {"last", "best", "config_sha256"} <= json.loads(path.read_text()).keys():
            wrong.append(f"{path} is not whole")
    return wrong


def _result_of_compare() -> Any:
    cells = {str(path): json.loads(path.read_text()) for path in sorted(Path("out/cells").rglob("cell.json"))}
    names = sorted(path.name for path in Path("out").iterdir())
    return names, {name: [cell[key] for key in ("last", "best", "logged", "steps")] for name, cell in cells.items()}


# --- a fit that stores its teacher's answers


def _prepare_recording() -> None:
    (network := build_model("test_resnet", 4, 1)).eval()
    save_file(network.state_dict(), "teacher.safetensors")
    outputs = {"folder": "answers"}
    teacher = {"teacher": "test_resnet", "teacher_checkpoint": "teacher.safetensors", "teacher_outputs": outputs}
    model = {"class_path": "DistillationModule", "init_args": {**teacher, "student": "test_resnet"}}
    trainer = {**_TRAINER, "max_epochs": 3, "callbacks": [_KEEP_STUDENT, _EXPORT]}
    _write("fit.yaml", trainer=trainer, model=model, data=_DATA)


def _look_at_recording() -> list[str]:
    wrong = []
    for path in Path("answers").glob("epoch_*.npy"):
        if np.load(path, allow_pickle=False)["done"].tolist() != [1] * 4:
            wrong.append(f"{path} has its name and is not whole")
    return wrong


def _result_of_recording() -> Any:
    files = sorted(Path("answers").glob("epoch_*"))
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
    return [file.name for file in files], digest, _result_of_fit()


JOBS = {
    "record": Job(_prepare_recording, _run_fit, _look_at_recording, _result_of_recording),
    "fit": Job(_prepare_fit, _run_fit, _look_at_fit, _result_of_fit),
    "export": Job(_prepare_export, _run_export, _look_at_export, lambda: _tensors("network.safetensors")),
    "audit": Job(_prepare_audit, _run_audit, _look_at_audit, _result_of_audit),
    "compare": Job(_prepare_compare, _run_compare, _look_at_compare, _result_of_compare),
}


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
