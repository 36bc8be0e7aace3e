"""Gives every method the same budget of settings, and chooses one of them on validation images."""

from __future__ import annotations

import copy
import difflib
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from itertools import product
from math import prod
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from ida_lightning.cli import IDACLI, read_fit_config
from ida_lightning.errors import InputError
from ida_lightning.studies.compare.cells import TUNING, Cell, make_cell
from ida_lightning.studies.compare.settings import Settings
from ida_lightning.trackers import flat

Config = dict[str, Any]
Place = tuple[str | int, ...]
"""Keys and positions that lead to a value in a fit config."""


class Trial(NamedTuple):
    """One setting of a method.

    Attributes:
        method: its name.
        setting: value by key.
        config: the fit config with these values.
        cells: one for every tuning seed; methods whose configs coincide have the same.
    """

    method: str
    setting: dict[str, Any]
    config: Config
    cells: list[Cell]


class Choice(NamedTuple):
    """The best of a method's trials.

    Attributes:
        trial: the one that was chosen.
        accuracy: its mean validation accuracy over the tuning seeds, of the last epoch.
        tried: how many settings were tried.
        grid: how many there are.
        failed: how many of those that were tried failed with a seed; these cannot be chosen.
        edges: keys whose chosen number is the smallest or the largest of those that were offered.
    """

    trial: Trial
    accuracy: float
    tried: int
    grid: int
    failed: int
    edges: list[str]


def in_words(setting: Mapping[str, Any]) -> str:
    """Write a setting with the last parts of its keys, if they differ.

    Example:
        >>> in_words({"model.init_args.soft_weight": 2.0, "TruthBlendCallback.share": 0.3})
        'soft_weight 2.0, share 0.3'
    """
    short = [key.rpartition(".")[2] for key in setting]
    names = short if len(set(short)) == len(short) else list(setting)
    return ", ".join(f"{name} {value}" for name, value in zip(names, setting.values(), strict=True))


def make_trials(settings: Settings, configs: Mapping[str, Config]) -> list[Trial]:
    """Make the trials of every method that has something to tune: its whole grid, or a budget drawn out of it.

    Methods with the same grid get the same draws.

    Args:
        settings: of the comparison.
        configs: the methods' fit configs.

    Raises:
        InputError: for keys that a method does not have or sets itself, values that ``fit`` would refuse, and grids of
            different sizes without a budget.
    """
    axes = {name: values for name in configs if (values := settings.axes(name))}
    sizes = {name: prod(map(len, values.values())) for name, values in axes.items()}
    if settings.budget is None and len(set(sizes.values())) > 1:
        grids = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise InputError(f"budget: expected a number of settings for every method, as grids differ ({grids}), got none")
    trials = []
    known: dict[tuple[str, str], Any] = {}
    cells: dict[str, Cell] = {}
    for name, values in axes.items():
        places = {key: _place(settings, configs[name], name, key) for key in values}
        checked = {
            key: [_checked(configs[name], key, places[key], value, known) for value in offered]
            for key, offered in values.items()
        }
        for setting in _drawn(checked, settings):
            config = copy.deepcopy(configs[name])
            for key, value in setting.items():
                _put(config, places[key], value)
            label = f"{name} ({in_words(setting)})"
            own = [_tuning_cell(settings, config, seed, label) for seed in settings.tune_seeds]
            trials.append(Trial(name, setting, config, [cells.setdefault(cell.digest, cell) for cell in own]))
    return trials


def cells_of(trials: Sequence[Trial]) -> list[Cell]:
    """List the cells of all trials, each once, seed by seed."""
    by_seed = (cell for cells in zip(*(trial.cells for trial in trials), strict=True) for cell in cells)
    return list({cell.digest: cell for cell in by_seed}.values())


def choose(trials: Sequence[Trial], settings: Settings) -> dict[str, Choice | None]:
    """Choose the trial of every method with the highest mean validation accuracy, of equal ones that of the lowest NLL.

    Both are of the last epoch. Test figures are not looked at.

    Returns:
        The choices by method; None where cells are missing or all have failed.
    """
    choices: dict[str, Choice | None] = {}
    for method in dict.fromkeys(trial.method for trial in trials):
        tried = [trial for trial in trials if trial.method == method]
        scores = {number: score for number, trial in enumerate(tried) if (score := _score(trial)) is not None}
        unfinished = any(cell.result() is None and not cell.failed for trial in tried for cell in trial.cells)
        if unfinished or not scores:
            choices[method] = None
            continue
        best = max(scores, key=lambda number: scores[number])
        axes = settings.axes(method)
        edges = [key for key, value in tried[best].setting.items() if _on_edge(value, axes[key])]
        failed, grid = len(tried) - len(scores), prod(map(len, axes.values()))
        choices[method] = Choice(tried[best], scores[best][0], len(tried), grid, failed, edges)
    return choices


