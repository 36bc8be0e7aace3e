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
        output: folder of everything that is written; by default ``outputs/compare/`` and the names of the comparison's
            files, such as ``fig4-on_cifar100``.
        common: a fit config that is merged on top of ``fit`` for all methods.
        teacher: a fit config that makes the teacher, run if the file that it exports is missing.
        jobs: how many runs side by side, each in a process of its own if more than one.
        devices: CUDA device numbers that runs are dealt out to; none leaves the choice to the Trainer.
        threads: CPU threads of every run; by default the cores are shared out where there is more than one job. Small
            networks are fastest with 1, by far so on a busy machine.
        keep_weights: leave the last and the best weights of every run beside its figures.
        curves: name of a quantity -> the methods that are drawn against it, and their numbers.
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
    curves: dict[str, dict[str, float]] = {}  # noqa: RUF012 (never changed)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise InputError(message)


def read_arguments(args: Sequence[str]) -> tuple[Settings, bool]:
    """The comparison that a command line names, and whether it is only to be summarised.

    Raises:
        InputError: for arguments, or a file, that cannot be used.
    """
    parser = _Parser("ida-lightning compare", description=__doc__, allow_abbrev=False)
    parser.add_argument(
        "--config",
        required=True,
        action="append",
        help="the comparison's file, see configs/digits/compare.yaml; further ones replace keys of those before",
    )
    parser.add_argument("--summarise", action="store_true", help="only make the tables and plots of finished runs")
    parser.add_argument("--output", help="instead of the file's")
    parser.add_argument("--jobs", type=int, help="instead of the file's")
    parser.add_argument("--devices", type=int, nargs="*", help="instead of the file's")
    given = vars(parser.parse_args(list(args)))
    paths, summarise = given.pop("config"), given.pop("summarise")
    return read_settings(paths, {name: value for name, value in given.items() if value is not None}), summarise


def read_settings(paths: Sequence[str], instead: dict[str, Any] | None = None) -> Settings:
    """Read a comparison's files.

    Args:
        paths: of YAML files. As with several ``--config`` of ``fit``, keys of a later one replace those of the ones
            before, within mappings too; a list replaces a list.
        instead: values that replace the files'.

    Raises:
        InputError: naming the key, what was expected and what came.
    """
    content: dict[str, Any] = {}
    for path in paths:
        content = _merged(content, _read(path))
    content |= instead or {}
    where = ", ".join(paths)
    for key in content:
        if key not in Settings._fields:
            near = difflib.get_close_matches(str(key), Settings._fields, n=1)
            raise InputError(
                f"{key}: no key of a comparison" + (f"; did you mean {near[0]}?" if near else "") + f" ({where})"
            )
    for key in ("fit", "methods", "seeds", "reference"):
        if key not in content:
            raise InputError(f"{key}: expected in {where}, got nothing")
    content = {key: value for key, value in content.items() if value is not None or key in ("seeds", "methods")}
    methods = _methods(content["methods"])
    seeds = content["seeds"]
    if not _numbers(seeds) or not seeds or len(set(seeds)) < len(seeds):
        raise InputError(f"seeds: expected a list of different numbers >= 0, got {seeds!r}")
    if content["reference"] not in methods:
        raise InputError(f"reference: expected one of {', '.join(methods)}, got {content['reference']!r}")
    named = Path("outputs", "compare", "-".join(Path(path).stem for path in paths))
    settings = Settings(
        str(content["fit"]),
        methods,
        tuple(seeds),
        content["reference"],
        Path(str(content.get("output", named))),
        content.get("common", {}),
        content.get("teacher"),
        content.get("jobs", 1),
        tuple(content["devices"]) if _numbers(content.get("devices")) else content.get("devices", ()),
        content.get("threads"),
        content.get("keep_weights", False),
        content.get("curves", {}),
    )
    _check(settings)
    return settings


def _read(path: str) -> dict[str, Any]:
    if not Path(path).is_file():
        raise InputError(f"config: expected the file of a comparison, found nothing at {path}")
    try:
        content = yaml.safe_load(Path(path).read_text())
    except yaml.YAMLError as error:
        raise InputError(f"config: {path} is no YAML ({error})") from error
    if not isinstance(content, dict):
        raise InputError(f"config: expected keys such as fit, seeds and methods in {path}, got {content!r}")
    return content


def _merged(below: Any, above: Any) -> Any:
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return above
    return {**below, **{key: _merged(below.get(key), value) for key, value in above.items()}}


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
    _check_curves(settings)


def _check_curves(settings: Settings) -> None:
    curves: Any = settings.curves
    if not isinstance(curves, dict):
        raise InputError(f"curves: expected names with a number for each of their methods, got {curves!r}")
    for name, places in curves.items():
        if not isinstance(places, dict) or not places:
            raise InputError(f"curves.{name}: expected methods with a number each, got {places!r}")
        for method, place in places.items():
            if method not in settings.methods:
                raise InputError(f"curves.{name}: expected some of {', '.join(settings.methods)}, got {method!r}")
            if type(place) not in (int, float):
                raise InputError(f"curves.{name}.{method}: expected a number, got {place!r}")


def _numbers(values: Any) -> bool:
    return isinstance(values, (list, tuple)) and all(type(value) is int and value >= 0 for value in values)
