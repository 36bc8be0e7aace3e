"""Runs one cell: fits, evaluates the last and the best weights, writes the figures."""

from __future__ import annotations

import json
import math
import shutil
import traceback
from pathlib import Path
from time import perf_counter
from typing import Any

import lightning as L
import torch
import yaml  # type: ignore[import-untyped]
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.hooks import RemovableHandle

from ida_lightning.callbacks import CheckpointCallback, ExportCallback, StepTimer
from ida_lightning.cli import IDACLI, one_line
from ida_lightning.data_facts import DescribedData
from ida_lightning.errors import InputError
from ida_lightning.files import replacing
from ida_lightning.inputs import rows_in
from ida_lightning.locks import HeldError
from ida_lightning.methods import Method
from ida_lightning.models import fingerprint
from ida_lightning.modules import DistillationModule
from ida_lightning.modules.base import ClassifierBase
from ida_lightning.studies.compare.cells import Cell, digest_of
from ida_lightning.studies.compare.claims import claim
from ida_lightning.studies.compare.scores import evaluate
from ida_lightning.studies.console import print_line
from ida_lightning.trackers import finished_runs

# Written while a cell runs and not the figures of an earlier run, which stay until there are newer ones.
_KEPT = ("cell.json", "log.txt")


class PassCounter(L.Callback):
    """Counts the rows that a module was trained on, each as often as it passed through with a gradient."""

    def __init__(self) -> None:
        self.passes = 0
        self._handle: RemovableHandle | None = None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Count from here on."""
        self._handle = pl_module.register_forward_pre_hook(self._count)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Count no more."""
        if self._handle is not None:
            self._handle.remove()

    def _count(self, module: torch.nn.Module, args: Any) -> None:
        if module.training and torch.is_grad_enabled():
            self.passes += rows_in(args[0])


def attempt(cell: Cell) -> str | None:
    """Run a cell unless another process has just finished it; leave ``cell.json``, or else ``error.txt``.

    Returns:
        What went wrong, in one line.

    Raises:
        HeldError: if another process runs it.
    """
    lock = claim(cell)
    try:
        lock.acquire()
    except HeldError:
        raise
    except InputError as error:  # a place that cannot be written to
        return one_line(str(error))
    with lock:
        if lock.taken_from is not None:
            print_line(f"{cell.name}: taken over from {lock.taken_from}, which has ended")
        return None if cell.result() is not None else _attempt(cell)


def _attempt(cell: Cell) -> str | None:
    for path in cell.folder.iterdir() if cell.folder.is_dir() else ():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name not in _KEPT:
            path.unlink()
    try:
        run_cell(cell)
    except Exception as error:  # noqa: BLE001 (whatever it is, the other cells go on, and it is reported)
        reason = one_line(str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}")
        with replacing(cell.folder / "error.txt") as unfinished:
            unfinished.write_text(f"{traceback.format_exc()}\n{reason}\n")
        return reason
    return None


def run_cell(cell: Cell) -> None:
    """Fit one cell, evaluate it, and write ``cell.json``, whole or not at all."""
    config = cell.folder / "config.yaml"
    with replacing(config) as unfinished:
        unfinished.write_text(yaml.safe_dump(_watched(cell), sort_keys=False))
    start = perf_counter()
    cli = IDACLI(["fit", "--config", str(config)])
    with finished_runs(cli.trainer.loggers) as summaries:
        result = _run(cell, cli, start)
        summaries.append(_summary(result))
    if not cell.keep_weights:
        shutil.rmtree(cell.folder / "weights")
    with replacing(cell.folder / "cell.json") as unfinished:
        unfinished.write_text(json.dumps(result, indent=1) + "\n")


