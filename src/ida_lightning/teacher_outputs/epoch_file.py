"""One epoch's answers of one process: an array file of NumPy whose records are batches."""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

_MARK = [("done", "u1"), ("checksum", "<u4")]


class EpochFile:
    """Reads and writes records by batch number; a record that was not written to its end is not there.

    The file is a ``.npy`` file, so it holds no code and ``numpy.load(path, mmap_mode="r")`` maps it. While it grows it
    has the name ``<name>.part``; what a killed process has written of it stays, and the next one goes on.

    Args:
        path: of the finished file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._part = path.with_name(f"{path.name}.part")
        self._file: IO[bytes] | None = None
        self._writes = False
        self._dtype: np.dtype[Any] | None = None
        self._start = self._batches = 0

    def read(self, batch: int, fields: list[tuple[Any, ...]]) -> np.void | None:
        """Return the record of a batch, None if it is not there, not whole, or of other fields."""
        if self._file is None:
            self._open("rb")
        return self._read(batch) if self._dtype == np.dtype([*_MARK, *fields]) else None

    def write(self, batch: int, fields: list[tuple[Any, ...]], content: Mapping[str, Any], batches: int) -> None:
        """Write the record of a batch, through to the operating system.

        Args:
            batch: its number in the epoch.
            fields: name, type and shape of what the record holds.
            content: the values.
            batches: of the whole epoch.

        Raises:
            OSError: if there is no room; the records that were whole stay so.
        """
        dtype = np.dtype([*_MARK, *fields])
        if not self._writes:
            self._begin_to_write(dtype, max(batches, batch + 1))
        record = np.zeros((), dtype)
        for name, value in content.items():
            record[name] = value
        record["done"], record["checksum"] = 1, _checksum(record)
        assert self._file is not None
        self._file.seek(self._start + batch * dtype.itemsize)
        self._file.write(record.tobytes())
        self._file.flush()

    def holds(self, batches: int, fields: list[tuple[Any, ...]]) -> bool:
        """Say whether all records of an epoch are there."""
        return all(self.read(batch, fields) is not None for batch in range(batches))

    def finish(self) -> None:
        """Give a file that was written its name, when it is on the disk."""
        if self._file is not None and self._writes:
            os.fsync(self._file.fileno())
            os.replace(self._part, self.path)
        self.close()

    def name_if_whole(self) -> None:
        """Give a part that a killed process has left its name, if all its records are there."""
        if self._part.is_file():
            self._open("rb")
            if self._file is not None and all(self._read(batch) is not None for batch in range(self._batches)):
                self._writes = True
                self.finish()
            self.close()

    def close(self) -> None:
        """Close the file; what was written of it stays."""
        if self._file is not None:
            self._file.close()
        self._file, self._dtype, self._writes = None, None, False

    def _read(self, batch: int) -> np.void | None:
        if self._file is None or self._dtype is None or batch >= self._batches:
            return None
        self._file.seek(self._start + batch * self._dtype.itemsize)
        record = np.frombuffer(self._file.read(self._dtype.itemsize).ljust(self._dtype.itemsize, b"\0"), self._dtype)[0]
        return record if record["done"] == 1 and record["checksum"] == _checksum(record) else None

    def __del__(self) -> None:
        self.close()

    def _open(self, mode: str) -> None:
        for path in (self._part, self.path):  # a part that is there is the newer one
            if path.is_file():
                file = path.open(mode)
                try:
                    npy.read_magic(file)
                    (self._batches,), _, self._dtype = npy.read_array_header_1_0(file)
                except (ValueError, OSError):  # no such file, or not all of its header
                    file.close()
                    continue
                self._file, self._start = file, file.tell()
                return

    def _begin_to_write(self, dtype: np.dtype[Any], batches: int) -> None:
        """Open the part for writing, with what there is of the epoch in it."""
        self.close()
        self._open("rb")
        kept = b""
        fits = self._file is not None and self._dtype == dtype
        if self._file is not None:
            grows = fits and self._batches < batches
            if grows:
                kept = self._file.read()
            self.close()
            fits = fits and not grows
        if not fits:  # there is none, or one of other fields, or one for fewer batches
            unfinished = self._part.with_name(f"{self._part.name}.new")
            npy.open_memmap(unfinished, "w+", dtype, (batches,))
            with unfinished.open("r+b") as file:
                npy.read_magic(file)
                npy.read_array_header_1_0(file)
                file.write(kept)
            os.replace(unfinished, self._part)
        elif not self._part.is_file():
            os.replace(self.path, self._part)
        self._open("r+b")
        self._writes = True


def _checksum(record: Any) -> int:
    return zlib.crc32(record.tobytes()[np.dtype(_MARK).itemsize :])
