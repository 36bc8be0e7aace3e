"""The data module of images of any size without labels, for predictions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torchvision.transforms import v2

from ida_lightning.checks import path_like, pixel_deviations, pixel_means, texts
from ida_lightning.data.decoded import DecodedImages, middle_of
from ida_lightning.data.image_files import list_images
from ida_lightning.data.pictures import MixingDataModule
from ida_lightning.errors import InputError, at_least, positive_share


class ImagesDataModule(MixingDataModule):
    """Reads the images in a folder, however deep, or one image file, for ``predict`` alone.

    Images of any size are resized and cropped in the middle. The label of an image is known if the folder around it is
    named after a class.

    Args:
        folder: of the images.
        class_names: what the network's outputs stand for, in order.
        image_size: height and width in pixels that the network sees.
        mean: per channel, for pixel values from 0 to 1; one channel makes the images grey.
        std: likewise.
        crop: share of the short side that the square in the middle keeps.
        batch_size: images per batch.
        num_workers: loader processes.

    Raises:
        InputError: for values out of range, a folder without images and, while reading, a damaged file, by its name.

    Example:
        >>> data = ImagesDataModule("holiday", ["cat", "dog"], 64, (0.5,) * 3, (0.25,) * 3)
    """

    def __init__(
        self,
        folder: str,
        class_names: Sequence[str],
        image_size: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        crop: float = 1.0,
        batch_size: int = 64,
        num_workers: int = 0,
    ) -> None:
        self.mean = pixel_means("mean", mean)
        if len(self.mean) not in (1, 3):
            raise InputError(f"mean: expected 1 or 3 numbers, and as many in std, got {len(self.mean)}")
        self.std = pixel_deviations("std", std, len(self.mean))
        self.folder = path_like("folder", folder)
        self.class_names = texts("class_names", class_names)
        self.channels = len(self.mean)
        self.image_size = at_least("image_size", image_size, 1)
        self.crop = positive_share("crop", crop)
        super().__init__(batch_size=batch_size, num_workers=num_workers, seed=0)

    def load(self) -> dict[str, DecodedImages]:
        """List the files; nothing is decoded yet."""
        files = list_images(self.folder, "images", self.class_names)
        self.origins = {"predict": str(self.folder)}
        steps: list[Any] = [] if self.channels == 3 else [v2.Grayscale()]
        transform = v2.Compose([*steps, middle_of(self.image_size, self.crop)])
        return {"predict": DecodedImages(files, self.num_classes, self.channels, transform=transform, unlabelled=True)}
