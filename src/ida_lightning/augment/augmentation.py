"""Random augmentation of a whole uint8 batch on its device, drawn for every row on its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from ida_lightning.augment.randaugment import MAGNITUDES, rand_augment
from ida_lightning.augment.tones import jitter_tones
from ida_lightning.errors import InputError, at_least, flag, is_a, is_tensor, kind_of, non_negative, share, whole_number


@dataclass(frozen=True)
class Augmentation:
    """Augments training images before they are mixed: crop, flip, RandAugment, tones, erasing, cutout, in this order.

    Every row is drawn on its own, yet a step is a few operations on the whole batch; nothing makes the host wait for
    an accelerator. Each step is off by default, and then neither costs time nor draws anything.

    Args:
        crop_padding: black pixels added on every side before a random crop back to the same size.
        flip: flip left and right with probability 1/2.
        cutout: side in pixels of one square per image that is covered with the mean colour; its centre is uniform
            over the image and what reaches over the border is clipped (DeVries & Taylor 2017, arXiv:1708.04552).
        randaugment: operations of RandAugment per image (Cubuk et al. 2020, arXiv:1909.13719).
        magnitude: their strength, from 0 to 30.
        brightness: of each image times a factor, uniform from 1 - brightness (at least 0) to 1 + brightness.
        contrast: likewise, around the mean grey of the image.
        saturation: likewise, around the grey of each pixel; the three are those of torchvision's ``ColorJitter``.
        erasing: probability that one rectangle of an image is covered with the mean colour: 2 to 33 % of its area,
            height to width from 0.3 to 3.3 (random erasing, Zhong et al. 2020, arXiv:1708.04896).

    Raises:
        InputError: for values outside their range.

    Example:
        >>> images = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8)
        >>> augmentation = Augmentation(crop_padding=4, flip=True, cutout=16, randaugment=2)
        >>> augmentation.apply(images, np.random.default_rng(0), fill=(0.5, 0.5, 0.5)).shape
        torch.Size([8, 3, 32, 32])
    """

    crop_padding: int = 0
    flip: bool = False
    cutout: int = 0
    randaugment: int = 0
    magnitude: int = 9
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    erasing: float = 0.0

    def __post_init__(self) -> None:
        for name in ("crop_padding", "cutout", "randaugment"):
            at_least(name, vars(self)[name], 0)
        flag("flip", self.flip)
        whole_number("magnitude", self.magnitude, 0, MAGNITUDES - 1)
        for name in ("brightness", "contrast", "saturation"):
            non_negative(name, vars(self)[name])
        share("erasing", self.erasing)

    def apply(self, images: Tensor, rng: np.random.Generator, fill: Sequence[float]) -> Tensor:
        """Augment a batch; the input is not changed, and is returned itself where nothing is to be done.

        Args:
            images: uint8 ``(batch, channels, height, width)``, on any device; RandAugment and
                tones need 1 or 3 channels.
            rng: the source of all randomness; the same state draws the same on every device.
            fill: the mean pixel of each channel, from 0 to 1: what cutout covers with, and what the empty corners of
                a rotated, sheared or shifted image get.

        Raises:
            InputError: for images of another kind, or a ``fill`` that does not fit them.
        """
        expected = "uint8 (batch, channels, height, width)"
        if is_tensor("images", images, expected).dtype != torch.uint8 or images.ndim != 4:
            raise InputError(f"images: expected {expected}, got {kind_of(images)}")
        is_a("rng", rng, np.random.Generator)
        try:
            fits = len(fill) == images.shape[1] and all(0 <= value <= 1 for value in fill)
        except TypeError:  # no sequence, or not of numbers
            fits = False
        if not fits:
            raise InputError(f"fill: expected {images.shape[1]} values from 0 to 1, got {fill!r}")
        if not len(images):
            return images
        if self.crop_padding:
            images = random_crop(images, self.crop_padding, rng)
        if self.flip:
            images = random_flip(images, rng)
        if self.randaugment or self.cutout or self.erasing:
            pixel = torch.tensor([round(255 * value) for value in fill], dtype=torch.uint8)
            pixel = pixel.to(images.device, non_blocking=True)
        if self.randaugment:
            images = rand_augment(images, self.randaugment, self.magnitude, rng, pixel)
        if self.brightness or self.contrast or self.saturation:
            images = jitter_tones(images, self.brightness, self.contrast, self.saturation, rng)
        if self.erasing:
            images = random_erase(images, self.erasing, rng, pixel)
        if self.cutout:
            images = cut_out(images, self.cutout, rng, pixel)
        return images


def random_crop(images: Tensor, padding: int, rng: np.random.Generator) -> Tensor:
    """Pad non-empty ``(batch, channels, height, width)`` with zeros and crop it back, every row somewhere else."""
    batch, channels, height, width = images.shape
    top, left = rng.integers(0, 2 * padding + 1, (batch, 2)).T
    padded = F.pad(images, (padding,) * 4).contiguous()
    rows, columns = padded.shape[2:]
    # A crop is the same pattern of addresses wherever it begins, so all possible crops of all images are one
    # overlapping view that is indexed by the address of the first pixel. Half the time of a gather of single pixels.
    starts = (np.arange(batch) * channels * rows + top) * columns + left
    possible = ((batch - 1) * channels * rows + 2 * padding) * columns + 2 * padding + 1
    windows = padded.as_strided((possible, channels, height, width), (1, rows * columns, columns, 1))
    return windows.index_select(0, torch.from_numpy(starts).to(images.device, non_blocking=True))


def random_flip(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Flip each row of ``(batch, channels, height, width)`` left and right with probability 1/2."""
    batch = len(images)
    source = torch.from_numpy(np.arange(batch) + batch * (rng.random(batch) < 0.5))
    # Copying whole images is several times faster on a CPU than choosing pixel by pixel with torch.where.
    return torch.cat((images, images.flip(3))).index_select(0, source.to(images.device, non_blocking=True))


