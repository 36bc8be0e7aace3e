"""The data module of Tiny ImageNet, decoded once and kept in memory."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torchvision.datasets.utils import download_and_extract_archive

from ida_lightning.augment.augmentation import Augmentation
from ida_lightning.checks import path_like
from ida_lightning.data.image_files import UNREADABLE, read_image
from ida_lightning.data.in_memory import InMemoryImages, stratified_split
from ida_lightning.data.pictures import MixingDataModule
from ida_lightning.errors import InputError, at_least, flag
from ida_lightning.files import replacing

_URL = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
_MD5 = "90528d7ca1a48142e341f4ef8d21d0de"
_SIZE = 64
# What a thread decodes in one go: enough to make its bookkeeping small beside the decoding.
_CHUNK = 256


class _Part(NamedTuple):
    """Holds the files of an official part and their labels."""

    files: list[Path]
    labels: Tensor


class TinyImageNetDataModule(MixingDataModule):
    """Reads 100,000 training and 10,000 test images of 64 x 64 pixels in 200 classes of ImageNet (Le and Yang 2015).

    The labels of the official test part are not public, so its validation part, on which everybody reports, is the
    test split here. The validation split is carved from the training images, stratified and fixed, so that nothing
    needs to be selected on the test images.

    Decoding takes its time, so the decoded images, 1.35 GB, are kept beside the data and mapped into memory from then
    on. They are made anew when the list of files has changed; delete ``decoded.safetensors`` after changing what is in
    a file.

    Args:
        root: the folder that holds ``tiny-imagenet-200``.
        download: fetch the data set into ``root`` if it is not there.
        val_images: size of the validation split.
        cache: keep the decoded images in ``tiny-imagenet-200/decoded.safetensors``.
        augmentation: see :class:`MixingDataModule`.
        kwargs: likewise.

    Raises:
        InputError: if the data set is not in ``root``, is incomplete or is damaged (with the name of the file), or
            ``val_images`` is out of range.

    References:
        Y. Le, X. Yang, Tiny ImageNet Visual Recognition Challenge, Stanford CS 231N, 2015.
    """

    channels = 3
    image_size = _SIZE
    mean = (0.4802, 0.4481, 0.3975)
    std = (0.2770, 0.2691, 0.2821)

    def __init__(
        self,
        root: str = "data",
        download: bool = False,
        val_images: int = 10_000,
        cache: bool = True,
        augmentation: Augmentation = Augmentation(crop_padding=8, flip=True),  # noqa: B008 (frozen)
        **kwargs: Any,
    ) -> None:
        super().__init__(augmentation=augmentation, **kwargs)
        self.folder = path_like("root", root) / "tiny-imagenet-200"
        self.download = flag("download", download)
        self.val_images = at_least("val_images", val_images, 1)
        self.cache = flag("cache", cache)
        self._decoded: dict[str, InMemoryImages] | None = None

    @property
    def num_classes(self) -> int:
        """Return the number of classes that ``wnids.txt`` names; 200 before it is there."""
        return len(self.wnids) if (self.folder / "wnids.txt").is_file() else 200

    @cached_property
    def wnids(self) -> list[str]:
        """Return the WordNet identifiers of the classes, sorted: that of label 0 first."""
        wnids = sorted(set(self._lines("wnids.txt")))
        if not wnids:
            raise InputError(f"root: expected WordNet identifiers in {self.folder / 'wnids.txt'}, found none")
        return wnids

    @cached_property
    def class_names(self) -> list[str]:  # type: ignore[override]
        """Return the synonyms that ``words.txt`` has for each of :attr:`wnids`, in that order."""
        words = dict(line.partition("\t")[::2] for line in self._lines("words.txt"))
        for wnid in self.wnids:
            if wnid not in words:
                raise InputError(f"root: expected words for {wnid} in {self.folder / 'words.txt'}, found none")
        return [words[wnid].strip() for wnid in self.wnids]

    def prepare_data(self) -> None:
        """Fetch the data set if asked to, and decode it unless that has been done; on one process."""
        if self.download and not self.folder.is_dir():
            try:
                download_and_extract_archive(_URL, self.folder.parent, md5=_MD5)
            except (OSError, RuntimeError) as error:
                raise InputError(
                    f"download: Tiny ImageNet could not be fetched into {self.folder.parent} ({error})"
                ) from error
        if not self.cache:
            return
        parts = self._parts()
        if self._read_cache(parts) is None:
            decoded = _decode(parts)
            if not self._write_cache(parts, decoded):
                self._decoded = decoded  # so that at least this process need not do it again

    def load(self) -> dict[str, InMemoryImages]:
        """Read the official training part, divided, and the official validation part as the test split."""
        parts = self._parts()
        # First, because a size that cannot be had should not cost the time to decode.
        train, val = stratified_split(parts["train"].labels, self.val_images)
        decoded, self._decoded = self._decoded, None
        if decoded is None and self.cache:
            decoded = self._read_cache(parts)
        if decoded is None:
            decoded = _decode(parts)
        official = decoded["train"]
        return {"train": official.subset(train), "val": official.subset(val), "test": decoded["test"]}

    def _lines(self, name: str) -> list[str]:
        if not self.folder.is_dir():
            raise InputError(
                f"root: no Tiny ImageNet at {self.folder.resolve()}; set data.download to true to fetch it, or unpack "
                f"the official tiny-imagenet-200.zip ({_URL}) there"
            )
        try:
            lines = (self.folder / name).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"root: incomplete Tiny ImageNet, {self.folder / name} is not readable") from error
        return [line.strip() for line in lines if line.strip()]

    def _parts(self) -> dict[str, _Part]:
        """List the files of every part and check that they are complete; nothing is decoded."""
        train, numbers = self.folder / "train", {wnid: number for number, wnid in enumerate(self.wnids)}
        if train.is_dir() and (
            odd := sorted({entry.name for entry in train.iterdir() if entry.is_dir()} - set(numbers))
        ):
            raise InputError(f"root: {train / odd[0]} is no class of wnids.txt")
        files, labels = [], []
        for wnid, number in numbers.items():
            found = _images_in(train / wnid / "images")
            if not found:
                raise InputError(f"root: expected JPEG images in {train / wnid / 'images'}, found none")
            files += found
            labels += [number] * len(found)
        annotated = self._annotations()
        images = self.folder / "val" / "images"
        present = {file.name for file in _images_in(images)}
        for name, wnid in annotated.items():
            if wnid not in numbers:
                raise InputError(f"root: expected a class of wnids.txt for {name} in val_annotations.txt, got {wnid}")
            if name not in present:
                raise InputError(f"root: {images / name} is missing, though val_annotations.txt names it")
        if unknown := sorted(present - annotated.keys()):
            raise InputError(f"root: {images / unknown[0]} is not named in val_annotations.txt")
        return {
            "train": _Part(files, torch.tensor(labels)),
            "test": _Part(
                [images / name for name in annotated], torch.tensor([numbers[w] for w in annotated.values()])
            ),
        }

    def _annotations(self) -> dict[str, str]:
        """Read the class of every image of the official validation part, by file name."""
        # File name, class and the four sides of a bounding box, separated by tabs.
        annotated: dict[str, str] = {}
        for line in self._lines("val/val_annotations.txt"):
            name, _, rest = line.partition("\t")
            if not rest:
                raise InputError(f"root: expected a file, a tab and a class in val_annotations.txt, got {line!r}")
            if name in annotated:
                raise InputError(f"root: expected {name} once in val_annotations.txt, got it twice")
            annotated[name] = rest.split("\t")[0]
        if not annotated:
            raise InputError(f"root: expected annotations in {self.folder / 'val' / 'val_annotations.txt'}, found none")
        return annotated

    @property
    def _cache_file(self) -> Path:
        return self.folder / "decoded.safetensors"

    def _read_cache(self, parts: dict[str, _Part]) -> dict[str, InMemoryImages] | None:
        """Map the decoded images into memory; None if there are none, or others than those of the folder."""
        if not self._cache_file.is_file():
            return None
        try:
            with safe_open(self._cache_file, "pt") as file:
                if (file.metadata() or {}).get("files") != self._fingerprint(parts):
                    raise InputError("it was made of other files")
                decoded = {
                    name: InMemoryImages(file.get_tensor(f"{name}_images"), file.get_tensor(f"{name}_labels"))
                    for name in parts
                }
            for name, part in parts.items():
                if not torch.equal(decoded[name].labels, part.labels):
                    raise InputError("it has other labels")
                if decoded[name].images.shape[1:] != (3, _SIZE, _SIZE):
                    raise InputError("it has images of another shape")
        except (SafetensorError, OSError, InputError) as error:
            rank_zero_info(f"Tiny ImageNet: {self._cache_file} cannot be used, decoding again ({error})")
            return None
        return decoded

    def _write_cache(self, parts: dict[str, _Part], decoded: dict[str, InMemoryImages]) -> bool:
        tensors = {f"{name}_images": images.images for name, images in decoded.items()}
        tensors |= {f"{name}_labels": images.labels for name, images in decoded.items()}
        try:
            with replacing(self._cache_file) as unfinished:
                save_file(tensors, unfinished, {"files": self._fingerprint(parts)})
        except (SafetensorError, InputError, OSError) as error:  # a folder for reading only, or a full disk
            rank_zero_warn(
                f"Tiny ImageNet: no cache, every start decodes again; {self._cache_file} cannot be written ({error})"
            )
            return False
        return True

    def _fingerprint(self, parts: dict[str, _Part]) -> str:
        """Hash the names of all files, which contain the classes, in order."""
        start = len(str(self.folder))  # relative_to would take longer than the list
        names = [str(file)[start:] for part in parts.values() for file in part.files]
        return hashlib.sha256("\n".join(names).encode()).hexdigest()


def _images_in(folder: Path) -> list[Path]:
    try:
        return [folder / name for name in sorted(os.listdir(folder)) if name.endswith(".JPEG")]
    except OSError:
        return []


def _decode(parts: dict[str, _Part]) -> dict[str, InMemoryImages]:
    total = sum(len(part.files) for part in parts.values())
    rank_zero_info(f"Tiny ImageNet: decoding {total:,} images")
    return {name: InMemoryImages(_decode_files(part.files), part.labels) for name, part in parts.items()}


def _decode_files(files: Sequence[Path]) -> Tensor:
    """Decode files to uint8 ``(files, 3, 64, 64)``, in threads: Pillow lets others work while it decodes."""
    images = torch.empty(len(files), 3, _SIZE, _SIZE, dtype=torch.uint8)
    pixels = images.numpy()

    def decode(start: int) -> None:
        for row, file in enumerate(files[start : start + _CHUNK], start):
            pixels[row] = _read_image(file)

    with ThreadPoolExecutor(max(2, os.cpu_count() or 2)) as pool:
        list(pool.map(decode, range(0, len(files), _CHUNK)))  # the first error ends it and leaves the rest undone
    return images


def _read_image(file: Path) -> np.ndarray:
    try:
        image = read_image(file)  # some are grey
        if image.size != (_SIZE, _SIZE):
            width, height = image.size
            raise InputError(f"root: expected {_SIZE} x {_SIZE} pixels in {file}, got {width} x {height}")
        return np.asarray(image).transpose(2, 0, 1)
    except UNREADABLE as error:
        raise InputError(f"root: {file} is not readable as an image ({error})") from error
