"""What a comparison is: its file, read and checked."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import yaml  # type: ignore[import-untyped]

from ida_lightning.errors import InputError


class Settings(NamedTuple):
    """Methods x seeds on one set-up.

    Attributes:
        fit: a fit config to start from.
        methods: name -> a fit config that is merged on top of ``fit`` and ``common``, as a further ``--config`` is.
        seeds: of weights, shuffling and mixing; every method is run with every one.
        reference: the method that differences are taken to.
        output: folder of everything that is written.
        common: a fit config that is merged on top of ``fit`` for all methods.
        teacher: a fit config that makes the teacher, run if the file that it exports is missing.
        jobs: how many runs side by side, each in a process of its own if more than one.
        devices: CUDA device numbers that runs are dealt out to; none leaves the choice to the Trainer.
        threads: CPU threads of every run; by default the cores are shared out where there is more than one job. Small
            networks are fastest with 1, by far so on a busy machine.
        keep_weights: leave the last and the best weights of every run beside its figures.
    """

    fit: str
    methods: dict[str, dict[str, Any]]
    seeds: tuple[int, ...]
    reference: str
    output: Path
    common: dict[str, Any] = {}  # noqa: RUF012 (never changed)
    teacher: str | None = None
    jobs: int = 1
    devices: tuple[int, ...] = ()
    threads: int | None = None
    keep_weights: bool = False


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(message)


def read_arguments(args: Sequence[str]) -> tuple[Settings, bool]:
    """The comparison that a command line names, and whether it is only to be summarised.

    Raises:
        InputError: for arguments, or a file, that cannot be used.
    """
    parser = _Parser("ida-lightning compare", description=__doc__, allow_abbrev=False)
    parser.add_argument("--config", required=True, help="the comparison's file; see configs/digits/compare.yaml")
    parser.add_argument("--summarise", action="store_true", help="only make the tables and plots of finished runs")
    parser.add_argument("--output", help="instead of the file's")
    parser.add_argument("--jobs", type=int, help="instead of the file's")
    parser.add_argument("--devices", type=int, nargs="*", help="instead of the file's")
    given = vars(parser.parse_args(list(args)))
    path, summarise = given.pop("config"), given.pop("summarise")
    return read_settings(path, {name: value for name, value in given.items() if value is not None}), summarise


def read_settings(path: str, instead: dict[str, Any] | None = None) -> Settings:
    """Read a comparison's file.

    Args:
        path: of the YAML file.
        instead: values that replace the file's.

    Raises:
        InputError: naming the key, what was expected and what came.
    """
    if not Path(path).is_file():
        raise InputError(f"config: expected the file of a comparison, found nothing at {path}")
    try:
        content = yaml.safe_load(Path(path).read_text())
    except yaml.YAMLError as error:
        raise InputError(f"config: {path} is no YAML ({error})") from error
    if not isinstance(content, dict):
        raise InputError(f"config: expected keys such as fit, seeds and methods in {path}, got {content!r}")
    content |= instead or {}
    for key in content:
        if key not in Settings._fields:
            near = difflib.get_close_matches(str(key), Settings._fields, n=1)
            raise InputError(
                f"{key}: no key of a comparison" + (f"; did you mean {near[0]}?" if near else "") + f" ({path})"
            )
    for key in ("fit", "methods", "seeds", "reference", "output"):
        if key not in content:
            raise InputError(f"{key}: expected in {path}, got nothing")
    content = {key: value for key, value in content.items() if value is not None or key in ("seeds", "methods")}
    methods = _methods(content["methods"])
    seeds = content["seeds"]
    if not _numbers(seeds) or not seeds or len(set(seeds)) < len(seeds):
        raise InputError(f"seeds: expected a list of different numbers >= 0, got {seeds!r}")
    if content["reference"] not in methods:
        raise InputError(f"reference: expected one of {', '.join(methods)}, got {content['reference']!r}")
    settings = Settings(
        str(content["fit"]),
        methods,
        tuple(seeds),
        content["reference"],
        Path(str(content["output"])),
        content.get("common", {}),
        content.get("teacher"),
        content.get("jobs", 1),
        tuple(content["devices"]) if _numbers(content.get("devices")) else content.get("devices", ()),
        content.get("threads"),
        content.get("keep_weights", False),
    )
    _check(settings)
    return settings


def _methods(methods: Any) -> dict[str, dict[str, Any]]:
    if not isinstance(methods, dict) or not methods:
        raise InputError(f"methods: expected names with a part of a fit config each, got {methods!r}")
    found: dict[str, dict[str, Any]] = {name: {} if part is None else part for name, part in methods.items()}
    for name, part in found.items():
        if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][\w.+-]*", name):
            raise InputError(f"methods: expected names of letters, digits and _.+-, got {name!r}")
        if not isinstance(part, dict):
            raise InputError(f"methods.{name}: expected a part of a fit config, got {part!r}")
    return found


def _check(settings: Settings) -> None:
    for name, path in (("fit", settings.fit), ("teacher", settings.teacher)):
        if path is not None and not Path(path).is_file():
            raise InputError(f"{name}: expected a fit config, found nothing at {path}")
    if not isinstance(settings.common, dict):
        raise InputError(f"common: expected a part of a fit config, got {settings.common!r}")
    for name, value in (("jobs", settings.jobs), ("threads", settings.threads)):
        if value is not None and (type(value) is not int or value < 1):
            raise InputError(f"{name}: expected a number >= 1, got {value!r}")
    if not _numbers(settings.devices):
        raise InputError(f"devices: expected a list of CUDA device numbers, got {settings.devices!r}")
    if not isinstance(settings.keep_weights, bool):
        raise InputError(f"keep_weights: expected true or false, got {settings.keep_weights!r}")


def _numbers(values: Any) -> bool:
    return isinstance(values, (list, tuple)) and all(type(value) is int and value >= 0 for value in values)
