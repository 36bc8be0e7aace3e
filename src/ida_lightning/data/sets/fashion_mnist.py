"""The data module of Fashion-MNIST, kept in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor
from torchvision.datasets import FashionMNIST
from torchvision.datasets.mnist import read_image_file, read_label_file

from ida_lightning.augment.augmentation import Augmentation
from ida_lightning.checks import path_like
from ida_lightning.data.in_memory import InMemoryImages, stratified_split
from ida_lightning.data.pictures import MixingDataModule
from ida_lightning.errors import InputError, flag, whole_number

_FILES = [f"{part}-{kind}-ubyte" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
# What torchvision's reader runs into when a file is something else or ends too early.
_UNREADABLE = (AssertionError, KeyError, RuntimeError, TypeError, ValueError)


class FashionMNISTDataModule(MixingDataModule):
    """Reads 60,000 training and 10,000 test images of clothes, 28 x 28 grey pixels, in 10 classes (Xiao et al. 2017).

    The validation split is carved from the training images, stratified and fixed, so that nothing needs to be
    selected on the test images.

    Args:
        root: the folder that holds ``FashionMNIST/raw`` with the four official files, unpacked.
        download: fetch the data set into ``root`` if it is not there.
        val_images: size of the validation split.
        augmentation: see :class:`MixingDataModule`; crops with 4 pixels of padding and flips, as in Zhong et al. 2020.
        kwargs: see :class:`MixingDataModule`.

    Raises:
        InputError: if the data set is not in ``root`` or is damaged, or ``val_images`` is out of range.

    References:
        H. Xiao, K. Rasul, R. Vollgraf, Fashion-MNIST, 2017, arXiv:1708.07747.
        Z. Zhong, L. Zheng, G. Kang, S. Li, Y. Yang, Random Erasing Data Augmentation, AAAI 2020, arXiv:1708.04896.
    """

    class_names = list(FashionMNIST.classes)  # noqa: RUF012 (a constant of the data set)
    channels = 1
    image_size = 28
    mean = (0.2860,)
    std = (0.3530,)

    def __init__(
        self,
        root: str = "data",
        download: bool = False,
        val_images: int = 6000,
        augmentation: Augmentation = Augmentation(crop_padding=4, flip=True),  # noqa: B008 (frozen)
        **kwargs: Any,
    ) -> None:
        super().__init__(augmentation=augmentation, **kwargs)
        self.root = path_like("root", root)
        self.folder = self.root / "FashionMNIST" / "raw"
        self.download = flag("download", download)
        self.val_images = whole_number("val_images", val_images, 10, 59_990)  # at least one a class on both sides

    def prepare_data(self) -> None:
        """Fetch the data set if asked to, on one process."""
        # torchvision reads what it has fetched; files that are there are for load, which says what is wrong with them.
        if not self.download or all((self.folder / name).is_file() for name in _FILES):
            return
        try:
            FashionMNIST(self.root, download=True)
        except (OSError, *_UNREADABLE) as error:
            reason = " ".join(str(error).split())  # torchvision lists its mirrors line by line
            raise InputError(f"download: Fashion-MNIST could not be fetched into {self.root} ({reason})") from error

    def load(self) -> dict[str, InMemoryImages]:
        """Read both official parts; validation is taken from the training one."""
        official, test = self._images("train"), self._images("t10k")
        train, val = stratified_split(official.labels, self.val_images)
        return {"train": official.subset(train), "val": official.subset(val), "test": test}

    def _images(self, part: str) -> InMemoryImages:
        image_file, images = self._read(f"{part}-images-idx3-ubyte")
        label_file, labels = self._read(f"{part}-labels-idx1-ubyte")
        if images.shape[1:] != (28, 28):
            raise InputError(f"root: expected images of 28 x 28 pixels in {image_file}, got {tuple(images.shape[1:])}")
        if len(labels) != len(images):
            raise InputError(
                f"root: expected a label for each of the {len(images)} images of {image_file}, got {len(labels)} in "
                f"{label_file}"
            )
        return InMemoryImages(images[:, None], labels)

    def _read(self, name: str) -> tuple[Path, Tensor]:
        file = self.folder / name
        if not file.is_file():
            what = f"no {name}" if self.folder.is_dir() else "no Fashion-MNIST"
            raise InputError(
                f"root: {what} at {self.folder.resolve()}; set data.download to true to fetch it, or unpack the four "
                "official .gz files there"
            )
        try:
            # FashionMNIST(...) reads with the same two functions, but does not say which file is wrong.
            return file, read_image_file(file) if "images" in name else read_label_file(file)
        except _UNREADABLE as error:
            raise InputError(
                f"root: damaged Fashion-MNIST, {file.resolve()} is cut short or no idx file of bytes"
            ) from error
