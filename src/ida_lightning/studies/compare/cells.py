"""The cells of a comparison: one resolved fit config for every method and seed, and what is known of each."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from ida_lightning.cli import read_fit_config
from ida_lightning.errors import InputError
from ida_lightning.files import digest_of_file, joint_digest
from ida_lightning.remote import is_address
from ida_lightning.studies.compare.settings import Settings
from ida_lightning.trackers import flat

Result = dict[str, Any]
TUNING = "tuning"
"""Stands for the method in cells that settings are chosen by, which several methods may share."""
# One run is one process on one device; how it is watched changes no result and is set by run.py.
ONE_DEVICE = {"trainer": {"devices": 1, "num_nodes": 1}}
_OTHER_COMMANDS = ("allow_untrained",)  # of evaluation
# Arguments that older results do not have, with what they were then.
_NEWER: dict[str, Any] = {"teacher_outputs": None, "lr_monitor": None, "hard_temperature": 1.0, "teacher_view": "mixed"}
_NEWER |= dict.fromkeys(("teacher_blend", "teacher_image_input", "teacher_classes"))
_NEWER |= {"layout": "auto", "teacher_strategy": "replicate", "allow_inexact_resume": False}
_NEWER["distillation"] = {"class_path": "ida_lightning.KL", "init_args": {}}
_NEWER_OF_CALLBACKS = {"artifact": False}
_WATCHING = ("logger", "enable_progress_bar", "enable_model_summary", "default_root_dir")


class Cell(NamedTuple):
    """One method with one seed.

    Attributes:
        method: its name.
        seed: of weights and draws.
        folder: where its config, logs and figures are.
        config: the whole fit config, every default included.
        digest: of the config, without what only concerns watching.
        teacher: the teacher's weight file, if there is one; those of several teachers.
        keep_weights: see :class:`Settings`.
        answers: the folder of the teacher's answers that this run shares with others; None asks the teacher.
        label: the method in messages, where that is more than its name.
    """

    method: str
    seed: int
    folder: Path
    config: dict[str, Any]
    digest: str
    teacher: str | tuple[str, ...] | None
    keep_weights: bool = False
    answers: str | None = None
    label: str = ""

    @property
    def name(self) -> str:
        """Method and seed, as they stand in messages."""
        return f"{self.label or self.method}, seed {self.seed}"

    @property
    def failed(self) -> bool:
        """Whether the last run ended by an error."""
        return (self.folder / "error.txt").is_file()

    def last_result(self) -> Result | None:
        """Read what the cell left when it last finished, with whatever config; None if there is nothing usable."""
        return self._read()[0]

    def _read(self) -> tuple[Result | None, str | None]:
        """Return the last result and None, or None and what is wrong with the file, if there is one."""
        path = self.folder / "cell.json"
        if not path.is_file():
            return None, None
        try:
            return check_result(json.loads(path.read_bytes(), parse_constant=_refuse), self.method, self.seed), None
        except (ValueError, RecursionError, OSError) as error:
            reason = "no JSON" if isinstance(error, (json.JSONDecodeError, UnicodeDecodeError)) else str(error)
            return None, f"{path} is damaged ({reason})"

    def change(self) -> str | None:
        """Say why the last result is none of this comparison; None if it is, or if there is none."""
        result, damage = self._read()
        if result is None:
            return damage
        if result["config_sha256"] != self.digest:
            before, now = flat(_decisive(result["config"])), flat(_decisive(self.config))
            key, *more = [key for key in {**before, **now} if before.get(key) != now.get(key)] or ["config"]
            others = f" and {len(more)} more" if more else ""
            return f"its config has changed: {key} was {before.get(key)!r}, is {now.get(key)!r}{others}"
        teacher = digest_of(self.teacher)
        if teacher is not None and result["teacher_sha256"] != teacher:
            return f"its config has changed: the teacher's weights {self.teacher} are others"
        return None

    def result(self) -> Result | None:
        """Return the cell's figures, if it is finished and they are of this comparison."""
        return self.last_result() if self.change() is None else None


