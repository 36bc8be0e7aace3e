"""The settings of a comparison, read from its files and the command line."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, Literal, NamedTuple

import yaml  # type: ignore[import-untyped]
from jsonargparse.typing import NonNegativeInt, Path_fr, PositiveInt

from ida_lightning.cli import Parser
from ida_lightning.errors import InputError, one_of, whole_number


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
        launcher: ``local`` runs cells here; ``submitit`` submits ``jobs`` jobs to a cluster, each of which runs cells.
        submitit: parameters of submitit's executor, such as ``slurm_partition``, ``gpus_per_node`` and ``timeout_min``;
            ``cluster`` is ``slurm`` where there is one, or ``local``.
        devices: CUDA device numbers that runs are dealt out to; none leaves the choice to the Trainer.
        threads: CPU threads of every run; by default the cores are shared out where there is more than one job. Small
            networks are fastest with 1, by far so on a busy machine.
        keep_weights: leave the last and the best weights of every run beside its figures.
        share_teacher: ask the teacher once where methods of a seed show it the same pictures, and replay its answers;
            results are the same without.
        keep_answers: leave these answers beside the figures; by default the space is freed when all have run.
        curves: name of a quantity -> the methods that are drawn against it, and their numbers.
        tune: key of the fit config -> the values that are tried, for every method. A method's own ``tune`` adds keys,
            replaces values, and leaves a key out by null; ``<callback>.<argument>`` is an argument of the callback of
            that class or name.
        tune_seeds: of the runs that choose between the settings; others than ``seeds``.
        budget: how many settings are drawn out of each method's grid; by default every method tries its whole grid.
        budget_seed: of these draws.
    """

    fit: Path_fr
    # Not dict[str, Any], in which jsonargparse would look for classes and make something else of them.
    methods: dict[str, dict | None]  # type: ignore[type-arg]
    seeds: list[NonNegativeInt]
    reference: str
    output: str
    common: dict = {}  # type: ignore[type-arg]  # noqa: RUF012
    teacher: Path_fr | None = None
    jobs: PositiveInt = 1
    launcher: Literal["local", "submitit"] = "local"
    submitit: dict = {}  # type: ignore[type-arg]  # noqa: RUF012
    devices: list[NonNegativeInt] = []  # noqa: RUF012
    threads: PositiveInt | None = None
    keep_weights: bool = False
    share_teacher: bool = True
    keep_answers: bool = False
    curves: dict[str, dict[str, float]] = {}  # noqa: RUF012
    tune: dict = {}  # type: ignore[type-arg]  # noqa: RUF012
    tune_seeds: list[NonNegativeInt] = []  # noqa: RUF012
    budget: PositiveInt | None = None
    budget_seed: NonNegativeInt = 0

    def part(self, method: str) -> dict[str, Any]:
        """Return what a method merges on top of ``fit`` and ``common``."""
        return {key: value for key, value in (self.methods[method] or {}).items() if key != "tune"}

    def axes(self, method: str) -> dict[str, list[Any]]:
        """Return the keys that are tuned for a method, and the values of each."""
        axes = self.tune | ((self.methods[method] or {}).get("tune") or {})
        return {key: values for key, values in axes.items() if values is not None}


def read_arguments(args: Sequence[str]) -> tuple[Settings, bool]:
    """Return the comparison that a command line names, and whether it is only to be summarised.

    Raises:
        InputError: for arguments, or a file, that cannot be used.
    """
    parser = Parser(prog="ida-lightning compare", description="Run methods x seeds on one set-up and compare them.")
    parser.add_argument(
        "--config",
        required=True,
        action="append",
        help="the comparison's file, see configs/digits/compare.yaml; further ones replace keys of those before",
    )
    parser.add_argument("--summarise", action="store_true", help="only make the tables and plots of finished runs")
    parser.add_argument("--output", help="instead of the file's")
    parser.add_argument("--jobs", help="instead of the file's")
    parser.add_argument("--devices", nargs="*", help="instead of the file's")
    parser.add_argument("--launcher", help="instead of the file's: local, or submitit for a cluster")
    given = parser.parse_args(list(args)).as_dict()
    return read_settings(given.pop("config"), given), given.pop("summarise")