def cut_out(images: Tensor, side: int, rng: np.random.Generator, fill: Tensor) -> Tensor:
    """Cover one square of ``side`` pixels per row of ``(batch, channels, height, width)`` with ``fill`` (channels,)."""
    first = rng.integers(0, images.shape[2:], (len(images), 2)) - side // 2
    return _cover(images, first, np.full_like(first, side), fill)


def random_erase(images: Tensor, probability: float, rng: np.random.Generator, fill: Tensor) -> Tensor:
    """Cover one rectangle of some rows of ``(batch, channels, height, width)`` with ``fill`` (channels,)."""
    batch, (height, width) = len(images), images.shape[2:]
    erased = rng.random(batch) < probability
    area = rng.uniform(0.02, 0.33, batch) * height * width
    ratio = np.exp(rng.uniform(np.log(0.3), np.log(3.3), batch))
    sides = np.stack((np.sqrt(area * ratio), np.sqrt(area / ratio)), 1).round().astype(int)
    sides = sides.clip(1, (height, width)) * erased[:, None]
    first = np.floor(rng.random((batch, 2)) * ((height, width) - sides + 1)).astype(int)
    return _cover(images, first, sides, fill)


def _cover(images: Tensor, first: np.ndarray, sides: np.ndarray, fill: Tensor) -> Tensor:
    """Cover one rectangle per row, its first pixel and sides given as ``(batch, 2)`` of rows and columns."""

    def covered(axis: int) -> Tensor:
        offset = np.arange(images.shape[2 + axis]) - first[:, axis, None]
        inside = (offset >= 0) & (offset < sides[:, axis, None])
        return torch.from_numpy(inside).to(images.device, non_blocking=True)

    in_rows, in_columns = covered(0), covered(1)
    hole = in_rows[:, None, :, None] & in_columns[:, None, None, :]
    # uint8 products with a mask: less than half the time of torch.where on a CPU.
    return images * ~hole + hole * fill[:, None, None]