def resolve(what: str, fit: str, *parts: dict[str, Any]) -> dict[str, Any]:
    """Read a whole fit config: ``fit``, and parts on top of it in their order, as with several ``--config``.

    Args:
        what: the argument, for messages.
        fit: a file.
        parts: of fit configs. Keys replace keys; a list replaces a list, and one named ``callbacks+`` goes behind it.

    Raises:
        InputError: for keys and values that ``fit`` would refuse.
    """
    configs = [fit]
    for part in parts:
        # Where a list of classes takes the place of another, jsonargparse hands init_args on to a class that has kept
        # its place; from nothing there is nothing to hand on.
        trainer = part.get("trainer") or {}
        lists = [key for key, value in trainer.items() if key in ("callbacks", "logger", "plugins") and value]
        configs += [json.dumps(given) for given in ({"trainer": dict.fromkeys(lists)} if lists else {}, part) if given]
    try:
        return read_fit_config([argument for config in configs for argument in ("--config", config)])
    except InputError as error:
        raise InputError(f"{what}: {error}") from error


def resolve_methods(settings: Settings) -> dict[str, dict[str, Any]]:
    """Return the whole fit config of every method, on one device.

    Raises:
        InputError: for a method that ``fit`` would refuse.
    """
    fit = str(settings.fit)
    try:
        return {
            name: resolve(f"methods.{name}", fit, settings.common, settings.part(name), ONE_DEVICE)
            for name in settings.methods
        }
    except InputError:
        resolve("fit", fit)  # whose fault it is, if not the method's
        resolve("common", fit, settings.common)
        raise


def make_cell(config: dict[str, Any], seed: int, method: str, folder: Path, **more: Any) -> Cell:
    """Make the cell of a fit config with a seed; ``more`` are further fields of :class:`Cell`."""
    seeded = {**config, "seed_everything": int(seed)}  # YAML would not write jsonargparse's own kind of int
    digest = hashlib.sha256(json.dumps(_decisive(seeded), sort_keys=True).encode()).hexdigest()
    return Cell(method, int(seed), folder, seeded, digest, teacher_of(config), **more)


def make_cells(settings: Settings, configs: Mapping[str, dict[str, Any]], view: str = "") -> list[Cell]:
    """Make a cell of every config and seed, seed by seed, so that a comparison that was stopped has whole seeds.

    Args:
        settings: of the comparison.
        configs: fit configs by method.
        view: the folder within a method's that its seeds are in; none for that folder itself.
    """
    cells = []
    for seed, (name, config) in product(settings.seeds, configs.items()):
        folder = Path(settings.output, "cells", name, view, f"seed_{seed}")
        label = f"{name} ({view.replace('_', ' ')})" if view else ""
        cells.append(make_cell(config, seed, name, folder, keep_weights=settings.keep_weights, label=label))
    return cells


def teacher_of(config: Mapping[str, Any]) -> str | tuple[str, ...] | None:
    """Return the teacher's weight file in a fit config, if there is one, or those of several teachers."""
    arguments = config["model"]["init_args"]
    if isinstance(several := arguments.get("teacher"), list):
        entries = [entry.get("checkpoint") if isinstance(entry, Mapping) else None for entry in several]
        return tuple(str(path or "") for path in entries)
    path: str | None = arguments.get("teacher_checkpoint")
    return path


def exported_by(fit: str) -> str:
    """Return the weight file that a fit config exports.

    Raises:
        InputError: if it leaves none.
    """
    for callback in resolve("teacher", fit)["trainer"]["callbacks"] or []:
        if callback["class_path"].endswith(".ExportCallback"):
            return str(callback["init_args"]["path"])
    raise InputError(f"teacher: expected a fit config with an ExportCallback, got none in {fit}")