def read_settings(paths: Sequence[str], instead: Mapping[str, Any] | None = None) -> Settings:
    """Read a comparison's files.

    Args:
        paths: of YAML files. As with several ``--config`` of ``fit``, keys of a later one replace those of the ones
            before, within mappings too; a list replaces a list.
        instead: values that replace the files'; None leaves the file's.

    Raises:
        InputError: naming the key, what was expected and what came.
    """
    content: dict[str, Any] = {"output": str(Path("outputs", "compare", "-".join(Path(path).stem for path in paths)))}
    for path in paths:
        content = _merged(content, _read(path))
    content = {key: value for key, value in content.items() if value is not None}
    content |= {key: value for key, value in (instead or {}).items() if key in Settings._fields and value is not None}
    for key in content.keys() - set(Settings._fields):
        near = difflib.get_close_matches(str(key), Settings._fields, n=1)
        raise InputError(f"{key}: no key of a comparison" + (f"; did you mean {near[0]}?" if near else ""))
    parser = Parser()
    parser.add_class_arguments(Settings)
    settings = Settings(**parser.parse_object(content).as_dict())
    if not settings.methods:
        raise InputError("methods: expected names with a part of a fit config each, got none")
    for name in settings.methods:
        if not re.fullmatch(r"[A-Za-z0-9][\w.+-]*", str(name)):
            raise InputError(f"methods: expected names of letters, digits and _.+-, got {name!r}")
    one_of("reference", settings.reference, settings.methods)
    if not settings.seeds or len(set(settings.seeds)) < len(settings.seeds):
        raise InputError(f"seeds: expected different numbers, got {settings.seeds}")
    for key, seeds in (("seeds", settings.seeds), ("tune_seeds", settings.tune_seeds)):
        for seed in seeds:
            whole_number(key, seed, 0, 2**32 - 1)
    _check_tuning(settings)
    if settings.launcher == "submitit" and settings.devices:
        raise InputError(f"devices: expected none with submitit, which deals them out to jobs, got {settings.devices}")
    for name, numbers in settings.curves.items():
        for method in numbers or [None]:
            one_of(f"curves.{name}", method, settings.methods)
    return settings


def _check_tuning(settings: Settings) -> None:
    blocks = {f"methods.{name}.tune": (part or {}).get("tune") for name, part in settings.methods.items()}
    for where, block in {"tune": settings.tune, **blocks}.items():
        if not isinstance(block, (dict, NoneType)):
            raise InputError(f"{where}: expected keys of the fit config with a list of values each, got {block!r}")
        for key, values in (block or {}).items():
            left_out = values is None and where != "tune"
            if not left_out and not (isinstance(values, list) and values and _all_differ(values)):
                raise InputError(f"{where}: expected a list of different values for {key}, got {values!r}")
    tuned = any(settings.axes(name) for name in settings.methods)
    if tuned and not settings.tune_seeds:
        raise InputError("tune_seeds: expected seeds of the runs that choose between the settings of tune, got none")
    for key in ("tune_seeds", "budget") if not tuned else ():
        if settings._asdict()[key]:
            raise InputError(f"{key}: expected tune with it, which names what is tried, got none")
    if not _all_differ(settings.tune_seeds):
        raise InputError(f"tune_seeds: expected different numbers, got {settings.tune_seeds}")
    if both := sorted({*settings.seeds} & {*settings.tune_seeds}):
        raise InputError(
            f"tune_seeds: expected none of seeds, got {both[0]} in both: what chooses a setting cannot report on it"
        )


def _all_differ(values: list[Any]) -> bool:
    return all(value not in values[:number] for number, value in enumerate(values))


def _read(path: str) -> dict[str, Any]:
    if not Path(path).is_file():
        raise InputError(f"config: expected the file of a comparison, found nothing at {path}")
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"config: {path} is no YAML ({error})") from error
    if not isinstance(content, dict):
        raise InputError(f"config: expected keys such as fit, seeds and methods in {path}, got {content!r}")
    return content


def _merged(below: Any, above: Any) -> Any:
    if not (isinstance(below, dict) and isinstance(above, dict)):
        return above
    return {**below, **{key: _merged(below.get(key), value) for key, value in above.items()}}