def require_validation(configs: Mapping[str, Config]) -> None:
    """Refuse a comparison that cannot choose.

    Raises:
        InputError: for a method without validation images.
    """
    seen = set()
    for name, config in configs.items():
        data = json.dumps([config["data"], config["trainer"]["limit_val_batches"]])
        if data in seen:
            continue
        seen.add(data)
        # The data alone: a network would ask for its teacher, who may have to be trained first.
        without = {"class_path": "ClassificationModule", "init_args": {"model": {"class_path": "torch.nn.Identity"}}}
        loaded = IDACLI(["fit", "--config", json.dumps({"data": config["data"], "model": without})]).datamodule
        loaded.prepare_data()
        loaded.setup("fit")
        if config["trainer"]["limit_val_batches"] == 0 or loaded.val_dataloader() in (None, []):
            raise InputError(f"tune: expected a validation split to choose on, methods.{name} has none")


def _drawn(values: Mapping[str, list[Any]], settings: Settings) -> Iterator[dict[str, Any]]:
    grid = list(product(*values.values()))
    count = min(settings.budget or len(grid), len(grid))
    for number in sorted(random.Random(settings.budget_seed).sample(range(len(grid)), count)):
        yield dict(zip(values, grid[number], strict=True))


def _tuning_cell(settings: Settings, config: Config, seed: int, label: str) -> Cell:
    cell = make_cell(config, seed, TUNING, Path(), label=label)
    return cell._replace(folder=Path(settings.output, "cells", TUNING, cell.digest[:16]))


def _score(trial: Trial) -> tuple[float, float] | None:
    results = [cell.result() for cell in trial.cells]
    last = [result["last"] for result in results if result is not None]
    if len(last) < len(results):
        return None
    return fmean(figures["val_acc"] for figures in last), -fmean(figures["val_nll"] for figures in last)


def _on_edge(value: Any, offered: Sequence[Any]) -> bool:
    numbers = all(isinstance(other, (int, float)) and not isinstance(other, bool) for other in offered)
    return numbers and len(offered) > 1 and value in (min(offered), max(offered))


def _place(settings: Settings, config: Config, method: str, key: str) -> Place:
    first, *rest = key.split(".")
    callbacks = config["trainer"]["callbacks"] or []
    named = [
        number
        for number, callback in enumerate(callbacks)
        if first in (callback["class_path"].rpartition(".")[2], callback.get("init_args", {}).get("name"))
    ]
    if len(named) > 1:
        raise InputError(
            f"tune: expected one callback, methods.{method} has {len(named)} called {first}; give name: to one"
        )
    place: Place = ("trainer", "callbacks", named[0], "init_args", *rest) if named else (first, *rest)
    if key == "seed_everything":
        raise InputError("tune: expected a key of a method, got seed_everything, which seeds and tune_seeds set")
    try:
        _get(config, place)
    except (KeyError, TypeError, IndexError):
        near = difflib.get_close_matches(key, flat(config), n=1)
        advice = f"; did you mean {near[0]}?" if near else ""
        raise InputError(
            f"tune: methods.{method} has no {key}{advice}; a method without it says so in its own tune, by null"
        ) from None
    own = [other for other in flat(settings.part(method)) if f"{other}.".startswith(f"{key}.")]
    if not named and own:
        raise InputError(f"tune: methods.{method} sets {own[0]} itself; leave it out there, or by null in its own tune")
    return place


def _checked(config: Config, key: str, place: Place, value: Any, known: dict[tuple[str, str], Any]) -> Any:
    """Return a value as ``fit`` reads it; each one is read once."""
    case = (key, json.dumps(value, sort_keys=True, default=str))
    if case not in known:
        tuned = copy.deepcopy(config)
        _put(tuned, place, value)
        try:
            known[case] = _get(read_fit_config(["--config", json.dumps(tuned, default=str)]), place)
        except InputError as error:
            reason = str(error).partition(": ")[2] or error  # of the whole config, whose key is known
            raise InputError(f"tune: {key}: {reason}") from error
    return known[case]


def _get(config: Any, place: Place) -> Any:
    for part in place:
        config = config[part]
    return config


def _put(config: Any, place: Place, value: Any) -> None:
    _get(config, place[:-1])[place[-1]] = value