def check_result(content: Any, method: str, seed: int) -> Result:
    """Return what a ``cell.json`` holds, which must be the figures of this method and seed.

    Raises:
        ValueError: saying what is wrong.
    """
    if not isinstance(content, dict):
        raise ValueError("no mapping")
    texts = {"method": str, "seed": int, "config_sha256": str, "config": dict, "logged": dict, "device": str}
    for key, kind in {**texts, "last": dict, "best": dict, "steps": int, "seconds": (int, float)}.items():
        if not isinstance(content.get(key), kind):  # type: ignore[arg-type]
            raise ValueError(f"no {key}")
    if (content["method"], content["seed"]) != (method, seed):
        raise ValueError(f"of {content['method']}, seed {content['seed']}")
    if not isinstance(content["config"].get("trainer"), dict):
        raise ValueError("no config.trainer")
    for key in ("seconds_per_step", "initial_weights", "teacher_sha256"):
        if key not in content:
            raise ValueError(f"no {key}")
    for weights, key in product(("last", "best"), _FIGURES):
        value = content[weights].get(key, "missing")
        if value is None and key in _CAN_BE_MISSING:
            continue
        most = 1 if key.endswith(_SHARES) else float("inf")
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= most:
            raise ValueError(f"{weights}.{key} is {value!r}")
    return content


_CAN_BE_MISSING = ("test_nll_scaled", "test_ece_scaled", "temperature", "agreement", "teacher_kl")
_SHARES = ("_acc", "_ece", "_ece_scaled", "agreement")
_FIGURES = (*(f"{split}_{name}" for split in ("val", "test") for name in ("acc", "nll", "ece")), *_CAN_BE_MISSING)


def digest_of(path: str | tuple[str, ...] | None) -> str | None:
    """Return the SHA-256 of a file, or of several, which every cell of a comparison asks for; None if there is none."""
    if isinstance(path, tuple):
        return joint_digest(map(digest_of, path))
    if path and is_address(path):
        return digest_of_file(path)
    if not path or not Path(path).is_file():
        return None
    state = Path(path).stat()
    return _digest_of_version(path, state.st_ino, state.st_size, state.st_mtime_ns)


@cache
def _digest_of_version(path: str, *version: int) -> str | None:
    return digest_of_file(path)


def _refuse(constant: str) -> float:
    raise ValueError(f"it holds {constant}")


def _decisive(config: dict[str, Any]) -> dict[str, Any]:
    """Return the keys of a fit config that decide about its results."""
    rest = {key: value for key, value in config.items() if key not in _OTHER_COMMANDS}
    model = config["model"]
    arguments = {key: value for key, value in model.get("init_args", {}).items() if _NEWER.get(key, _NEWER) != value}
    if isinstance(arguments.get("teacher"), list):
        arguments["teacher"] = [_without_strategy(entry) for entry in arguments["teacher"]]
    rest["model"] = {**model, "init_args": arguments}
    trainer = {key: value for key, value in config["trainer"].items() if key not in _WATCHING}
    if isinstance(trainer.get("callbacks"), list):
        trainer["callbacks"] = [_without_newer(entry) for entry in trainer["callbacks"]]
    return {**rest, "trainer": trainer}


def _without_strategy(entry: Any) -> Any:
    """Return one of several teachers of a config without what older results do not have."""
    is_newer = isinstance(entry, dict) and entry.get("strategy") == "replicate"
    return {key: value for key, value in entry.items() if key != "strategy"} if is_newer else entry


def _without_newer(entry: Any) -> Any:
    """Return a callback of a config without arguments that older results do not have."""
    arguments = entry.get("init_args") if isinstance(entry, dict) else None
    if not isinstance(arguments, dict):
        return entry
    kept = {key: value for key, value in arguments.items() if _NEWER_OF_CALLBACKS.get(key, _NEWER) != value}
    return {**entry, "init_args": kept}
