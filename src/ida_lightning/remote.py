"""Files at an address, such as ``s3://bucket/x``, by fsspec: read by a copy on this machine, written as a whole."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import Any

import fsspec  # type: ignore[import-untyped]

from ida_lightning.errors import InputError

# One letter before the colon is a drive. Of an address in a Path one of the slashes is left.
_ADDRESS = re.compile(r"[A-Za-z][\w+.-]+(::[\w+.-]+)*:/")
_FILE = re.compile(r"(file|local):/")


def is_address(path: object) -> bool:
    """Say whether a path is of a file elsewhere; ``file://`` is here.

    Example:
        >>> is_address("s3://bucket/x.ckpt"), is_address("outputs/x.ckpt"), is_address("file:///x.ckpt")
        (True, False, False)
    """
    text = str(path)
    return _ADDRESS.match(text) is not None and _FILE.match(text) is None


def on_this_machine(name: str, path: str) -> str:
    """Return a path without ``file://``, where nothing but a path on this machine will do.

    Example:
        >>> on_this_machine("root", "file:///data/photos")
        '/data/photos'
        >>> on_this_machine("root", "s3://bucket/photos")
        Traceback (most recent call last):
        ...
        ida_lightning.errors.InputError: root: expected a path on this machine, got s3://bucket/photos; copy it here, or mount it
    """  # noqa: E501
    if is_address(path):
        raise InputError(f"{name}: expected a path on this machine, got {path}; copy it here, or mount it")
    return re.sub(r"^(file|local):/+", "/", path)


def checked_address(name: str, path: str) -> str:
    """Return an address that fsspec knows, tried without asking whoever is there.

    Raises:
        InputError: for a protocol that nobody knows, one whose package is not installed, and an address that was a
            ``Path``.
    """
    if "://" not in path:
        raise InputError(f"{name}: expected an address as text, got {path} from a Path, which drops one of its slashes")
    with _reached(name, path):
        fsspec.core.url_to_fs(path)
    return path


def is_file(path: str | Path, name: str = "path") -> bool:
    """Say whether there is a file, here or at an address that the argument of a name gave."""
    if not is_address(path):
        return Path(path).is_file()
    with _reached(name, path) as (files, place):
        return bool(files.isfile(place))


def fetched(name: str, path: str | Path) -> Path:
    """Return where a file can be read: the path itself, or that of a copy that this process keeps until it ends.

    Args:
        name: of the argument that gave the path.
        path: of a file on this machine, or its address. What was replaced there is copied again.

    Raises:
        InputError: if there is none at the address, or it cannot be read.

    Example:
        >>> import fsspec
        >>> with fsspec.open("memory://notes/today.txt", "w") as file:
        ...     _ = file.write("done")
        >>> fetched("path", "memory://notes/today.txt").read_text()
        'done'
    """
    if not is_address(path):
        return Path(path)
    with _reached(name, path) as (files, place):
        if not files.isfile(place):
            raise InputError(f"{name}: expected a file, found nothing at {path}")
        version = hashlib.sha256(f"{path} {files.ukey(place)}".encode()).hexdigest()[:16]
        copy = Path(_copies().name, version, PurePosixPath(place).name)
        if not copy.is_file():
            unfinished = copy.with_name(f"{copy.name}.{os.getpid()}")
            copy.parent.mkdir(exist_ok=True)
            files.get_file(place, str(unfinished))
            unfinished.replace(copy)
    return copy


@contextmanager
def uploading(path: str | Path) -> Iterator[Path]:
    """Yield a file of this machine to write to, which is uploaded as a whole when the block ends without an error.

    An object store shows the older object until the new one is there; other file systems may show a part meanwhile.

    Raises:
        InputError: if it cannot be uploaded.
    """
    with TemporaryDirectory(prefix="ida-lightning-") as folder:
        file = Path(folder, PurePosixPath(str(path)).name)
        yield file
        with _reached("path", path) as (files, place):
            files.put_file(str(file), place)


@contextmanager
def uploading_set(folder: str, names: Collection[str]) -> Iterator[Path]:
    """Yield a folder of this machine, whose files are uploaded when the block ends without an error.

    Args:
        folder: the address of one; files of ``names`` that are there and not among the new ones are removed.
        names: see :func:`ida_lightning.files.replacing_set`.
    """
    with TemporaryDirectory(prefix="ida-lightning-") as unfinished:
        yield Path(unfinished)
        made = {file.name for file in Path(unfinished).iterdir()}
        for name in {*names} - made:
            remove(f"{folder}/{name}")
        for name in made:
            with _reached("folder", f"{folder}/{name}") as (files, place):
                files.put_file(str(Path(unfinished, name)), place)


def move(source: str | Path, target: str | Path) -> None:
    """Rename a file, here or at an address."""
    if not is_address(source):
        Path(source).replace(target)
        return
    with _reached("path", source) as (files, place):
        files.mv(place, fsspec.core.url_to_fs(str(target))[1])


def remove(path: str | Path) -> None:
    """Remove a file, here or at an address, if it is there."""
    if not is_address(path):
        Path(path).unlink(missing_ok=True)
    elif is_file(path):
        with _reached("path", path) as (files, place):
            files.rm_file(place)


@cache
def _copies() -> TemporaryDirectory[str]:
    return TemporaryDirectory(prefix="ida-lightning-")


@contextmanager
def _reached(name: str, path: str | Path) -> Iterator[tuple[Any, str]]:
    """Yield the file system of an address, and the path there; what goes wrong is said in one line."""
    try:
        yield fsspec.core.url_to_fs(str(path))
    except InputError:
        raise
    except Exception as error:  # of any package that fsspec calls
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"{name}: expected an address that can be reached, got {path}: {reason}") from error
