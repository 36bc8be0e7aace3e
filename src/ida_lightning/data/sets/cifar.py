"""Data modules of CIFAR-10 and CIFAR-100, kept in memory."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torchvision.datasets import CIFAR10, CIFAR100

from ida_lightning.augment.augmentation import Augmentation
from ida_lightning.checks import path_like, whole_numbers
from ida_lightning.data.in_memory import InMemoryImages, stratified_split
from ida_lightning.data.pictures import MixingDataModule
from ida_lightning.errors import InputError, flag, one_of, whole_number


class CIFARDataModule(MixingDataModule):
    """Reads what both have in common: 50,000 training and 10,000 test images of 32 x 32 pixels, as Python pickles.

    The validation split is carved from the training images, stratified and fixed, so that nothing needs to be
    selected on the test images. A file is unpickled only if it has the checksum that torchvision knows.

    Args:
        root: the folder that holds the unpacked folder of the data set.
        download: fetch the data set into ``root`` if it is not there.
        val_images: size of the validation split.
        classes: keep the images of these classes only, numbered anew in this order; None keeps all. A smaller
            problem with as many images a class.
        augmentation: see :class:`MixingDataModule`; crops with 4 pixels of padding and flips, as in He et al. 2016.
        kwargs: see :class:`MixingDataModule`.

    Raises:
        InputError: if the data set is not in ``root`` or is damaged, or ``val_images`` or ``classes`` are out of range.
    """

    channels = 3
    image_size = 32
    # torchvision's class: the folder, the files with their checksums, and the download.
    official: type[CIFAR10]
    title: str
    total_classes: int
    label_key: str
    name_key: str

    def __init__(
        self,
        root: str = "data",
        download: bool = False,
        val_images: int = 5000,
        classes: Sequence[int] | None = None,
        augmentation: Augmentation = Augmentation(crop_padding=4, flip=True),  # noqa: B008 (frozen)
        **kwargs: Any,
    ) -> None:
        super().__init__(augmentation=augmentation, **kwargs)
        total = self.total_classes
        self.classes = None if classes is None else whole_numbers("classes", classes, 0)
        if self.classes is not None and (
            len(self.classes) < 2 or len({*self.classes}) < len(self.classes) or {*self.classes} - {*range(total)}
        ):
            raise InputError(f"classes: expected two or more different ones of 0 ... {total - 1}, got {self.classes}")
        least, most = self.num_classes, 50_000 // total * self.num_classes - self.num_classes
        self.root = path_like("root", root)
        self.download = flag("download", download)
        # At least one a class, for validation and for training.
        self.val_images = whole_number("val_images", val_images, least, most)

    @property
    def num_classes(self) -> int:
        """Return the number of classes, which is known before the files are there."""
        return self.total_classes if self.classes is None else len(self.classes)

    @cached_property
    def class_names(self) -> list[str]:  # type: ignore[override]
        """Return the names of the classes from the files, in the official order unless ``classes`` has another."""
        names = self._content(self.official.meta["filename"], self.official.meta["md5"])[self.name_key]
        return [names[label] for label in self.classes or range(self.total_classes)]

    def prepare_data(self) -> None:
        """Fetch the data set if asked to, on one process."""
        if not self.download:
            return
        try:
            self.official(self.root, download=True)
        except (OSError, RuntimeError) as error:
            raise InputError(f"download: {self.title} could not be fetched into {self.root} ({error})") from error

    def load(self) -> dict[str, InMemoryImages]:
        """Read both official parts; validation is taken from the training one."""
        official, test = self._images(train=True), self._images(train=False)
        train, val = stratified_split(official.labels, self.val_images)
        return {"train": official.subset(train), "val": official.subset(val), "test": test}

    def _images(self, train: bool) -> InMemoryImages:
        entries = self._entries(train)
        for name, entry in entries.items():
            shape = np.shape(entry["data"])
            if shape != (len(entry[self.label_key]), 3 * 32 * 32):
                raise InputError(
                    f"root: expected {len(entry[self.label_key])} rows of 3 x 32 x 32 pixels in {self.folder / name}, "
                    f"one a label, got {shape}"
                )
        pixels = np.concatenate([entry["data"] for entry in entries.values()]).reshape(-1, 3, 32, 32)
        labels = _column(entries, self.label_key)
        if self.classes is None:
            return InMemoryImages(torch.from_numpy(pixels), labels)
        number = torch.full((self.total_classes,), -1)
        number[self.classes] = torch.arange(len(self.classes))
        kept = number[labels] >= 0
        return InMemoryImages(torch.from_numpy(pixels)[kept], number[labels][kept])

    @property
    def folder(self) -> Path:
        """Return the folder of the official files."""
        return self.root / str(self.official.base_folder)

    def _entries(self, train: bool) -> dict[str, dict[str, Any]]:
        """Read the files of one part; returns their contents by file name."""
        files = self.official.train_list if train else self.official.test_list
        return {name: self._content(name, checksum) for name, checksum in files}

    def _content(self, name: str, checksum: str) -> dict[str, Any]:
        file = self.folder / name
        try:
            data = file.read_bytes()
        except OSError:
            data = b""
        # Of the bytes that are about to be unpickled; unpickling anything else could run somebody's code.
        if hashlib.md5(data, usedforsecurity=False).hexdigest() != checksum:
            what = f"a damaged or incomplete {self.title}" if self.folder.is_dir() else f"no {self.title}"
            which = f" (see the file {name})" if self.folder.is_dir() else ""
            raise InputError(
                f"root: {what} at {self.folder.resolve()}{which}; set data.download to true to fetch it, or unpack "
                f"the official {self.official.filename} there"
            )
        content: dict[str, Any] = pickle.loads(data, encoding="latin1")  # written by Python 2
        return content


class CIFAR10DataModule(CIFARDataModule):
    """Reads 50,000 training and 10,000 test images of 32 x 32 pixels in 10 classes (Krizhevsky 2009).

    Training images are cropped with 4 pixels of padding and flipped. The validation split is carved from the
    training images, stratified and fixed, so that nothing needs to be selected on the test images.

    Args:
        root: the folder that holds ``cifar-10-batches-py``.
        download: fetch the data set into ``root`` if it is not there.
        val_images: size of the validation split.
        classes: the only ones to keep; see :class:`CIFARDataModule`.
        augmentation: see :class:`MixingDataModule`.
        kwargs: likewise.

    Raises:
        InputError: if the data set is not in ``root`` or is damaged, or ``val_images`` or ``classes`` are out of range.

    References:
        A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.
    """

    official = CIFAR10
    title = "CIFAR-10"
    total_classes = 10
    label_key = "labels"
    name_key = "label_names"
    mean = (0.4914, 0.4822, 0.4465)
    std = (0.2470, 0.2435, 0.2616)


class CIFAR100DataModule(CIFARDataModule):
    """50,000 training and 10,000 test images of 32 x 32 pixels in 100 classes or 20 superclasses (Krizhevsky 2009).

    Training images are cropped with 4 pixels of padding and flipped. The validation split is carved from the
    training images, stratified and fixed, so that nothing needs to be selected on the test images.

    ``LabelMix.from_taxonomy(labels, data.superclass)`` is the order that the superclasses put on the fine classes.

    Args:
        root: the folder that holds ``cifar-100-python``.
        labels: ``"fine"`` for the 100 classes, ``"coarse"`` for their 20 superclasses.
        kwargs: see :class:`CIFARDataModule`.

    Raises:
        InputError: if the data set is not in ``root`` or is damaged, or a value is out of range.

    References:
        A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.
    """

    official = CIFAR100
    title = "CIFAR-100"
    mean = (0.5071, 0.4865, 0.4409)
    std = (0.2673, 0.2564, 0.2762)

    def __init__(self, root: str = "data", labels: Literal["fine", "coarse"] = "fine", **kwargs: Any) -> None:
        one_of("labels", labels, ("fine", "coarse"))
        self.labels = labels
        self.label_key = f"{labels}_labels"
        self.name_key = f"{labels}_label_names"
        self.total_classes = 100 if labels == "fine" else 20
        super().__init__(root, **kwargs)

    @cached_property
    def superclass(self) -> Tensor:
        """Return the superclass of every fine class, int64 ``(100,)``, from the labels of the training images.

        Of the chosen ones, if ``classes`` chooses among the fine.
        """
        entries = self._entries(train=True)
        superclass = torch.full((100,), -1)
        superclass[_column(entries, "fine_labels")] = _column(entries, "coarse_labels")
        return superclass if self.classes is None or self.labels == "coarse" else superclass[self.classes]


def _column(entries: dict[str, dict[str, Any]], key: str) -> Tensor:
    return torch.tensor([label for entry in entries.values() for label in entry[key]])
