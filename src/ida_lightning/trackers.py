"""What a run tells Weights & Biases beyond its metrics: columns, summaries, artifacts. No wandb is imported here."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, WandbLogger

from ida_lightning.remote import fetched

_OF_TRAINER = ("max_epochs", "precision", "accumulate_grad_batches", "gradient_clip_val")


def tracked_runs(loggers: Iterable[Logger]) -> list[Any]:
    """Return the runs of those loggers that are W&B's; a run that has not begun does so. For one process only."""
    return [logger.experiment for logger in loggers if isinstance(logger, WandbLogger)]


def describe_run(loggers: Iterable[Logger], config: Mapping[str, Any], owners: Iterable[str]) -> None:
    """Give a run columns to sort by and say which value of a validation metric is the run's.

    Args:
        loggers: of the run; others than W&B's are left alone.
        config: of the fit, as ``config.yaml`` has it.
        owners: the first parts of the names of validation metrics, such as ``student``.
    """
    for run in tracked_runs(loggers):
        run.config.update(config_columns(config), allow_val_change=True)
        for owner in owners:
            for metric, best in (("val_acc", "max"), ("val_nll", "min")):
                run.define_metric(f"{owner}/{metric}", step_metric="trainer/global_step", summary=f"{best},last")


def config_columns(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of callbacks and data, and what matters of the Trainer, by dotted names of one level.

    Example:
        >>> method = {"class_path": "ida_lightning.IsotonicSoftLabelCallback", "init_args": {"strength": 0.5}}
        >>> config_columns({"trainer": {"callbacks": [method, method], "max_epochs": 3}})
        {'IsotonicSoftLabelCallback.strength': 0.5, 'IsotonicSoftLabelCallback#2.strength': 0.5, 'trainer.max_epochs': 3}
    """  # noqa: E501
    trainer = config.get("trainer") or {}
    callbacks = trainer.get("callbacks") or []
    columns: dict[str, Any] = {}
    seen: Counter[str] = Counter()
    for entry in callbacks if isinstance(callbacks, list) else [callbacks]:
        name = str(entry["class_path"]).rpartition(".")[2]
        seen[name] += 1
        prefix = name if seen[name] == 1 else f"{name}#{seen[name]}"
        columns |= flat(entry.get("init_args") or {}, prefix)
    columns |= flat((config.get("data") or {}).get("init_args") or {}, "data")
    columns |= {key: config[key] for key in ("seed_everything",) if key in config}
    columns |= {f"trainer.{key}": trainer[key] for key in _OF_TRAINER if key in trainer}
    return {key: value for key, value in columns.items() if value != {}}


def flat(config: Any, prefix: str = "") -> dict[str, Any]:
    """Return the values of nested dictionaries and lists by dotted keys.

    Example:
        >>> flat({"a": {"b": [1, 2]}, "c": None})
        {'a.b.0': 1, 'a.b.1': 2, 'c': None}
    """
    if isinstance(config, list):
        config = {str(index): value for index, value in enumerate(config)}
    if not isinstance(config, dict) or not config:
        return {prefix: config}
    values: dict[str, Any] = {}
    for key, value in config.items():
        values |= flat(value, f"{prefix}.{key}" if prefix else str(key))
    return values


def run_folder(logger: Logger) -> str:
    """Return the folder of one run; loggers such as W&B have no ``log_dir`` and only know one for all runs."""
    return str(logger.log_dir or os.path.join(logger.save_dir or ".", str(logger.name), str(logger.version)))


def log_artifact(loggers: Iterable[Logger], path: Path | str) -> None:
    """Give a file to the runs as an artifact of the type ``model``, named after the file and the run."""
    path = fetched("path", path)
    for run in tracked_runs(loggers):
        name = re.sub(r"[^\w.-]", "-", f"{path.stem}-{run.id}")
        run.log_artifact(str(path), name=name, type="model")


@contextmanager
def finished_runs(loggers: Iterable[Logger]) -> Iterator[list[Any]]:
    """End the runs of W&B when the block is left, as failed if by an error; the next run in this process is another.

    Yields:
        A list that takes what the summary of every run shall have, as dictionaries.
    """
    kept, summaries, code = list(loggers), list[Any](), 1
    try:
        yield summaries
        code = 0
    finally:
        begun = [logger for logger in kept if isinstance(logger, WandbLogger) and logger.version is not None]
        for run in tracked_runs(begun):
            for summary in summaries:
                run.summary.update(summary)
            run.finish(exit_code=code)
