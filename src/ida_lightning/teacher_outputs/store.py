"""A folder of stored answers, as one process of a fit reads and writes it."""

from __future__ import annotations

import shutil
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ida_lightning.errors import InputError
from ida_lightning.inputs import Inputs, tensors_in
from ida_lightning.locks import OutputLock
from ida_lightning.mixing import MixedBatch
from ida_lightning.teacher_outputs.encoding import Answers, Encoding
from ida_lightning.teacher_outputs.epoch_file import EpochFile

_EXACT = {torch.float32: "<f4", torch.float64: "<f8"}


class Place(NamedTuple):
    """Where in a fit a batch comes.

    Attributes:
        epoch: its number.
        batch: its number in the epoch, for this process.
        batches: how many the epoch has.
    """

    epoch: int
    batch: int
    batches: int


class Recorded(NamedTuple):
    """How many batches of a fit a store has answered, and how many it has recorded."""

    read: int = 0
    written: int = 0


class OutputStore:
    """Reads the answers to a batch, or writes them, and makes sure that they are answers to exactly these images.

    A folder has one file for every epoch and process, ``epoch_0003-rank_0.npy``. With every batch the positions of its
    images in the data set are stored, and with the first of an epoch a checksum of what it shows; both are compared.

    Args:
        folder: of the answers.
        encoding: how they are stored.
        classes: of the logits.
        rank: of this process.

    Attributes:
        recorded: batches read and written so far.
    """

    def __init__(self, folder: Path, encoding: Encoding, classes: int, rank: int) -> None:
        self.folder = folder
        self.encoding = encoding
        self.classes = classes
        self.rank = rank
        self.recorded = Recorded()
        self._lock = OutputLock("teacher_outputs", folder / f"rank_{rank}")
        self._locked = False
        self._epoch: int | None = None
        self._file: EpochFile | None = None
        self._differs: Tensor | None = None

    def read(self, place: Place, batch: MixedBatch) -> Answers | None:
        """Return the stored answers to a batch, on its device; None if there are none.

        Raises:
            InputError: if the answers are to other images; on an accelerator :meth:`check` reports it.
        """
        file, rows = self._file_of(place.epoch), len(batch.index)
        for exact in _EXACT.values():
            record = file.read(place.batch, self._fields(rows, exact))
            if record is not None:
                break
        else:
            return None
        self._compare(place, batch, record)
        answers = self.encoding.decode(record, rows, self.classes, batch.label_mix)
        self.recorded = self.recorded._replace(read=self.recorded.read + 1)
        return answers.to(batch.index.device)

    def write(self, place: Place, batch: MixedBatch, logits: Tensor) -> Answers:
        """Store the answers to a batch; returns them as :meth:`read` will.

        Raises:
            InputError: if another process records into this folder, or there is no room.
        """
        file, rows = self._file_of(place.epoch), len(batch.index)
        content = {
            **self.encoding.encode(logits, batch.label_mix),
            "index": batch.index.cpu().numpy(),
            "pixels": _checksum(batch.inputs) if place.batch == 0 else 0,
        }
        try:
            self._take_lock()
            file.write(place.batch, self._fields(rows, _EXACT[logits.dtype]), content, place.batches)
        except OSError as error:
            raise InputError(
                f"teacher_outputs: the answers to epoch {place.epoch}, batch {place.batch} could not be written to "
                f"{file.path} ({error.strerror}); those before are whole, and mode: auto goes on with them"
            ) from error
        self.recorded = self.recorded._replace(written=self.recorded.written + 1)
        if self.encoding == Encoding():
            return Answers(logits)
        return self.encoding.decode(content, rows, self.classes, batch.label_mix).to(logits.device)

    def holds(self, epoch: int, batches: int, rows: int) -> bool:
        """Say whether the answers to a whole epoch are there."""
        file = self._file_of(epoch)
        return any(file.holds(batches, self._fields(rows, exact)) for exact in _EXACT.values())

    def bytes_per_batch(self, rows: int) -> int:
        """Return what the record of a batch takes on the disk."""
        return np.dtype(self._fields(rows, _EXACT[torch.float32])).itemsize

    def free_bytes(self) -> int:
        """Return the room on the disk of the folder."""
        existing = next(path for path in (self.folder, *self.folder.absolute().parents) if path.exists())
        return shutil.disk_usage(existing).free

    def check(self) -> None:
        """Report answers to other images that were read since the last check; waits for an accelerator.

        Raises:
            InputError: for such answers.
        """
        if self._differs is not None and bool(self._differs):
            raise InputError(self._other_images("an epoch"))
        self._differs = None

    def finish_epoch(self) -> None:
        """Give the file of an epoch that was recorded its name."""
        self.check()
        if self._file is not None:
            self._file.finish()

    def finish(self) -> None:
        """Put what killed processes have left in order, unless another one is recording."""
        with suppress(InputError):
            self._take_lock()
            for part in self.folder.glob(f"epoch_*-rank_{self.rank}.npy.part"):
                EpochFile(part.with_suffix("")).name_if_whole()

    def close(self) -> None:
        """Close what is open and let others record."""
        if self._file is not None:
            self._file.close()
        self._file = self._epoch = None
        self._lock.release()
        self._locked = False

    def _take_lock(self) -> None:
        if not self._locked:
            self._lock.acquire()
            self._locked = True

    def _fields(self, rows: int, exact: str) -> list[tuple[Any, ...]]:
        return [("pixels", "<u4"), ("index", "<i8", (rows,)), *self.encoding.fields(rows, self.classes, exact)]

    def _file_of(self, epoch: int) -> EpochFile:
        if self._file is None or self._epoch != epoch:
            if self._file is not None:
                self._file.close()
            self._file = EpochFile(self.folder / f"epoch_{epoch:04d}-rank_{self.rank}.npy")
            self._epoch = epoch
        return self._file

    def _compare(self, place: Place, batch: MixedBatch, record: Any) -> None:
        index = torch.from_numpy(np.array(record["index"]))
        where = f"epoch {place.epoch}, batch {place.batch}"
        if batch.index.device.type == "cpu":
            if not torch.equal(index, batch.index):
                raise InputError(self._other_images(where))
        else:
            differs = (index.to(batch.index.device, non_blocking=True) != batch.index).any()
            self._differs = differs if self._differs is None else self._differs | differs
        if place.batch == 0 and record["pixels"] != _checksum(batch.inputs):
            raise InputError(self._other_images(where))

    def _other_images(self, where: str) -> str:
        return (
            f"teacher_outputs: expected the images of {where} that {self.folder} was recorded with, got others; data, "
            "order or draws are not the same"
        )


def _checksum(inputs: Inputs) -> int:
    checksum = 0
    for tensor in tensors_in(inputs):
        checksum = zlib.crc32(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data, checksum)
    return checksum
