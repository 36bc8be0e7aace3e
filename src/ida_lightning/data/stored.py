"""Decodes image files once and keeps them in memory, or in a file that is mapped into memory."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from ida_lightning.data.image_files import UNREADABLE, ImageFiles, read_image
from ida_lightning.errors import InputError
from ida_lightning.files import replacing

_CHUNK = 64  # files that a thread decodes in one go
_MOST_NAMES = 3


class StoredFiles(ImageFiles):
    """A data set of decoded image files; its items are those of :class:`ImageFiles`, reduced in size.

    Args:
        files: which, with their labels.
        pixels: uint8, of all images one after the other, each ``(height, width, 3)``.
        shapes: int64 ``(files, 2)``, height and width of each; 0 for a file that is not readable.
    """

    def __init__(self, files: ImageFiles, pixels: Tensor, shapes: Tensor) -> None:
        super().__init__(files.samples, files.classes, files.folder, files.ignored)
        self.pixels = pixels
        self.shapes = shapes
        self._starts = np.concatenate(([0], np.cumsum(3 * shapes.prod(1).numpy())))

    def __getitem__(self, row: int) -> tuple[Image.Image, int]:
        height, width = self.shapes[row].tolist()
        start, end = self._starts[row : row + 2].tolist()
        return Image.fromarray(self.pixels[start:end].view(height, width, 3).numpy()), self.samples[row][1]


def unreadable_files(files: ImageFiles) -> np.ndarray:
    """Read every file and say which cannot be decoded: bool ``(files,)``."""
    if isinstance(files, StoredFiles):
        return (files.shapes[:, 0] == 0).numpy()
    rank_zero_info(f"data: reading all {len(files):,} files of {files.folder} once, to find those that are damaged")
    return np.array([image is None for image in _decode(files, side=1, skip=True)])


def say_unreadable(files: ImageFiles, bad: np.ndarray) -> None:
    """Log how many files are left out, and the first of them by name."""
    if bad.any():
        names = [files.samples[row][0] for row in np.flatnonzero(bad)[:_MOST_NAMES]]
        more = " ..." if bad.sum() > _MOST_NAMES else ""
        rank_zero_info(
            f"data: {bad.sum()} of {len(files):,} files of {files.folder} are not readable and are left out: "
            f"{', '.join(names)}{more}"
        )


def store_in_memory(files: ImageFiles, side: int, skip: bool) -> StoredFiles:
    """Decode all files and keep them in memory.

    Args:
        files: which.
        side: larger images are reduced so that their short side has this many pixels.
        skip: keep nothing of files that cannot be decoded, instead of refusing them.

    Raises:
        InputError: for a damaged file, by its name.
    """
    rank_zero_info(f"data: decoding {len(files):,} files of {files.folder}")
    images = _decode(files, side, skip)
    shapes = torch.tensor([(0, 0) if image is None else image.shape[:2] for image in images])
    flat = [image.reshape(-1) for image in images if image is not None]
    return StoredFiles(files, torch.from_numpy(np.concatenate(flat or [np.empty(0, np.uint8)])), shapes)


def store_in_file(files: ImageFiles, side: int, skip: bool, folder: Path) -> StoredFiles:
    """Decode all files, keep them in a file and map that into memory; later, only map.

    It is made anew when a file has another name, size or time of change. For arguments see :func:`store_in_memory`.
    """
    path = folder / f"{files.folder.name or 'root'}-{side}.safetensors"
    said = _fingerprint(files)
    stored = _mapped(files, path, said)
    if stored is not None and (skip or not (stored.shapes == 0).any()):
        return stored
    stored = store_in_memory(files, side, skip)
    try:
        with replacing(path) as unfinished:
            save_file({"pixels": stored.pixels, "shapes": stored.shapes}, unfinished, {"files": said})
    except (SafetensorError, InputError, OSError) as error:  # a folder for reading only, or a full disk
        rank_zero_warn(f"data: no cache, every start decodes again; {path} cannot be written ({error})")
        return stored
    return _mapped(files, path, said) or stored


def _mapped(files: ImageFiles, path: Path, said: str) -> StoredFiles | None:
    if not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            if (file.metadata() or {}).get("files") != said:
                return None
            pixels, shapes = file.get_tensor("pixels"), file.get_tensor("shapes")
    except (SafetensorError, OSError) as error:
        rank_zero_info(f"data: {path} cannot be used, decoding again ({error})")
        return None
    fits = shapes.shape == (len(files), 2) and int(3 * shapes.prod(1).sum()) == len(pixels)
    return StoredFiles(files, pixels, shapes) if fits else None


def _fingerprint(files: ImageFiles) -> str:
    digest = hashlib.sha256(b"in sRGB")  # how files are read; what was read in another way is made anew
    for path, _ in files.samples:
        seen = os.stat(path)
        digest.update(
            f"{os.path.relpath(path, files.folder)} {seen.st_size} {seen.st_mtime_ns}\n".encode(
                errors="surrogateescape"
            )
        )
    return digest.hexdigest()


def _decode(files: ImageFiles, side: int, skip: bool) -> list[np.ndarray | None]:
    """Decode all files; Pillow lets other threads work while it does."""

    def decode(rows: Sequence[int]) -> list[np.ndarray | None]:
        return [_reduced(files.samples[row][0], side, skip) for row in rows]

    chunks = [range(start, min(start + _CHUNK, len(files))) for start in range(0, len(files), _CHUNK)]
    with ThreadPoolExecutor(max(2, os.cpu_count() or 2)) as pool:
        # The first error ends it and leaves the rest undone.
        return [image for images in pool.map(decode, chunks) for image in images]


def _reduced(path: str, side: int, skip: bool) -> np.ndarray | None:
    try:
        image = read_image(path)
    except (*UNREADABLE, InputError) as error:
        if skip:
            return None
        raise InputError(
            f"{path}: not readable as an image ({error}); unreadable: skip leaves such files out"
        ) from error
    if min(image.size) > side:
        image = F.resize(image, [side], antialias=True)
    return np.asarray(image)
