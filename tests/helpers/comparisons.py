"""A comparison on tiny data: its set-up, its file, and readers of what it leaves."""

import csv
from pathlib import Path

import lightning as L
import torch
import yaml

DATA = {
    "class_path": "tests.helpers.data.BlobsDataModule",
    "init_args": {"batch_size": 16, "mixing": {"kind": "cutmix"}},
}
TRAINER = {"max_epochs": 2, "accelerator": "cpu", "log_every_n_steps": 1, "enable_progress_bar": False}
ISOTONIC = {"class_path": "IsotonicSoftLabelCallback", "init_args": {"strength": 0.0}}
CONTROL = {"class_path": "SmoothingControlCallback", "init_args": {"space": "logits"}}
STUDENT = {"model": {"class_path": "ClassificationModule", "init_args": {"model": "test_resnet"}}}
METHODS = {
    "student": {**STUDENT, "trainer": {"callbacks": []}, "data": {"init_args": {"mixing": {"kind": "none"}}}},
    "kd_aug": {},
    "control": {"trainer": {"callbacks": [CONTROL]}},
}


class Broken(L.Callback):
    """Ends a run by an error."""

    def on_train_end(self, trainer, pl_module):
        raise RuntimeError("broken")


def set_up():
    """Write the fit configs of a teacher and of its students."""
    torch.set_num_threads(1)
    export = {"class_path": "ExportCallback", "init_args": {"path": "teacher.safetensors"}}
    saving = [
        {"class_path": "ModelCheckpoint", "init_args": {"dirpath": "elsewhere"}},
        {"class_path": "ExportCallback", "init_args": {"path": "elsewhere/student.safetensors"}},
    ]
    teaching = {
        "class_path": "DistillationModule",
        "init_args": {"teacher": "test_resnet", "teacher_checkpoint": "teacher.safetensors", "student": "test_resnet"},
    }
    quiet = {**TRAINER, "enable_model_summary": False}
    teacher = {"trainer": {**quiet, "callbacks": [export], "max_epochs": 1}, **STUDENT, "data": DATA}
    fit = {"trainer": {**TRAINER, "callbacks": [*saving, ISOTONIC]}, "model": teaching, "data": DATA}
    Path("teacher.yaml").write_text(yaml.safe_dump(teacher))
    Path("fit.yaml").write_text(yaml.safe_dump(fit))


def write_comparison(**changes):
    """Write a comparison on the set-up; returns the command line that runs it."""
    content = {
        "fit": "fit.yaml",
        "teacher": "teacher.yaml",
        "seeds": [0, 1],
        "methods": METHODS,
        "reference": "kd_aug",
        "output": "out",
        **changes,
    }
    Path("compare.yaml").write_text(yaml.safe_dump({k: v for k, v in content.items() if v is not ...}, sort_keys=False))
    return ["compare", "--config", "compare.yaml"]


def cell(method, seed):
    return Path(f"out/cells/{method}/seed_{seed}/cell.json")


def rows_of(name):
    with Path(f"out/{name}.csv").open() as file:
        return list(csv.DictReader(file))
