"""The base of data modules of pictures: they are augmented, normalised and mixed on the device."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ida_lightning.augment.augmentation import Augmentation
from ida_lightning.checks import pixel_deviations, pixel_means
from ida_lightning.data.base import LabelledDataModule
from ida_lightning.data.in_memory import InMemoryImages
from ida_lightning.errors import InputError, at_least, is_a, positive_share
from ida_lightning.inputs import Inputs, as_pictures
from ida_lightning.mixing import Mixing


class MixingDataModule(LabelledDataModule):
    """Yields training batches of mixed images with their label mix, and validation and test batches of plain ones.

    Images travel as uint8 and are augmented, normalised and mixed after the transfer, so on the device. All
    randomness of a training batch comes from generators made of (seed, epoch, batch number, rank); see
    :class:`LabelledDataModule`, which is for inputs of any other kind.

    A data set is a subclass that gives the five attributes, on the class or before ``super().__init__()``, and
    :meth:`load`.

    Attributes:
        class_names: what the outputs stand for, in order.
        channels: of the images.
        image_size: height and width in pixels.
        mean: per channel, for pixel values from 0 to 1.
        std: per channel.
        crop: share of the short side of an image that evaluation sees of it, in the middle; 1 for all.

    Args:
        batch_size: rows per batch and process.
        mixing: how training images are mixed; ``Mixing("none")`` for not at all.
        augmentation: what happens to training images before they are mixed.
        seed: of shuffling and all draws; None takes the one of ``seed_everything``.
        num_workers: loader processes; data sets in memory need none.
        pool: see :class:`LabelledDataModule`.

    Raises:
        InputError: as :class:`LabelledDataModule`, and in :meth:`setup` for images that do not fit the attributes.

    Example:
        >>> class Noise(MixingDataModule):
        ...     class_names, channels, image_size, mean, std = ["a", "b"], 1, 8, (0.5,), (0.25,)
        ...
        ...     def load(self):
        ...         images = torch.randint(256, (8, 1, 8, 8), dtype=torch.uint8)
        ...         return {"train": InMemoryImages(images, torch.arange(8) % 2)}
        >>> data = Noise(batch_size=4)
        >>> data.setup("fit")
        >>> len(data.train_dataloader())
        2
    """

    required = ("class_names", "channels", "image_size", "mean", "std")
    unit = "images"
    channels: int
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop: float = 1.0

    def __init__(
        self,
        batch_size: int = 64,
        mixing: Mixing = Mixing(),  # noqa: B008 (frozen)
        augmentation: Augmentation = Augmentation(),  # noqa: B008 (frozen)
        seed: int | None = None,
        num_workers: int = 0,
        pool: int = 0,
    ) -> None:
        super().__init__(batch_size, mixing, seed, num_workers, pool)
        channels = at_least("channels", self.channels, 1)
        at_least("image_size", self.image_size, 1)
        pixel_means("mean", self.mean, channels)
        pixel_deviations("std", self.std, channels)
        positive_share("crop", self.crop)
        self.augmentation = is_a("augmentation", augmentation, Augmentation)

    def check_split(self, name: str, split: Any) -> None:
        """Refuse images of other channels or sizes than the attributes say; what is not in memory is checked as read.

        Raises:
            InputError: for such images, none, and labels out of range.
        """
        super().check_split(name, split)
        if not isinstance(split, InMemoryImages):
            return
        if split.images.shape[1] != self.channels:
            raise InputError(f"{name}: expected images of {self.channels} channels, got {split.images.shape[1]}")
        height, width = split.images.shape[2:]
        if (height, width) != (self.image_size, self.image_size):
            raise InputError(f"{name}: expected {self.image_size} x {self.image_size} pixels, got {height} x {width}")

    def pictures(self) -> dict[str, Any]:
        """Return all that decides about the pictures of a training batch, beside epoch, batch and process."""
        return {
            **super().pictures(),
            "augmentation": asdict(self.augmentation),
            "image_size": self.image_size,
            "mean": self.mean,
            "std": self.std,
        }

    def augment(self, inputs: Inputs, rng: np.random.Generator) -> Tensor:
        """Return training images as a network sees them: augmented and normalised."""
        return self.normalise(self.augmentation.apply(as_pictures("images", inputs), rng, self.mean))

    def normalise(self, inputs: Inputs) -> Tensor:
        """Return float images with zero mean and unit variance from uint8 ones."""
        images = as_pictures("images", inputs)
        mean, std = self._statistics(images)
        normalised: Tensor = (images - 255 * mean).div_(255 * std)
        return normalised

    def denormalise(self, images: Tensor) -> Tensor:
        """Return pixel values from 0 to 1 from normalised images, for pictures."""
        mean, std = self._statistics(images)
        return torch.clamp(images * std + mean, 0, 1)

    def _statistics(self, images: Tensor) -> Tensor:
        return torch.tensor((self.mean, self.std))[:, :, None, None].to(images.device, non_blocking=True)