def _run(cell: Cell, cli: IDACLI, start: float) -> dict[str, Any]:
    """Fit and evaluate; returns the figures."""
    trainer, module, data = cli.trainer, cli.model, cli.datamodule
    if not isinstance(module, ClassifierBase):
        kind = type(module).__name__
        raise InputError(f"model: expected a module of one network, such as DistillationModule, got {kind}")
    if isinstance(module, DistillationModule) and cell.answers is not None and not _can_share(trainer, data):
        module.answers.options = None
    # In case that no DistillationModule says what it has loaded.
    teacher_file = digest_of(cell.teacher)
    initial_weights = fingerprint(module.network)
    timer, counter = StepTimer(), PassCounter()
    checkpoint = CheckpointCallback(cell.folder / "weights", f"{module.owner}/val_acc", save_weights_only=True)
    # Weights are kept in the cell's folder and nowhere else.
    others = [c for c in trainer.callbacks if not isinstance(c, (ModelCheckpoint, ExportCallback))]
    trainer.callbacks = [*others, timer, counter, checkpoint]
    cli.run()
    seconds = perf_counter() - start
    if trainer.interrupted:
        raise KeyboardInterrupt
    logged = {key: float(value) for key, value in trainer.callback_metrics.items() if key.startswith("train/")}
    steps = trainer.global_step
    device = torch.cuda.get_device_name() if trainer.strategy.root_device.type == "cuda" else "cpu"
    # Averaging callbacks would exchange the weights before every evaluation, and loggers take these for epochs.
    trainer.loggers = []
    last = evaluate(trainer, module, data)
    if not checkpoint.best_model_path:
        raise InputError(
            "trainer: expected a validation while fitting, which chooses the best epoch, got none; look at max_epochs, "
            "check_val_every_n_epoch and limit_val_batches"
        )
    saved = torch.load(checkpoint.best_model_path, map_location="cpu", weights_only=True)
    module.load_state_dict(saved["state_dict"])
    best = {"epoch": saved["epoch"], **evaluate(trainer, module, data)}
    per_batch = timer.seconds_per_batch
    return {
        "method": cell.method,
        "seed": cell.seed,
        "last": last,
        "best": best,
        "logged": {key: value for key, value in logged.items() if math.isfinite(value)},
        "steps": steps,
        "student_passes": counter.passes,
        "seconds_per_step": None if per_batch is None else per_batch * trainer.accumulate_grad_batches,
        "seconds": seconds,
        "device": device,
        "versions": {"torch": torch.__version__, "lightning": L.__version__},
        "initial_weights": initial_weights,
        "teacher_sha256": _teacher_file(module, teacher_file),
        "teacher_fingerprint": module.teacher.fingerprint if isinstance(module, DistillationModule) else None,
        **_who_answered(module),
        "config_sha256": cell.digest,
        "config": cell.config,
    }


def _summary(result: dict[str, Any]) -> dict[str, Any]:
    """Return the figures of a cell as a tracker's summary: those of the last and of the best weights, by name."""
    figures = {f"{weights}/{key}": value for weights in ("last", "best") for key, value in result[weights].items()}
    return {key: value for key, value in figures.items() if value is not None}


def _teacher_file(module: ClassifierBase, before: str | None) -> str | None:
    """Return the hash of the file that the teacher was loaded from, as it was then."""
    if isinstance(module, DistillationModule) and module.teacher.file_sha256 is not None:
        return module.teacher.file_sha256
    return before


def _can_share(trainer: L.Trainer, data: L.LightningDataModule) -> bool:
    """Say whether pictures are the same in every run, and no method needs the teacher itself."""
    needs = [callback for callback in trainer.callbacks if isinstance(callback, Method) and callback.needs_teacher]  # type: ignore[attr-defined]
    return isinstance(data, DescribedData) and not needs


def _who_answered(module: ClassifierBase) -> dict[str, Any]:
    """Return how many training batches the teacher was asked about, how many were replayed, and a word for it."""
    if not isinstance(module, DistillationModule):
        return {"answers": None, "live_batches": 0, "stored_batches": 0}
    live, stored = module.answers.live, module.answers.replayed
    word = "live" if module.answers.options is None else "recorded" if live else "stored"
    return {"answers": word, "live_batches": live, "stored_batches": stored}


def _tracked(cell: Cell, logger: dict[str, Any]) -> dict[str, Any]:
    """Return W&B's logger with a run of its own for the cell, in a group of the comparison unless another is given."""
    parts = cell.folder.parts
    comparison = Path(*parts[: parts.index("cells")]) if "cells" in parts else cell.folder.parent
    names = {"group": str(comparison), "job_type": cell.label or cell.method, **(logger.get("dict_kwargs") or {})}
    own = {"name": f"{cell.name}", "save_dir": str(cell.folder), "version": None, "id": None}
    return {**logger, "init_args": {**logger["init_args"], **own}, "dict_kwargs": names}


def _watched(cell: Cell) -> dict[str, Any]:
    """Return the cell's config as it is run: quiet, with logs in the cell's folder unless a tracker has them."""
    trainer = dict(cell.config["trainer"])
    trainer |= {"enable_progress_bar": False, "enable_model_summary": False, "default_root_dir": str(cell.folder)}
    logger = trainer["logger"]
    if isinstance(logger, dict) and logger["class_path"].endswith(".CSVLogger"):
        folder = {"save_dir": str(cell.folder), "name": "", "version": "logs"}
        trainer["logger"] = {**logger, "init_args": {**logger["init_args"], **folder}}
    elif isinstance(logger, dict) and logger["class_path"].endswith(".WandbLogger"):
        trainer["logger"] = _tracked(cell, logger)
    config = {**cell.config, "trainer": trainer}
    model, outputs = config["model"], config["model"]["init_args"].get("teacher_outputs")
    if cell.answers is not None:
        outputs = {"folder": cell.answers}
    elif outputs is not None:  # every seed has other pictures
        outputs = {**outputs, "folder": str(Path(outputs["folder"], f"seed_{cell.seed}"))}
    if outputs is not None:
        config["model"] = {**model, "init_args": {**model["init_args"], "teacher_outputs": outputs}}
    return config
