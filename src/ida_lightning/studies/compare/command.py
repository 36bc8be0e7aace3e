"""The command ``ida-lightning compare``: methods x seeds on one set-up, resumable, with intervals at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path

from ida_lightning.errors import InputError
from ida_lightning.files import writable_folder
from ida_lightning.locks import OutputLock
from ida_lightning.remote import is_file
from ida_lightning.studies.compare.cells import (
    Cell,
    Result,
    exported_by,
    make_cells,
    resolve_methods,
    teacher_of,
)
from ida_lightning.studies.compare.claims import one_process
from ida_lightning.studies.compare.launch import run_in_jobs
from ida_lightning.studies.compare.passes import equal_passes
from ida_lightning.studies.compare.picture import plot_curves, plot_differences
from ida_lightning.studies.compare.report import Tuned, labelled, results_csv, summary, summary_csv
from ida_lightning.studies.compare.schedule import run_cells, train_teacher
from ida_lightning.studies.compare.settings import Settings, read_arguments
from ida_lightning.studies.compare.tuning import Choice, Config, cells_of, choose, make_trials, require_validation
from ida_lightning.studies.console import ended_by_sigterm, print_line, quiet
from ida_lightning.studies.tables import as_png, run_id, write_result

_FOR_EVER = -1
_PATIENCE = 30  # seconds that another process may take to write its tables


def compare(args: Sequence[str]) -> int:
    """Run what is not finished of a comparison, then write and print its tables.

    Any number of processes, on any hosts with a common file system, can work on one comparison: each cell is claimed by
    the one that runs it, what others run is waited for, and every process ends with the same tables.

    Everything lies in the comparison's output folder: ``cells/<method>/seed_<n>/cell.json`` with the figures of one
    run and the hash of its config, beside ``config.yaml`` and its logs; with ``tune``, ``cells/tuning/`` with the runs
    that the settings are chosen by, and ``cells/<method>/equal_passes/``; ``results.csv``, ``summary.csv``,
    ``summary.md`` and ``differences.png`` of all, and ``curves.png`` where the file names curves.

    Args:
        args: of the command line, after ``compare``.

    Returns:
        The exit code: 0 exactly if all cells are there; a summary alone does not ask for that.

    Raises:
        InputError: for a file or arguments that cannot be used; nothing was run then.
    """
    settings, asked_to_summarise = read_arguments(args)
    only_summarise = asked_to_summarise
    writable_folder("output", settings.output)
    failed: dict[str, str] = {}
    in_jobs = settings.launcher == "submitit" and not only_summarise
    # What is kept is recorded by one process.
    alone = settings.keep_answers and not only_summarise
    lock = OutputLock("output", settings.output) if alone else nullcontext()
    with lock, one_process(), ended_by_sigterm(), quiet(settings.threads):
        configs = resolve_methods(settings)
        trials = make_trials(settings, configs)
        if not only_summarise:
            if trials:
                require_validation(configs)
            if in_jobs:
                run_in_jobs(compare, args, settings)
                only_summarise = True
            else:
                _require_teachers(configs, settings)
        finish = partial(_finish, settings=settings, failed=None if only_summarise else failed)
        tuning = finish(cells_of(trials), title="Tuning, on validation images")
        choices = choose(trials, settings)
        chosen = _chosen(configs, choices)
        cells = finish(make_cells(settings, chosen), title="Chosen settings, equal epochs" if trials else "")
        results = _finished(cells)
        scaled = equal_passes(chosen, results, settings.reference) if trials else {}
        more = finish(make_cells(settings, scaled, "equal_passes"), title="Chosen settings, equal student passes")
        by_passes = _finished(more)
        if results:
            parts = {name: [result for result in by_passes if result["method"] == name] for name in scaled}
            _write_report(results, settings, Tuned(trials, choices, parts))
    planned = len(tuning) + len(configs) * len(settings.seeds) + len(more)
    missing = planned - len(_finished(tuning)) - len(results) - len(by_passes) - len(failed)
    if missing:
        print_line(f"\nNot finished: {missing} of {planned} cells.")
    for name, error in failed.items():
        print_line(f"\nFailed: {name}: {error}")
    return 1 if failed or (missing and not asked_to_summarise) else 0


def _finish(cells: list[Cell], title: str, settings: Settings, failed: dict[str, str] | None) -> list[Cell]:
    """Run those of ``cells`` that are not finished, and note in ``failed`` those that cannot be; None runs nothing."""
    for cell in cells:
        if change := cell.change():
            print_line(f"{cell.name}: {'left out' if failed is None else 'runs again'}, {change}")
    if cells and failed is not None:
        if title:
            print_line(f"\n{title}")
        failed.update(run_cells(cells, settings))
    return cells


def _finished(cells: Sequence[Cell]) -> list[Result]:
    return [result for cell in cells if (result := cell.result()) is not None]


def _chosen(configs: Mapping[str, Config], choices: Mapping[str, Choice | None]) -> dict[str, Config]:
    """Return the methods' fit configs with what was chosen, without those for which it could not be."""
    chosen = {}
    for name, config in configs.items():
        choice = choices.get(name)
        if choice is not None:
            chosen[name] = choice.trial.config
        elif name not in choices:
            chosen[name] = config
    return chosen


def _require_teachers(configs: Mapping[str, Config], settings: Settings) -> None:
    """Train the teacher if its weights are missing, and check that every method's teacher is there."""
    if settings.teacher is not None:
        fit = str(settings.teacher)
        path = exported_by(fit)
        if not Path(path).is_file():
            with OutputLock("teacher", Path(settings.output, "teacher")).acquire(_FOR_EVER):
                if not Path(path).is_file():  # another process may have trained it in the meantime
                    print_line(f"teacher: {path} is missing; ida-lightning fit --config {fit}")
                    train_teacher(fit, settings)
        if not Path(path).is_file():
            raise InputError(f"teacher: expected {fit} to leave {path}, it did not")
    for name, config in configs.items():
        teacher = teacher_of(config)
        paths = (teacher,) if isinstance(teacher, str) else teacher or ()
        missing = next((path for path in paths if path and not is_file(path)), None)
        if missing is not None:
            raise InputError(
                f"methods.{name}: teacher_checkpoint: expected a weight file, found nothing at {missing}; "
                "the key teacher names a fit config that makes it"
            )


def _write_report(results: Sequence[Result], settings: Settings, tuned: Tuned) -> None:
    """Write tables and pictures as one result, each with its number, which tells the figures that they are of."""
    folder, rows = Path(settings.output), labelled(results, tuned)
    run = run_id(rows, settings._asdict())
    text = f"{summary(results, settings, tuned)}\n\nRun {run}, as results.csv and the pictures."
    tables = {
        "summary.md": text + "\n",
        "summary.csv": summary_csv(results, settings, run, tuned),
        "results.csv": results_csv(rows, run),
    }
    pictures = {"differences.png": as_png(plot_differences(results, settings), run)}
    if settings.curves:
        pictures["curves.png"] = as_png(plot_curves(results, settings), run)
    with OutputLock("output", folder / "tables").acquire(_PATIENCE):
        write_result(folder, {**tables, **pictures}, (*tables, "differences.png", "curves.png"))
    print_line(f"\n{text}\n\nTables: {folder}/{', '.join(tables)}\nPictures: {', '.join(pictures)}")
