"""CIFAR-100 in memory."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from torchvision.datasets import CIFAR100

from ida_lightning.data.base import MixingDataModule
from ida_lightning.data.in_memory import InMemoryImages, stratified_split
from ida_lightning.errors import InputError


class CIFAR100DataModule(MixingDataModule):
    """50,000 training and 10,000 test images of 32 x 32 pixels in 100 classes (Krizhevsky 2009).

    Training images are cropped with 4 pixels of padding and flipped. The validation split is carved from the
    training images, stratified and fixed, so that nothing needs to be selected on the test images.

    Args:
        root: the folder that holds ``cifar-100-python``.
        download: fetch the data set into ``root`` if it is not there.
        val_images: size of the validation split.
        kwargs: see :class:`MixingDataModule`.

    Raises:
        InputError: if the data set is not in ``root`` or is damaged, or ``val_images`` is out of range.
    """

    channels = 3
    image_size = 32
    mean = (0.5071, 0.4865, 0.4409)
    std = (0.2673, 0.2564, 0.2762)
    crop_padding = 4

    def __init__(self, root: str = "data", download: bool = False, val_images: int = 5000, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not 100 <= val_images <= 49_900:
            raise InputError(f"val_images: expected 100 ... 49900, at least one a class, got {val_images}")
        self.root = Path(root)
        self.download = download
        self.val_images = val_images
        self._names: list[str] | None = None

    @property
    def num_classes(self) -> int:
        """100, known before the files are."""
        return 100

    @property
    def class_names(self) -> list[str]:  # type: ignore[override]
        """The fine labels, alphabetical; read from the data set."""
        if self._names is None:
            self._names = list(self._read(train=False).classes)
        return self._names

    def prepare_data(self) -> None:
        """Fetch the data set if asked to, on one process."""
        if self.download:
            CIFAR100(self.root, download=True)

    def load(self) -> dict[str, InMemoryImages]:
        """Both official parts; validation is taken from the training one."""
        official, test = self._images(train=True), self._images(train=False)
        train, val = stratified_split(official.labels, self.val_images)
        return {"train": official.subset(train), "val": official.subset(val), "test": test}

    def _images(self, train: bool) -> InMemoryImages:
        part = self._read(train)
        images = torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous()
        return InMemoryImages(images, torch.tensor(part.targets))

    def _read(self, train: bool) -> CIFAR100:
        try:
            return CIFAR100(self.root, train=train)
        except RuntimeError as error:  # torchvision's word for missing as well as for a wrong checksum
            found = (self.root / "cifar-100-python").is_dir()
            trouble = "a damaged or incomplete CIFAR-100" if found else "no CIFAR-100"
            raise InputError(
                f"root: {trouble} at {self.root.resolve() / 'cifar-100-python'}; set data.download to true to "
                "fetch it, or unpack the official cifar-100-python.tar.gz there"
            ) from error
        except (pickle.UnpicklingError, EOFError, KeyError) as error:
            raise InputError(f"root: damaged CIFAR-100 files in {self.root.resolve()}: {error}") from error
