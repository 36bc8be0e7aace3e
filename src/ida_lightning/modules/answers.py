"""The teacher's answers in a fit: from the teacher, or from a folder of stored ones."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from copy import copy
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.utilities import rank_zero_info

from ida_lightning.data_facts import facts_from, facts_of
from ida_lightning.errors import InputError
from ida_lightning.files import replacing, writable_folder
from ida_lightning.lightning_internals import attached_datamodule, epoch_in_progress, searches_learning_rate
from ida_lightning.mixing import MixedBatch
from ida_lightning.modules.asking import AskedTeacher, AsksTeacher, looks_at_plain, unknown_rows
from ida_lightning.modules.options import Teacher, TeacherOutputs
from ida_lightning.modules.row_means import MeasuringCallback, RowMeans
from ida_lightning.modules.teacher import FrozenTeacher
from ida_lightning.modules.teachers import FrozenTeachers
from ida_lightning.teacher_outputs import Answers, Encoding, OutputStore, Place

_VALIDATION = "validation.json"


class TeacherAnswers(MeasuringCallback):
    """Answers the batches of a fit in the place of the teachers, each of which has a folder of its own.

    A callback, so that what is open is closed however a fit ends. Copies of a module share it. Of each of several
    teachers it logs ``train/<name>/violation_rate`` and, where trust decides, ``train/<name>/trust``.

    Args:
        teacher: that is asked, or several.
        options: where answers are stored, what the teacher looks at, and how several answer as one; no outputs ask the
            teacher about everything.
        temperature: of the soft labels.

    Attributes:
        options: where answers are stored; None asks the teacher about everything.
        asked: the teachers.
        names: of several teachers, which name their folders and what is logged of them.
        of_members: validation accuracy and NLL of every one of several teachers, once known.
    """

    def __init__(self, teacher: FrozenTeacher | FrozenTeachers, options: Teacher, temperature: float) -> None:
        self.teacher = teacher
        self.options: TeacherOutputs | None = options.outputs
        self.view = options.view
        self.temperature = temperature
        self.asked = [AskedTeacher(member, options.view, temperature) for member in teacher.members]
        self.names = options.names()
        self._means = RowMeans()
        self.of_members: dict[str, tuple[float, float]] = {}
        self._run: L.Trainer | None = None

    @property
    def live(self) -> int:
        """Batches of the present fit that a teacher itself has answered."""
        return max(asked.live for asked in self.asked)

    @property
    def replayed(self) -> int:
        """Batches of the present fit that stored answers alone have answered."""
        return min(0 if store is None else store.recorded.read for store in self._stores)

    @property
    def store(self) -> OutputStore | None:
        """The folder of the present fit, the first of those of several teachers; None without."""
        return self._stores[0]

    @property
    def _stores(self) -> list[OutputStore | None]:
        return [asked.store for asked in self.asked]

    def folders(self, options: TeacherOutputs) -> list[str]:
        """Return the folder of every teacher: that of the options, or those below it for a list of teachers."""
        if isinstance(self.teacher, FrozenTeacher):
            return [options.folder]
        return [str(Path(options.folder, name)) for name in self.names]

    def open(self, trainer: L.Trainer | None, channels_last: bool = False, chosen: bool = False) -> None:
        """Build the teacher where it is needed, and check that what is stored is of this teacher and these pictures.

        Args:
            trainer: of the fit.
            channels_last: the layout of the teacher.
            chosen: not a wish; stored answers go on in theirs.

        Raises:
            InputError: for a folder of others, data whose pictures are not the same in every run, data that do not know
                their unmixed images where the teacher looks at those, and see :meth:`FrozenTeacher.prepare`.
        """
        self.close()
        for asked in self.asked:
            asked.live, asked.store = 0, None
        self._run = trainer
        facts, options = facts_of(trainer), self.options
        replays = options is not None and options.mode == "replay"
        for asked, folder in zip(self.asked, self.folders(options) if options else self.asked, strict=True):
            asked.lay_out(channels_last, folder if chosen and isinstance(folder, str) else None)
        if not replays or _asks_teacher(trainer):
            example = None if trainer is None else facts.example
            self.teacher.prepare(facts.class_names, facts.image_input, example, facts.vocabulary)
        if trainer is None:
            return
        data: Any = attached_datamodule(trainer)
        kind, whose = "loaders" if data is None else type(data).__name__, "expected a MixingDataModule, whose"
        if looks_at_plain(self.view):
            if facts.keeps_plain is None:
                raise InputError(f"teacher_view: {whose} batches know the unmixed images, got {kind}")
            data.keeps_plain = True
        if options is None:
            return
        if facts.pictures is None or data is None:
            raise InputError(f"teacher_outputs: {whose} pictures are the same in every run, got {kind}")
        pictures = facts.pictures()
        for asked, folder in zip(self.asked, self.folders(options), strict=True):
            if not replays:
                writable_folder("teacher_outputs.folder", folder)
            said = asked.facts(pictures, str(trainer.precision), trainer.world_size, options)
            asked.open(folder, options, trainer.global_rank, said)
        data.cycle = options.cycle  # facts.pictures says that it is one of ours

    def reader(self, pictures: Callable[[], Mapping[str, Any]], precision: str) -> OutputStore | None:
        """Open exact answers for whoever looks at the first epoch of one process; None if none fit, which is logged.

        Args:
            pictures: asked what the data module says of them.
            precision: of the Trainer.
        """
        options = self.options
        if options is None or options.encoding(1.0) != Encoding():
            return None
        if self.view != "mixed" or not isinstance(self.teacher, FrozenTeacher):
            rank_zero_info("the teacher is asked itself: stored are answers to other images, or of several teachers")
            return None
        (asked,) = self.asked
        try:
            return asked.reader(options.folder, asked.facts(pictures(), precision, 1, options))
        except InputError as error:
            rank_zero_info(f"the teacher is asked itself: {error}")
            return None

    def __call__(self, batch: MixedBatch, batch_idx: int | None = None) -> Answers:
        """Return the logits of a batch.

        Args:
            batch: that the student will see.
            batch_idx: number of a training batch in its epoch, whose answers may be stored; None asks the teacher.

        Raises:
            InputError: see :class:`AskedTeacher`.
        """
        place, options = None, self.options
        if batch_idx is not None:
            place = self._place(batch_idx)
            for asked in self.asked if place is None else ():
                asked.live += 1
        mode = "auto" if options is None else options.mode
        answers = [asked(batch, place, mode) for asked in self.asked]
        if isinstance(self.teacher, FrozenTeacher):
            return answers[0]
        logits = [answer.logits for answer in answers]
        blended, trust = self.teacher.blend(logits, batch.label_mix)
        if batch_idx is not None:
            self._means.add(self.teacher.rows_of_each(logits, trust, batch.label_mix))
        partly = any(answer.kept_from is not None for answer in answers)
        return Answers(blended, unknown_rows(blended) if partly else None)

    @property
    def means_key(self) -> str:
        """Where a checkpoint has the sums."""
        return "teachers_means"

    def _place(self, batch_idx: int) -> Place | None:
        """Return where the answers to a training batch are stored, if they are."""
        trainer = self._run
        if self.store is None or trainer is None or self.options is None or searches_learning_rate(trainer):
            return None
        return Place(self._epoch(trainer), batch_idx, int(trainer.num_training_batches))

    def holds_epoch(self, trainer: L.Trainer, batch: MixedBatch) -> bool:
        """Say whether the answers to the epoch in progress are there already.

        Args:
            trainer: that runs it.
            batch: the first of it.
        """
        shown = batch.plain[0].batch if looks_at_plain(self.view) and batch.plain else batch
        place = self._epoch(trainer), int(trainer.num_training_batches), len(shown.index)
        return all(store is not None and store.holds(*place) for store in self._stores)

    def keep_validation(self, accuracy: float, nll: float) -> None:
        """Store the teacher's figures, for runs where it is not there; called on one process."""
        if self.options is not None and self.options.mode != "replay" and self.store is not None:
            several = {} if isinstance(self.teacher, FrozenTeacher) else {"members": self.names}
            figures = {"accuracy": accuracy, "nll": nll, **several, "of_members": self.of_members}
            with replacing(Path(self.options.folder) / _VALIDATION) as unfinished:
                unfinished.write_text(json.dumps(figures) + "\n")

    def kept_validation(self) -> tuple[float, float] | None:
        """Return the figures that were stored, None if there are none of these teachers."""
        if self.options is None or self.store is None:
            return None
        try:
            kept = json.loads((Path(self.options.folder) / _VALIDATION).read_bytes())
            if not isinstance(self.teacher, FrozenTeacher):
                if kept["members"] != self.names:
                    return None
                self.of_members = {name: (float(acc), float(nll)) for name, (acc, nll) in kept["of_members"].items()}
            return float(kept["accuracy"]), float(kept["nll"])
        except (OSError, ValueError, LookupError, TypeError):
            return None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say how much will be stored.

        Raises:
            InputError: if there is no room for it.
        """
        facts, options = facts_of(trainer), self.options
        stores = [store for store in self._stores if store is not None]
        if stores and math.isinf(trainer.num_training_batches):
            raise InputError(
                "teacher_outputs: expected data of which it is known how many batches an epoch has, got a stream; give "
                "data.train.images"
            )
        if not stores or options is None or options.mode == "replay" or not facts.batch_size:
            return
        rows = facts.batch_size * (1 if looks_at_plain(self.view) else 1 + (facts.pool or 0))
        epochs = min(n for n in (trainer.max_epochs, options.cycle, 1 << 30) if n and n > 0)
        batches = int(trainer.num_training_batches) * trainer.world_size
        stored = sum(file.stat().st_size for store in stores for file in store.folder.glob("epoch_*.npy*"))
        needed, free = sum(s.bytes_per_batch(rows) for s in stores) * batches * epochs, stores[0].free_bytes()
        many = f"{epochs} epochs x {batches} batches x {rows} rows: {needed / 1e6:,.0f} MB in {options.folder}"
        rank_zero_info(f"teacher_outputs: {many}, {stored / 1e6:,.0f} MB are there, {free / 1e6:,.0f} MB are free")
        if epochs < 1 << 30 and needed > stored + free:
            raise InputError(
                f"teacher_outputs.folder: expected room for {many}, got {free / 1e6:,.0f} MB; precision: half or a "
                "top_k takes less"
            )

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        """Check what was read, where waiting for an accelerator costs little."""
        if trainer.is_last_batch:
            for store in filter(None, self._stores):
                store.check()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the means over the epoch's rows, and finish its files."""
        super().on_train_epoch_end(trainer, pl_module)
        for store in filter(None, self._stores):
            store.finish_epoch()

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Put what killed processes have left in order, and close what is open."""
        if self.options is not None and self.options.mode != "replay":
            for store in filter(None, self._stores):
                store.finish()
        self.close()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Close what a fit that crashed or was interrupted has open; the batches that were stored are whole."""
        self.close()

    def close(self) -> None:
        """Close the stores, and let the data module's batches be again what they were: the next fit may be another."""
        for store in filter(None, self._stores):
            store.close()
        data: Any = None if self._run is None else attached_datamodule(self._run)
        if facts_from(data).pictures is not None:
            data.cycle, data.keeps_plain = None, False

    def _epoch(self, trainer: L.Trainer) -> int:
        epoch, cycle = epoch_in_progress(trainer), self.options and self.options.cycle
        return epoch % cycle if cycle else epoch

    def __deepcopy__(self, memo: dict[int, Any]) -> TeacherAnswers:
        """Return itself: copies of a module share the teacher and what it said."""
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what belongs to a running fit."""
        asked = [copy(one) for one in self.asked]
        for one in asked:
            one.store = None
        return {**vars(self), "asked": asked, "_means": RowMeans(), "_run": None}


def _asks_teacher(trainer: L.Trainer | None) -> bool:
    """Say whether a callback needs the teacher itself."""
    callbacks = [] if trainer is None else trainer.callbacks  # type: ignore[attr-defined]
    return any(isinstance(callback, AsksTeacher) and callback.needs_teacher for callback in callbacks)
