"""Lets the runs of a comparison that show the same pictures to the same teacher ask it once."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from ida_lightning.locks import HeldError, OutputLock
from ida_lightning.studies.compare.cells import Cell, digest_of
from ida_lightning.studies.compare.settings import Settings

_OF_TEACHER = ("teacher", "teacher_checkpoint", "teacher_args", "teacher_precision", "compile_args")
_OF_SOME_TEACHERS = ("teacher_image_input", "teacher_classes", "teacher_view")
_OF_TRAINER = ("accelerator", "devices", "precision", "overfit_batches")


class Sharing:
    """Chooses which of the runs with the same teacher and pictures records its answers; the others wait and replay.

    From seed to seed it is another method that records, so that each is timed with stored answers in some seed; only
    runs of the most epochs take part in that, as others could not record enough. Processes that work on the same
    comparison share nothing of this: each asks the teacher itself, and so waits for none of the others.

    Args:
        cells: that will run; seed by seed.
        settings: of the comparison.
    """

    def __init__(self, cells: Sequence[Cell], settings: Settings) -> None:
        self.all = Path(settings.output, "teacher_outputs")
        self.keep = settings.keep_answers
        self.folder = self.all if self.keep else self.all / f"{socket.gethostname()}-{os.getpid()}"
        self._lock = OutputLock("teacher_outputs", self.folder)
        self.cells = list(cells)
        self._places: dict[Path, list[int]] = {}
        if settings.share_teacher:
            for place, cell in enumerate(cells):
                if (mark := _what_is_asked(cell)) is not None:
                    self._places.setdefault(self.folder / mark[:16], []).append(place)
        self._places = {folder: places for folder, places in self._places.items() if len(places) > 1}
        for number, (folder, places) in enumerate(self._places.items()):
            self._arrange(folder, places, number)
        self._left = {str(folder): len(places) for folder, places in self._places.items()}
        self._recorded: set[str] = set()
        self._recording: set[str] = set()
        if self._places and not self.keep:
            self._lock.acquire()

    def _arrange(self, folder: Path, places: list[int], number: int) -> None:
        """Put the run that records in front of those that wait for it."""
        group = [self.cells[place]._replace(answers=str(folder)) for place in places]
        most = max(_epochs(cell) for cell in group)
        longest = [cell for cell in group if _epochs(cell) == most]
        first = longest[number % len(longest)]
        for place, cell in zip(places, [first, *(cell for cell in group if cell is not first)], strict=True):
            self.cells[place] = cell

    def may_start(self, cell: Cell) -> bool:
        """Say whether nothing that the run will need is being recorded just now."""
        return cell.answers is None or cell.answers in self._recorded or cell.answers not in self._recording

    def start(self, cell: Cell) -> None:
        """Note that a run begins."""
        if cell.answers is not None:
            self._recording.add(cell.answers)

    def give_back(self, cell: Cell) -> None:
        """Note that a run that was to begin did not: another process has claimed it."""
        if cell.answers is not None:
            self._recording.discard(cell.answers)

    def end(self, cell: Cell, finished: bool, here: bool = True) -> None:
        """Note that a run has ended, and free the space when it was the last of its group.

        Args:
            cell: that ran.
            finished: whether it left its figures.
            here: whether this process ran it, with answers that others here can replay.
        """
        if cell.answers is None:
            return
        if here:
            self._recording.discard(cell.answers)
            self._recorded |= {cell.answers} if finished else set()
        self._left[cell.answers] -= 1
        if not self._left[cell.answers] and not self.keep:
            shutil.rmtree(cell.answers, ignore_errors=True)

    def finish(self) -> None:
        """Free what is left when all have run; a process that was killed may have left something, too."""
        if self.keep:
            return
        shutil.rmtree(self.folder, ignore_errors=True)
        self._lock.release()
        for name in {path.name.removeprefix(".holder-").removeprefix(".lock-") for path in self.all.glob("*")}:
            with suppress(HeldError), OutputLock("teacher_outputs", self.all / name):
                shutil.rmtree(self.all / name, ignore_errors=True)
        with suppress(OSError):  # not empty: somebody is still at it
            self.all.rmdir()


def _epochs(cell: Cell) -> float:
    trainer = cell.config["trainer"]
    epochs = trainer.get("max_epochs")
    return float("inf") if epochs is None or epochs < 0 else epochs * float(cell.config.get("epoch_factor", 1.0))


def _what_is_asked(cell: Cell) -> str | None:
    """Return a mark of teacher and pictures; None for a run without a teacher, or with a folder of its own."""
    model = cell.config["model"]["init_args"]
    if "teacher_outputs" not in model or model["teacher_outputs"] is not None:
        return None
    asked: dict[str, Any] = {key: model.get(key) for key in _OF_TEACHER}
    some = {key: model[key] for key in _OF_SOME_TEACHERS if model.get(key) not in (None, "mixed")}
    if some.get("teacher_view") == "plain_logits":
        some["teacher_view"] = "plain"  # asks about the same images
    asked |= some
    asked |= {key: cell.config["trainer"].get(key) for key in _OF_TRAINER}
    callbacks = cell.config["trainer"].get("callbacks") or []
    if inner := [entry for entry in callbacks if entry["class_path"].endswith(".InnerMixingCallback")]:
        asked["inner_mixing"] = inner
    asked |= {"data": cell.config.get("data"), "seed": cell.seed, "file": digest_of(cell.teacher)}
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()
