"""Folders of image files, one per class: ImageNet and everything in its layout."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from ida_lightning.augment.augmentation import Augmentation
from ida_lightning.data.base import MixingDataModule
from ida_lightning.data.decoded import DecodedImages, labels_of
from ida_lightning.data.in_memory import stratified_split
from ida_lightning.errors import InputError, at_least, inner_share


class ImageFolderDataModule(MixingDataModule):
    """Images in ``root/train/<class>/`` and ``root/val/<class>/``, decoded by worker processes as they are needed.

    Training images get the ImageNet recipe, a random crop of random size and a flip; the others are resized so that
    a centred crop keeps 7/8 of the short side. Validation is carved from the training folder, stratified and fixed;
    the folder ``val``, which everybody reports on, is the test split, so that nothing is selected on it.

    Args:
        root: the folder that holds the two.
        image_size: height and width of the crops in pixels.
        train_folder: under ``root``.
        test_folder: under ``root``; None for no test split.
        val_share: of the training images.
        min_scale: the smallest share of an image's area that a random crop may take.
        mean: per channel, for pixel values from 0 to 1; those of ImageNet.
        std: likewise.
        augmentation: see :class:`MixingDataModule`; on the device, after the crop.
        num_workers: loader processes.
        kwargs: see :class:`MixingDataModule`.

    Raises:
        InputError: for missing or empty folders, class folders that differ between train and test, values out of
            range, and, while reading, for a damaged file, by its name.

    References:
        He, Zhang, Ren, Sun 2016, arXiv 1512.03385, and the recipe of the torchvision references.
    """

    channels = 3

    def __init__(
        self,
        root: str,
        image_size: int = 224,
        train_folder: str = "train",
        test_folder: str | None = "val",
        val_share: float = 0.02,
        min_scale: float = 0.08,
        mean: tuple[float, float, float] = (0.485, 0.456, 0.406),
        std: tuple[float, float, float] = (0.229, 0.224, 0.225),
        augmentation: Augmentation = Augmentation(flip=True),  # noqa: B008 (frozen)
        num_workers: int = 8,
        **kwargs: Any,
    ) -> None:
        self.image_size = at_least("image_size", image_size, 1)
        self.mean = mean
        self.std = std
        super().__init__(augmentation=augmentation, num_workers=num_workers, **kwargs)
        inner_share("val_share", val_share)
        inner_share("min_scale", min_scale)
        self.root = Path(root)
        self.train_folder = train_folder
        self.test_folder = test_folder
        self.val_share = val_share
        self.min_scale = min_scale

    @property
    def class_names(self) -> list[str]:  # type: ignore[override]
        """The class folders of the training folder, sorted."""
        folder = self._folder(self.train_folder)
        return sorted(entry.name for entry in folder.iterdir() if entry.is_dir())

    def load(self) -> dict[str, DecodedImages]:
        """List the files; nothing is decoded yet."""
        official = self._read(self.train_folder)
        labels = labels_of(official)
        train, val = stratified_split(labels, max(math.ceil(self.val_share * len(labels)), len(official.classes)))
        decoded = partial(DecodedImages, num_classes=len(official.classes), channels=self.channels, seed=self.seed)
        splits = {
            "train": decoded(official, rows=train, transform=self._train_transform()),
            "val": decoded(official, rows=val, transform=self._test_transform()),
        }
        if self.test_folder is not None:
            test = self._read(self.test_folder)
            if test.classes != official.classes:
                odd = sorted(set(test.classes) ^ set(official.classes))
                raise InputError(
                    f"test_folder: expected the class folders of {self.train_folder}, but only one of them has {odd[0]}"
                )
            splits["test"] = decoded(test, transform=self._test_transform())
        return splits

    def _train_transform(self) -> v2.Transform:
        return v2.RandomResizedCrop(self.image_size, scale=(self.min_scale, 1.0), antialias=True)

    def _test_transform(self) -> v2.Transform:
        return v2.Compose([v2.Resize(round(self.image_size * 8 / 7), antialias=True), v2.CenterCrop(self.image_size)])

    def _folder(self, name: str) -> Path:
        folder = self.root / name
        if not folder.is_dir():
            raise InputError(f"root: expected a folder of class folders at {folder.resolve()}, found none")
        return folder

    def _read(self, name: str) -> ImageFolder:
        try:
            return ImageFolder(self._folder(name))
        except FileNotFoundError as error:  # torchvision's word for no classes and for classes without images
            raise InputError(f"root: {' '.join(str(error).split())} in {self.root / name}") from error
