"""Files, and sets of files, that are there whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import socket
import zlib
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ida_lightning.errors import InputError, kind_of
from ida_lightning.remote import fetched, is_address, is_file, on_this_machine, uploading, uploading_set

_SET = ".finished-set"  # a set that is whole and on its way to its place
_NAMES = ".names.json"
_UNWRITABLE = {
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO),
    *(errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG),
}
_in_progress: set[Path] = set()  # of this process


@contextmanager
def replacing(path: str | Path, same_ending: bool = True) -> Iterator[Path]:
    """Write a file beside its place and move it there when it is finished and on the disk.

    Whoever looks at ``path`` sees the older file or the new one, never a part of it; a crash, a full disk or a power
    cut leaves the older one. What writers of this machine that were killed have left in the folder is removed.

    Args:
        path: where the file shall be; missing folders are made. To an address, such as ``s3://bucket/x``, it is
            uploaded when it is finished.
        same_ending: whether the name to write to has the ending of ``path``, which some writers go by. Without it, who
            looks for files of that ending finds no unfinished ones.

    Yields:
        The name to write to.

    Raises:
        InputError: if the file cannot be written.

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
    if is_address(path):
        with uploading(path) as unfinished:
            yield unfinished
        return
    path = Path(on_this_machine("path", str(path)))
    with _named(path), _unfinished(path, "" if same_ending else ".part") as unfinished:
        unfinished.touch()
        mode = unfinished.stat().st_mode
        yield unfinished
        unfinished.chmod(mode)  # as any new file here; safetensors would let only its maker read
        _sync(unfinished)
        os.replace(unfinished, path)
        _sync(path.parent)


@contextmanager
def replacing_set(folder: str | Path, names: Collection[str]) -> Iterator[Path]:
    """Write files that belong together into a folder beside their places, and move them there when all are finished.

    The files in ``folder`` are at any time of one writer: those of the older set go before the first of the new set
    comes. A crash in between leaves a part of one set, and the rest of the new one in a hidden folder, from where the
    next writer moves it. Two writers at once need a lock.

    Args:
        folder: where the files shall be; to an address they are uploaded one after the other when all are finished.
        names: every file that can belong to the set; those that are not written are removed.

    Yields:
        The folder to write to.

    Raises:
        InputError: if the files cannot be written.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> with replacing_set(folder, ["table.csv", "figure.png"]) as unfinished:
        ...     _ = (unfinished / "table.csv").write_text("1")
        >>> [path.name for path in folder.iterdir()]
        ['table.csv']
    """
    if is_address(folder):
        with uploading_set(str(folder), names) as unfinished:
            yield unfinished
        return
    folder = Path(on_this_machine("folder", str(folder)))
    with _named(folder), _unfinished(folder / "set") as unfinished:
        finished = folder / _SET
        if finished.is_dir():
            _move_set(finished, folder, names)
        unfinished.mkdir()
        yield unfinished
        (unfinished / _NAMES).write_text(json.dumps([file.name for file in unfinished.iterdir()]))
        for file in unfinished.iterdir():
            _sync(file)
        _sync(unfinished)
        os.replace(unfinished, finished)
        _sync(folder)
        _move_set(finished, folder, names)


def _move_set(finished: Path, folder: Path, names: Collection[str]) -> None:
    """Move a finished set to its place; also one that a killed process had begun to move."""
    listed = finished / _NAMES
    staged = [file.name for file in finished.iterdir() if file.name != _NAMES]
    new = set(json.loads(listed.read_text())) if listed.is_file() else set(names)
    for name in {*names, *staged}:
        if name in staged or name not in new:  # else it has been moved already
            (folder / name).unlink(missing_ok=True)
    for name in staged:
        os.replace(finished / name, folder / name)
    _sync(folder)
    listed.unlink(missing_ok=True)
    finished.rmdir()


def writable_file(name: str, path: str | Path) -> Path:
    """Return ``path``, where a file must be possible; tried without leaving anything.

    Args:
        name: of the argument that gave the path.
        path: of the file, whose folders need not exist.

    Example:
        >>> writable_file("path", "/dev/null/network.safetensors")
        Traceback (most recent call last):
        ...
        ida_lightning.errors.InputError: path: expected a place to write to, got /dev/null/network.safetensors: /dev/null is no folder
    """  # noqa: E501
    path = Path(on_this_machine(name, str(path)))
    if path.is_dir():
        raise InputError(f"{name}: expected the name of a file, got the folder {path}")
    _try_to_write(name, path, path.parent)
    return path


def writable_folder(name: str, folder: str | Path) -> Path:
    """Return ``folder``, where files must be possible; tried without leaving anything."""
    folder = Path(on_this_machine(name, str(folder)))
    _try_to_write(name, folder, folder)
    return folder


def _try_to_write(name: str, shown: Path, folder: Path) -> None:
    expected = f"{name}: expected a place to write to, got {shown}"
    absolute = folder.absolute()
    try:
        existing = next(path for path in (absolute, *absolute.parents) if path.exists())
        if not existing.is_dir():
            raise InputError(f"{expected}: {existing} is no folder")
        with _unfinished(existing / "probe") as probe, probe.open("wb") as file:
            file.write(bytes(4096))  # a disk without room takes an empty file
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise InputError(f"{expected}: {error.strerror or error}") from error


def digest_of_file(path: str | Path) -> str | None:
    """Return the SHA-256 of a file's bytes; None if there is none."""
    digest = hashlib.sha256()
    if is_address(path) and not is_file(path):
        return None
    try:
        with fetched("path", path).open("rb") as file:
            while part := file.read(1 << 20):
                digest.update(part)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return None
    return digest.hexdigest()


def joint_digest(digests: Iterable[str | None]) -> str | None:
    """Return one SHA-256 for those of several files; None if none of them is there."""
    known = [str(digest) for digest in digests]
    return None if set(known) <= {"None"} else hashlib.sha256(" ".join(known).encode()).hexdigest()


def _host() -> str:
    """Return a short mark of this machine: the number of a process says nothing on another one."""
    return f"{zlib.crc32(socket.gethostname().encode()):08x}"


@contextmanager
def _unfinished(path: Path, ending: str = "") -> Iterator[Path]:
    """Yield the name beside ``path`` under which this process writes, and leave nothing there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    clear_unfinished(path.parent)
    unfinished = path.with_name(f".unfinished-{_host()}-{os.getpid()}-{path.name}{ending}")
    _in_progress.add(unfinished)
    try:
        yield unfinished
    finally:
        _remove(unfinished)
        _in_progress.discard(unfinished)


def clear_unfinished(folder: Path) -> None:
    """Remove what processes of this machine that are no more have left."""
    for file in folder.glob(f".unfinished-{_host()}-*"):
        writer = re.match(r"\.unfinished-[0-9a-f]+-(\d+)-", file.name)
        if writer and file not in _in_progress and not _runs_elsewhere(int(writer[1])):
            with suppress(OSError):
                _remove(file)


def _runs_elsewhere(process: int) -> bool:
    if process == os.getpid():  # in a container a later process may have the number of an earlier one
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on the disk."""
    if path.is_dir() and os.name == "nt":
        return
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Say in one line which file cannot be written."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        cause = error if isinstance(error, OSError) else error.__context__  # torch.save fails once more at the end
        if not isinstance(cause, OSError) or cause.errno not in _UNWRITABLE:
            raise
        raise InputError(
            f"{path}: could not be written ({cause.strerror}); what was there before is as it was"
        ) from error
