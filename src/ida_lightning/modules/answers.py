"""The teacher's answers in a fit: from the teacher, or from a folder of stored ones."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import lightning as L
from lightning.pytorch.utilities import rank_zero_info

from ida_lightning.data_facts import facts_from, facts_of
from ida_lightning.errors import InputError
from ida_lightning.files import replacing, writable_folder
from ida_lightning.lightning_internals import attached_datamodule, epoch_in_progress, searches_learning_rate
from ida_lightning.mixing import MixedBatch
from ida_lightning.modules.options import TeacherOutputs
from ida_lightning.modules.teacher import FrozenTeacher
from ida_lightning.teacher_outputs import Answers, Encoding, OutputStore, Place, check_manifest, recorded_fact

_VALIDATION = "validation.json"


@runtime_checkable
class AsksTeacher(Protocol):
    """A callback that may need the teacher itself, not only its logits of the training batches."""

    needs_teacher: bool


class TeacherAnswers(L.Callback):
    """Answers the batches of a fit in the teacher's place, as far as answers are stored, and stores those of the rest.

    A callback, so that what is open is closed however a fit ends. Copies of a module share it.

    Args:
        teacher: that is asked.
        options: where answers are stored; None asks the teacher about everything.
        temperature: of the soft labels.

    Attributes:
        live: batches of the present fit that the teacher itself has answered.
        store: of the present fit.
    """

    def __init__(self, teacher: FrozenTeacher, options: TeacherOutputs | None, temperature: float) -> None:
        self.teacher = teacher
        self.options = options
        self.temperature = temperature
        self.live = 0
        self.store: OutputStore | None = None
        self._run: L.Trainer | None = None

    @property
    def replayed(self) -> int:
        """Batches of the present fit that stored answers have answered."""
        return 0 if self.store is None else self.store.recorded.read

    def open(self, trainer: L.Trainer | None, channels_last: bool = False, chosen: bool = False) -> None:
        """Build the teacher where it is needed, and check that what is stored is of this teacher and these pictures.

        Args:
            trainer: of the fit.
            channels_last: the layout of the teacher.
            chosen: that was no wish but a choice, so that stored answers are gone on with in their own layout.

        Raises:
            InputError: for a folder of others, data whose pictures are not the same in every run, and see
                :meth:`FrozenTeacher.prepare`.
        """
        self.close()
        self.live, self.store, self._run = 0, None, trainer
        facts, options = facts_of(trainer), self.options
        self.teacher.input_shape = facts.input_shape or self.teacher.input_shape
        replays = options is not None and options.mode == "replay"
        if chosen and options is not None:
            recorded = recorded_fact(Path(options.folder), "teacher", "layout", channels_last)
            channels_last = recorded in (True, "channels_last")
        self.teacher.lay_out(channels_last)
        if not replays or _asks_teacher(trainer):
            self.teacher.prepare(facts.class_names, facts.image_input)
        if options is None or trainer is None:
            return
        data = attached_datamodule(trainer)
        if facts.pictures is None or data is None:
            kind = "loaders" if data is None else type(data).__name__
            raise InputError(
                f"teacher_outputs: expected a MixingDataModule, whose pictures are the same in every run, got {kind}"
            )
        folder = writable_folder("teacher_outputs.folder", options.folder) if not replays else options.folder
        encoding = options.encoding(self.temperature)
        self.store = OutputStore(Path(folder), encoding, self.teacher.num_classes, trainer.global_rank)
        said = self._facts(facts.pictures(), str(trainer.precision), trainer.world_size, options)
        stored = check_manifest(self.store.folder, self._known(said), None if replays else said)  # of all processes
        self.teacher.fingerprint = self.teacher.fingerprint or stored["teacher"]["fingerprint"]
        data.cycle = options.cycle  # type: ignore[attr-defined]  # facts.pictures says that it is one of ours

    def reader(self, pictures: Callable[[], Mapping[str, Any]], precision: str) -> OutputStore | None:
        """Open exact answers for whoever looks at the first epoch of one process; None if none fit, which is logged.

        Args:
            pictures: asked what the data module says of them.
            precision: of the Trainer.
        """
        options = self.options
        if options is None or options.encoding(1.0) != Encoding():
            return None
        store = OutputStore(Path(options.folder), Encoding(), self.teacher.num_classes, rank=0)
        try:
            check_manifest(store.folder, self._known(self._facts(pictures(), precision, 1, options)))
        except InputError as error:
            rank_zero_info(f"the teacher is asked itself: {error}")
            return None
        return store

    def _facts(
        self, pictures: Mapping[str, Any], precision: str, processes: int, options: TeacherOutputs
    ) -> dict[str, Any]:
        """Return all that stored answers depend on."""
        temperature = None if options.top_k is None else self.temperature
        return {
            "teacher": self.teacher.facts(precision),
            "pictures": pictures,
            "processes": processes,
            "answers": {"precision": options.precision, "top_k": options.top_k, "temperature": temperature},
        }

    def _known(self, facts: dict[str, Any]) -> dict[str, Any]:
        """Return facts to compare: weights that are known make up for another file with the same ones."""
        known = {"file": None} if self.teacher.network is not None else {}
        return {**facts, "teacher": {**facts["teacher"], **known}}

    def __call__(self, batch: MixedBatch, batch_idx: int) -> Answers:
        """Return the logits of a training batch.

        Raises:
            InputError: in a replay, for a batch whose answers are not there; see :class:`OutputStore`.
        """
        store, trainer, options = self.store, self._run, self.options
        if store is None or trainer is None or options is None or searches_learning_rate(trainer):
            self.live += 1
            return Answers(self.teacher(batch.inputs))
        place = Place(self._epoch(trainer), batch_idx, int(trainer.num_training_batches))
        if options.mode != "record":
            answers = store.read(place, batch)
            if answers is not None:
                return answers
        if options.mode == "replay":
            raise InputError(
                f"teacher_outputs: expected the answers to epoch {place.epoch}, batch {place.batch} of process "
                f"{store.rank} in {store.folder}, found none that is whole; mode: auto records what is missing, as "
                "ida-lightning teach does"
            )
        self.live += 1
        return store.write(place, batch, self.teacher(batch.inputs))

    def holds_epoch(self, trainer: L.Trainer, rows: int) -> bool:
        """Say whether the answers to the epoch in progress are there already."""
        return self.store is not None and self.store.holds(
            self._epoch(trainer), int(trainer.num_training_batches), rows
        )

    def keep_validation(self, accuracy: float, nll: float) -> None:
        """Store the teacher's figures, for runs where it is not there; called on one process."""
        if self.store is not None and self.options is not None and self.options.mode != "replay":
            with replacing(self.store.folder / _VALIDATION) as unfinished:
                unfinished.write_text(json.dumps({"accuracy": accuracy, "nll": nll}) + "\n")

    def kept_validation(self) -> tuple[float, float] | None:
        """Return the figures that were stored, None if there are none."""
        if self.store is None:
            return None
        try:
            kept = json.loads((self.store.folder / _VALIDATION).read_bytes())
            return float(kept["accuracy"]), float(kept["nll"])
        except (OSError, ValueError, LookupError, TypeError):
            return None

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say how much will be stored.

        Raises:
            InputError: if there is no room for it.
        """
        facts, options = facts_of(trainer), self.options
        if self.store is None or options is None or options.mode == "replay" or not facts.batch_size:
            return
        rows = facts.batch_size * (1 + (facts.pool or 0))
        epochs = min(n for n in (trainer.max_epochs, options.cycle, 1 << 30) if n and n > 0)
        batches = int(trainer.num_training_batches) * trainer.world_size
        stored = sum(file.stat().st_size for file in self.store.folder.glob("epoch_*.npy*"))
        needed, free = self.store.bytes_per_batch(rows) * batches * epochs, self.store.free_bytes()
        many = f"{epochs} epochs x {batches} batches x {rows} rows: {needed / 1e6:,.0f} MB in {self.store.folder}"
        rank_zero_info(f"teacher_outputs: {many}, {stored / 1e6:,.0f} MB are there, {free / 1e6:,.0f} MB are free")
        if epochs < 1 << 30 and needed > stored + free:
            raise InputError(
                f"teacher_outputs.folder: expected room for {many}, got {free / 1e6:,.0f} MB; precision: half or a "
                "top_k takes less"
            )

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        """Check what was read, where waiting for an accelerator costs little."""
        if self.store is not None and trainer.is_last_batch:
            self.store.check()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Finish the epoch's file."""
        if self.store is not None:
            self.store.finish_epoch()

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Put what killed processes have left in order, and close what is open."""
        if self.store is not None and self.options is not None and self.options.mode != "replay":
            self.store.finish()
        self.close()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Close what a fit that crashed or was interrupted has open; the batches that were stored are whole."""
        self.close()

    def close(self) -> None:
        """Close the store, and let the data module's pictures come once again: the next fit may store nothing."""
        if self.store is not None:
            self.store.close()
        data = None if self._run is None else attached_datamodule(self._run)
        if facts_from(data).pictures is not None:
            data.cycle = None  # type: ignore[union-attr]

    def _epoch(self, trainer: L.Trainer) -> int:
        epoch, cycle = epoch_in_progress(trainer), self.options and self.options.cycle
        return epoch % cycle if cycle else epoch

    def __deepcopy__(self, memo: dict[int, Any]) -> TeacherAnswers:
        """Return itself: copies of a module share the teacher and what it said."""
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what belongs to a running fit."""
        return {**vars(self), "store": None, "_run": None}


def _asks_teacher(trainer: L.Trainer | None) -> bool:
    """Say whether a callback needs the teacher itself."""
    callbacks = [] if trainer is None else trainer.callbacks  # type: ignore[attr-defined]
    return any(isinstance(callback, AsksTeacher) and callback.needs_teacher for callback in callbacks)
