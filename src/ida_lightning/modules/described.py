"""What a run says of its network in checkpoints and exported files."""

from __future__ import annotations

import hashlib
import math
from importlib.metadata import version
from typing import Any

import lightning as L
import yaml  # type: ignore[import-untyped]

from ida_lightning.data_facts import INTERPOLATION, facts_of
from ida_lightning.models import Description
from ida_lightning.modules.asking import AsksTeacher

_PACKAGES = ("ida-lightning", "lightning", "timm", "torch")


def with_run(description: Description, trainer: L.Trainer | None, config: str | None) -> Description:
    """Return a description with what is known of the run: its images, classes, recipe, metrics and versions.

    Args:
        description: of the network.
        trainer: of the run; None if there is none.
        config: the text of its saved ``config.yaml``; None for a run from Python.
    """
    facts = facts_of(trainer)
    recipe: dict[str, Any] = {"config_sha256": None if config is None else hashlib.sha256(config.encode()).hexdigest()}
    if trainer is not None:
        recipe |= {
            "methods": methods_of(trainer, config),
            "epochs": trainer.current_epoch,
            "steps": trainer.global_step,
        }
    seen = facts.image_input
    return description._replace(
        class_names=facts.class_names,
        image_input=seen,
        in_channels=description.in_channels or (len(seen.mean) if seen is not None else None),
        interpolation=None if seen is None else INTERPOLATION,
        crop=facts.crop,
        vocabulary=None if facts.vocabulary is None else facts.vocabulary.fingerprint,
        recipe=recipe,
        metrics=_metrics(trainer),
        versions={name: version(name) for name in _PACKAGES},
    )


def methods_of(trainer: L.Trainer, config: str | None) -> list[dict[str, Any]]:
    """Return the methods of a run in their order: their classes and, where a config says so, their arguments.

    Args:
        trainer: of the run.
        config: the text of its ``config.yaml``; None for a run from Python.
    """
    # Those of the package's callbacks that register with the module only watch.
    methods = [
        type(callback)
        for callback in trainer.callbacks  # type: ignore[attr-defined]
        if isinstance(callback, AsksTeacher) and not type(callback).__module__.startswith("ida_lightning.callbacks")
    ]
    written = [] if config is None else (yaml.safe_load(config).get("trainer") or {}).get("callbacks") or []
    rest = [entry for entry in (written if isinstance(written, list) else [written]) if isinstance(entry, dict)]
    found = []
    for kind in methods:
        entry = next((entry for entry in rest if entry["class_path"].rpartition(".")[2] == kind.__name__), None)
        if entry is not None:
            rest.remove(entry)
        found.append({"class": kind.__name__, "args": None if entry is None else entry.get("init_args") or {}})
    return found


def _metrics(trainer: L.Trainer | None) -> dict[str, float]:
    """Return what the last validation has logged."""
    logged = {} if trainer is None else trainer.callback_metrics
    values = {key: float(value) for key, value in logged.items() if "/val_" in key}
    return {key: value for key, value in values.items() if math.isfinite(value)}
