"""Locks on what a run writes, so that two runs do not write the same files."""

from __future__ import annotations

import json
import os
import socket
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from ida_lightning.errors import InputError
from ida_lightning.files import replacing, writable_folder
from ida_lightning.remote import on_this_machine


class HeldError(InputError):
    """Another process holds an output."""


class OutputLock:
    """Keeps other processes from writing the same output; ends with the process, however that ends.

    The lock is a hidden file beside the output, ``.lock-<name>``, and who holds it stands in ``.holder-<name>``; both
    are removed when it is released.

    Args:
        name: of the argument that gave the path, for messages.
        path: a file or a folder.

    Attributes:
        taken_from: who held it last and ended without giving it back; None if nobody did.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "network.safetensors"
        >>> with OutputLock("path", path):
        ...     try:
        ...         OutputLock("path", path).acquire()
        ...     except InputError as error:
        ...         print(str(error).partition(", got")[0])
        path: expected an output of one run
    """

    def __init__(self, name: str, path: str | Path) -> None:
        self.name = name
        self.path = Path(on_this_machine(name, str(path)))
        place = self.path.absolute()
        self._file = place.with_name(f".lock-{place.name}")
        self._holder = place.with_name(f".holder-{place.name}")
        self._lock: FileLock | None = None
        self.taken_from: str | None = None

    def acquire(self, seconds: float = 0) -> OutputLock:
        """Take the lock; that of a process that has died is free.

        Args:
            seconds: to wait for another holder; negative waits for ever.

        Raises:
            HeldError: if another process holds it, saying which.
            InputError: if the place cannot be written to.
        """
        writable_folder(self.name, self._file.parent)
        self._file.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock = FileLock(str(self._file))
            lock.acquire(timeout=seconds)
        except Timeout:
            raise HeldError(
                f"{self.name}: expected an output of one run, got {self.path}, which is written by {self._who()}; wait "
                "for it, end it, or name another output"
            ) from None
        self.taken_from = self._who() if self._holder.is_file() else None
        now = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
        with replacing(self._holder) as unfinished:
            unfinished.write_text(json.dumps({"host": socket.gethostname(), "process": os.getpid(), "since": now}))
        self._lock = lock
        return self

    def is_held(self) -> bool:
        """Say whether another process holds the lock just now."""
        if not self._file.is_file():
            return False
        try:
            with FileLock(str(self._file), timeout=0):
                self._file.unlink(missing_ok=True)
                return False
        except Timeout:
            return True

    def release(self) -> None:
        """Give the lock back, if this object holds it."""
        if self._lock is None:
            return
        # Before the release: who has opened the file by then sees that it has no name any more, and makes a new one.
        self._holder.unlink(missing_ok=True)
        self._file.unlink(missing_ok=True)
        self._lock.release()
        self._lock = None

    def _who(self) -> str:
        try:
            holder = json.loads(self._holder.read_text())
            return f"process {holder['process']} on {holder['host']} since {holder['since']}"
        except (OSError, ValueError, LookupError, TypeError):
            return "another process"

    def __enter__(self) -> OutputLock:
        return self.acquire() if self._lock is None else self

    def __exit__(self, *error: object) -> None:
        self.release()
