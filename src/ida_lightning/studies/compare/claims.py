"""Which cells are still to run here, where other processes, on any host, work on the same comparison."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_only

from ida_lightning.locks import OutputLock
from ida_lightning.studies.compare.cells import Cell

# By these Lightning, torch and MPI learn that a process is one of several that train one network together.
_LAUNCHERS = (
    *("SLURM_", "TORCHELASTIC_", "OMPI_", "PMI_", "PMIX_", "JSM_", "LSB_", "MASTER_ADDR", "MASTER_PORT", "RANK"),
    *("WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "NODE_RANK", "ROLE_"),
)


@contextmanager
def one_process(environment: MutableMapping[str, str] = os.environ) -> Iterator[None]:
    """Have this process train networks of its own, whatever has started it beside others.

    ``srun -n 8 ida-lightning compare`` starts eight processes, each of which runs cells of one process. What they may
    see of the devices stays as it is.

    Example:
        >>> environment = {"SLURM_NTASKS": "8", "RANK": "3", "CUDA_VISIBLE_DEVICES": "3"}
        >>> with one_process(environment):
        ...     print(environment)
        {'CUDA_VISIBLE_DEVICES': '3'}
    """
    before = {name: value for name, value in environment.items() if name.startswith(_LAUNCHERS)}
    rank = rank_zero_only.rank  # type: ignore[attr-defined]  # read from these when Lightning was imported
    for name in before:
        del environment[name]
    rank_zero_only.rank = 0  # type: ignore[attr-defined]
    try:
        yield
    finally:
        environment.update(before)
        rank_zero_only.rank = rank  # type: ignore[attr-defined]


class Claims:
    """Deals out the cells that neither are finished nor run in another process.

    A cell is claimed by the lock on its folder, which ends with the process that holds it. One that fails in another
    process counts as failed here too, and is not tried again.

    Args:
        cells: that were not finished when this process looked.
    """

    def __init__(self, cells: Sequence[Cell]) -> None:
        self.waiting = list(cells)
        self._errors = {cell.folder: _version(cell) for cell in cells}

    def ended_elsewhere(self) -> Iterator[tuple[Cell, str | None]]:
        """Yield the waiting cells that another process has finished meanwhile, with the error of those that failed."""
        for cell in list(self.waiting):
            error = None
            if cell.result() is None:
                if _version(cell) in (None, self._errors[cell.folder]) or is_claimed(cell):
                    continue
                error = ["", *(cell.folder / "error.txt").read_text(encoding="utf-8").strip().splitlines()][-1]
            self.waiting.remove(cell)
            yield cell, error

    def take(self, may_start: Callable[[Cell], bool]) -> Cell | None:
        """Return a cell that can be run here, which is none of the waiting ones then; None if there is none now."""
        for cell in self.waiting:
            if may_start(cell) and not is_claimed(cell):
                self.waiting.remove(cell)
                return cell
        return None

    def give_back(self, cell: Cell) -> None:
        """Let a cell wait that another process has claimed in the meantime."""
        self.waiting.append(cell)


def claim(cell: Cell) -> OutputLock:
    """Return the lock that claims a cell."""
    return OutputLock("cell", cell.folder)


def is_claimed(cell: Cell) -> bool:
    """Say whether a process runs the cell just now."""
    return claim(cell).is_held()


def _version(cell: Cell) -> int | None:
    path = Path(cell.folder, "error.txt")
    try:
        return path.stat().st_mtime_ns
    except OSError:
        return None
