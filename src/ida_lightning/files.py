"""Files that are there whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ida_lightning.errors import InputError, kind_of


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Write a file beside its place and move it there when it is finished.

    Whoever looks at ``path`` sees the older file or the new one, never a part of it; a crash leaves the older one.

    Args:
        path: where the file shall be; missing folders are made.

    Yields:
        The name to write to, with the same ending.

    Example:
        >>> import tempfile
        >>> note = Path(tempfile.mkdtemp()) / "notes" / "today.txt"
        >>> with replacing(note) as unfinished:
        ...     _ = unfinished.write_text("done")
        >>> note.read_text()
        'done'
    """
    if not isinstance(path, (str, Path)):
        raise InputError(f"path: expected a path, got {kind_of(path)}")
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".unfinished-{os.getpid()}-{path.name}")
    try:
        unfinished.touch()
        mode = unfinished.stat().st_mode
        yield unfinished
        unfinished.chmod(mode)  # as any new file here; safetensors would let only its maker read
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
