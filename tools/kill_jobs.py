"""What the kill sweep kills: fits, an export, an audit and a comparison, and what must hold of what they leave."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import yaml  # type: ignore[import-untyped]
from safetensors.torch import load_file, save_file

from ida_lightning.__main__ import main as command
from ida_lightning.models import build_model

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
