"""The data module of the default: real handwritten digits that ship with scikit-learn."""

from __future__ import annotations

from typing import Any

import torch
from sklearn.datasets import load_digits
from torch.nn import functional as F

from ida_lightning.data.in_memory import InMemoryImages, stratified_split
from ida_lightning.data.pictures import MixingDataModule
from ida_lightning.errors import at_least

_VAL, _TEST = 180, 360


class DigitsDataModule(MixingDataModule):
    """Reads 1,797 scanned digits of 43 writers, 8 x 8 pixels, ten classes: real images without a download.

    Fixed stratified split: 1,257 train, 180 validation, 360 test.

    Args:
        image_size: 8 as scanned, or more, enlarged bilinearly.
        kwargs: see :class:`MixingDataModule`.

    Raises:
        InputError: for an image size below 8.

    Example:
        >>> data = DigitsDataModule(image_size=16, batch_size=32)
        >>> data.setup("fit")
        >>> next(iter(data.val_dataloader())).inputs.shape
        torch.Size([32, 1, 16, 16])

    References:
        E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, UCI repository, 1998.
    """

    class_names = [str(digit) for digit in range(10)]  # noqa: RUF012 (a constant of the data set)
    channels = 1
    mean = (0.305,)
    std = (0.324,)

    def __init__(self, image_size: int = 32, **kwargs: Any) -> None:
        self.image_size = at_least("image_size", image_size, 8)  # as scanned
        super().__init__(**kwargs)

    def load(self) -> dict[str, InMemoryImages]:
        """Read the digits out of the scikit-learn wheel."""
        digits = load_digits()
        scans = torch.from_numpy(digits.images)[:, None] * (255 / 16)
        if self.image_size > 8:
            scans = F.interpolate(scans, size=self.image_size, mode="bilinear", align_corners=False)
        everything = InMemoryImages(scans.round().to(torch.uint8), torch.from_numpy(digits.target).long())
        rest, test = stratified_split(everything.labels, _TEST)
        train, val = stratified_split(everything.labels[rest], _VAL)
        return {
            "train": everything.subset(rest[train]),
            "val": everything.subset(rest[val]),
            "test": everything.subset(test),
        }
