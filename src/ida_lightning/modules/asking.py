"""One teacher as a fit asks it: about the pictures that it looks at, itself or the folder of what it said."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from ida_lightning.blending import blend_plain
from ida_lightning.errors import InputError
from ida_lightning.inputs import Inputs, as_pictures
from ida_lightning.mixing import MixedBatch
from ida_lightning.modules.options import TeacherOutputs, View
from ida_lightning.modules.teacher import FrozenTeacher
from ida_lightning.teacher_outputs import Answers, Encoding, OutputStore, Place, check_manifest, recorded_fact

_PLAIN: tuple[View, ...] = ("plain", "plain_logits")
_OF_MIXING = ("mixing", "pool", "inner_layers")  # which unmixed images know nothing of


@runtime_checkable
class AsksTeacher(Protocol):
    """A callback that may need the teacher itself, not only its logits of the training batches."""

    needs_teacher: bool


def looks_at_plain(view: View) -> bool:
    """Say whether a teacher looks at the unmixed images."""
    return view in _PLAIN


class AskedTeacher:
    """Answers the batches of a fit in a teacher's place, as far as answers are stored, and stores those of the rest.

    What is stored are answers to the pictures that the teacher looks at. Those of unmixed images know neither how they
    are mixed nor the temperature, so one recording serves every way of mixing.

    Args:
        teacher: that is asked.
        view: what it looks at; see :class:`~ida_lightning.modules.options.Teacher`.
        temperature: of the soft labels.

    Attributes:
        live: training batches of the present fit that the teacher itself has answered.
        store: of the present fit.
    """

    def __init__(self, teacher: FrozenTeacher, view: View, temperature: float) -> None:
        self.teacher = teacher
        self.view: View = view
        self.temperature = temperature
        self.live = 0
        self.store: OutputStore | None = None

    def lay_out(self, channels_last: bool, folder: str | None) -> None:
        """Tell the teacher how to lie in memory.

        Args:
            channels_last: what was asked for or chosen.
            folder: whose answers are gone on with in their own layout, if there are some; None takes what was chosen.
        """
        if folder is not None:
            recorded = recorded_fact(Path(folder), "teacher", "layout", channels_last)
            channels_last = recorded in (True, "channels_last")
        self.teacher.lay_out(channels_last)

    def open(self, folder: str, options: TeacherOutputs, rank: int, said: Mapping[str, Any]) -> None:
        """Check that what is stored is of this teacher and these pictures, and open it.

        Args:
            folder: of its answers.
            options: how they are stored.
            rank: of this process.
            said: what :meth:`facts` returned.

        Raises:
            InputError: for a folder of others.
        """
        replays = options.mode == "replay"
        self.store = OutputStore(Path(folder), options.encoding(self.temperature), self.teacher.num_classes, rank)
        stored = check_manifest(self.store.folder, self._known(said), None if replays else said)  # of all processes
        self.teacher.fingerprint = self.teacher.fingerprint or stored["teacher"]["fingerprint"]

    def reader(self, folder: str, said: Mapping[str, Any]) -> OutputStore:
        """Open exact answers for whoever looks at the first epoch of one process.

        Raises:
            InputError: for a folder of others.
        """
        store = OutputStore(Path(folder), Encoding(), self.teacher.num_classes, rank=0)
        check_manifest(store.folder, self._known(said))
        return store

    def facts(
        self, pictures: Mapping[str, Any], precision: str, processes: int, options: TeacherOutputs
    ) -> dict[str, Any]:
        """Return all that stored answers depend on."""
        temperature = None if options.top_k is None else self.temperature
        view: dict[str, str] = {}
        if looks_at_plain(self.view):
            view = {"view": "plain"}
            pictures = {key: value for key, value in pictures.items() if key not in _OF_MIXING}
        elif self.view != "mixed":
            view = {"view": self.view}
        return {
            "teacher": self.teacher.facts(precision),
            "pictures": pictures,
            "processes": processes,
            "answers": {"precision": options.precision, "top_k": options.top_k, "temperature": temperature, **view},
        }

    def _known(self, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Return facts to compare: weights that are known make up for another file with the same ones."""
        known = {"file": None} if self.teacher.network is not None else {}
        return {**facts, "teacher": {**facts["teacher"], **known}}

    def __call__(self, batch: MixedBatch, place: Place | None = None, mode: str = "auto") -> Answers:
        """Return the logits of a batch.

        Args:
            batch: that the student will see.
            place: of a training batch whose answers may be stored; None asks the teacher.
            mode: see :class:`~ida_lightning.modules.options.TeacherOutputs`.

        Raises:
            InputError: in a replay, for a batch whose answers are not there; for a view of the unmixed images, for a
                batch that does not have them; see :class:`OutputStore`.
        """
        if not looks_at_plain(self.view):
            return self._asked(batch, place, mode)
        if not batch.plain:
            raise InputError(
                "teacher_view: expected batches of a MixingDataModule, which know the unmixed images, got one without"
            )
        answers = self._asked(batch.plain[0].batch, place, mode)
        average = "logits" if self.view == "plain_logits" else "probabilities"
        logits = blend_plain(answers.logits, batch.plain[0], self.temperature, average)  # type: ignore[arg-type]
        return Answers(logits, None if answers.kept_from is None else unknown_rows(logits))

    def _asked(self, batch: MixedBatch, place: Place | None, mode: str) -> Answers:
        store = self.store
        if place is None or store is None:
            return Answers(self.look(batch.inputs))
        answers = None if mode == "record" else store.read(place, batch)
        everywhere = self.teacher.agreed(answers is not None) if mode == "auto" else answers is not None
        if answers is not None and everywhere:
            return answers
        if mode == "replay":
            raise InputError(
                f"teacher_outputs: expected the answers to epoch {place.epoch}, batch {place.batch} of process "
                f"{store.rank} in {store.folder}, found none that is whole; mode: auto records what is missing, as "
                "ida-lightning teach does"
            )
        logits = self.look(batch.inputs)
        if answers is not None:  # asked because another process has none, and holds a share of the teacher
            return answers
        self.live += 1
        return store.write(place, batch, logits)

    def look(self, inputs: Inputs) -> Tensor:
        """Return the teacher's logits of inputs; of pictures their mirror images too where it looks at those."""
        if self.view != "mirrored":
            return self.teacher(inputs)
        return (self.teacher(inputs) + self.teacher(as_pictures("teacher_view: mirrored", inputs).flip(-1))) / 2


def unknown_rows(logits: Tensor) -> Tensor:
    """Return ``kept_from`` of rows where a repair may differ from that of whole answers."""
    return torch.full_like(logits[:, 0], torch.inf)
