"""The command ``ida-lightning compare``: methods x seeds on one set-up, resumable, with intervals at the end."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

from ida_lightning.errors import InputError
from ida_lightning.files import writable_folder
from ida_lightning.locks import OutputLock
from ida_lightning.studies.compare.cells import Cell, Result, exported_by, make_cells
from ida_lightning.studies.compare.picture import plot_curves, plot_differences
from ida_lightning.studies.compare.report import results_csv, summary, summary_csv
from ida_lightning.studies.compare.schedule import run_cells, train_teacher
from ida_lightning.studies.compare.settings import Settings, read_arguments
from ida_lightning.studies.console import ended_by_sigterm, print_line, quiet
from ida_lightning.studies.tables import as_png, run_id, write_result

_PATIENCE = 30  # seconds that another process may take to write its tables


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
    writable_folder("output", settings.output)
    failed: dict[str, str] = {}
    # Making the tables takes a moment and may be done while another process runs cells.
    lock = nullcontext() if only_summarise else OutputLock("output", settings.output)
    with lock, ended_by_sigterm(), quiet(settings.threads):
        cells = make_cells(settings)
        if not only_summarise:
            _require_teachers(cells, settings)
        for cell in cells:
            if change := cell.change():
                consequence = "left out" if only_summarise else "runs again"
                print_line(f"{cell.name}: {consequence}, {change}")
        if not only_summarise:
            failed = run_cells(cells, settings)
        results = [result for cell in cells if (result := cell.result()) is not None]
        if results:
            _write_report(results, settings)
    missing = len(cells) - len(results) - len(failed)
    if missing:
        print_line(f"\nNot finished: {missing} of {len(cells)} cells.")
    for name, error in failed.items():
        print_line(f"\nFailed: {name}: {error}")
    return 1 if failed else 0


def _require_teachers(cells: Sequence[Cell], settings: Settings) -> None:
    """Train the teacher if its weights are missing, and check that every method's teacher is there."""
    if settings.teacher is not None:
        fit = str(settings.teacher)
        path = exported_by(fit)
        if not Path(path).is_file():
            print_line(f"teacher: {path} is missing; ida-lightning fit --config {fit}")
            train_teacher(fit, settings)
        if not Path(path).is_file():
            raise InputError(f"teacher: expected {fit} to leave {path}, it did not")
    for cell in cells:
        if cell.teacher is not None and not Path(cell.teacher).is_file():
            raise InputError(
                f"methods.{cell.method}: teacher_checkpoint: expected a weight file, found nothing at {cell.teacher}; "
                "the key teacher names a fit config that makes it"
            )


def _write_report(results: Sequence[Result], settings: Settings) -> None:
    """Write tables and pictures as one result, each with its number, which tells the figures that they are of."""
    folder, run = Path(settings.output), run_id(results, settings._asdict())
    text = f"{summary(results, settings)}\n\nRun {run}, as results.csv and the pictures."
    tables = {
        "summary.md": text + "\n",
        "summary.csv": summary_csv(results, settings, run),
        "results.csv": results_csv(results, run),
    }
    pictures = {"differences.png": as_png(plot_differences(results, settings), run)}
    if settings.curves:
        pictures["curves.png"] = as_png(plot_curves(results, settings), run)
    with OutputLock("output", folder / "tables").acquire(_PATIENCE):
        write_result(folder, {**tables, **pictures}, (*tables, "differences.png", "curves.png"))
    print_line(f"\n{text}\n\nTables: {folder}/{', '.join(tables)}\nPictures: {', '.join(pictures)}")
