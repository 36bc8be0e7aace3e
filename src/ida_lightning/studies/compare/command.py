"""The command ``ida-lightning compare``: methods x seeds on one set-up, resumable, with intervals at the end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ida_lightning.errors import InputError
from ida_lightning.files import replacing
from ida_lightning.studies.compare.cells import Cell, change_since, exported_by, make_cells, result_of
from ida_lightning.studies.compare.estimates import Result
from ida_lightning.studies.compare.picture import plot_curves, plot_differences
from ida_lightning.studies.compare.report import summary, write_results, write_summary
from ida_lightning.studies.compare.schedule import Progress, quiet, run_cells, train_teacher
from ida_lightning.studies.compare.settings import Settings, read_arguments

__all__ = ["Settings", "compare"]


def _say(text: str) -> None:
    print(text, flush=True)  # noqa: T201


def compare(args: Sequence[str]) -> int:
    """Run what is not finished of a comparison, then write and print its tables.

    Everything lies in the comparison's output folder: ``cells/<method>/seed_<n>/cell.json`` with the figures of one
    run and the hash of its config, beside ``config.yaml`` and its logs; ``results.csv``, ``summary.csv``,
    ``summary.md`` and ``differences.png`` of all, and ``curves.png`` where the file names curves.

    Args:
        args: of the command line, after ``compare``.

    Returns:
        The exit code: 1 if a cell failed.

    Raises:
        InputError: for a file or arguments that cannot be used; nothing was run then.
    """
    settings, only_summarise = read_arguments(args)
    with quiet(settings.threads):
        cells = make_cells(settings)
        failed = {} if only_summarise else _run(cells, settings)
        if only_summarise:
            _say_changes(cells, "left out")
    results = [result for cell in cells if (result := _valid(cell)) is not None]
    if results:
        _report(results, settings)
    missing = len(cells) - len(results) - len(failed)
    if missing:
        _say(f"\nNot finished: {missing} of {len(cells)} cells.")
    for name, error in failed.items():
        _say(f"\nFailed: {name}: {error}")
    return 1 if failed else 0


def _run(cells: Sequence[Cell], settings: Settings) -> dict[str, str]:
    _find_teachers(cells, settings)
    _say_changes(cells, "runs again")
    waiting = [cell for cell in cells if _valid(cell) is None]
    finished = len(cells) - len(waiting)
    _say(f"{len(cells)} cells, {finished} finished, {len(waiting)} to run")
    return run_cells(waiting, Progress(len(cells), finished, _say), settings)


def _say_changes(cells: Sequence[Cell], consequence: str) -> None:
    for cell in cells:
        before = result_of(cell)
        change = None if before is None else change_since(cell, before)
        if change is not None:
            _say(f"{cell.name}: {consequence}, its config has changed: {change}")


def _valid(cell: Cell) -> Result | None:
    """The cell's result, if it is one of this comparison."""
    result = result_of(cell)
    return result if result is not None and change_since(cell, result) is None else None


def _find_teachers(cells: Sequence[Cell], settings: Settings) -> None:
    apart = settings.jobs > 1 or bool(settings.devices)
    if settings.teacher is not None:
        path = exported_by(settings.teacher)
        if not Path(path).is_file():
            _say(f"teacher: {path} is missing; ida-lightning fit --config {settings.teacher}")
            device = settings.devices[0] if settings.devices else None
            train_teacher(settings.teacher, apart, device, settings.threads)
        if not Path(path).is_file():
            raise InputError(f"teacher: expected {settings.teacher} to leave {path}, it did not")
    for cell in cells:
        if cell.teacher is not None and not Path(cell.teacher).is_file():
            raise InputError(
                f"methods.{cell.method}: teacher_checkpoint: expected a weight file, found nothing at {cell.teacher}; "
                "the key teacher names a fit config that makes it"
            )


def _report(results: Sequence[Result], settings: Settings) -> None:
    folder = settings.output
    write_results(folder / "results.csv", results)
    write_summary(folder / "summary.csv", results, settings)
    text = summary(results, settings)
    with replacing(folder / "summary.md") as unfinished:
        unfinished.write_text(text + "\n")
    pictures = {"differences.png": plot_differences} | ({"curves.png": plot_curves} if settings.curves else {})
    for name, plot in pictures.items():
        with replacing(folder / name) as unfinished:
            plot(results, settings).savefig(unfinished, dpi=110)
    _say(f"\n{text}\n\nTables: {folder}/summary.md, summary.csv, results.csv\nPictures: {', '.join(pictures)}")
