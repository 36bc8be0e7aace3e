"""Random brightness, contrast and saturation of a whole uint8 batch, another one for every row."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ida_lightning.errors import InputError

# Weights of red, green and blue in grey, as of torchvision and Pillow (ITU-R 601-2).
_GREY = (0.2989, 0.587, 0.114)


def jitter_tones(
    images: Tensor, brightness: float, contrast: float, saturation: float, rng: np.random.Generator
) -> Tensor:
    """Change the tones of every image by factors of its own, one after the other, each drawn around 1.

    A factor is uniform between ``max(0, 1 - strength)`` and ``1 + strength``. Factors and rounding after every step
    are those of ``torchvision.transforms.v2.ColorJitter``, whose order is random and whose draws are for the batch.

    Args:
        images: uint8 ``(batch, channels, height, width)``, 1 or 3 channels.
        brightness: strength; 0 for none, as for the others.
        contrast: likewise.
        saturation: likewise; nothing for images of one channel.
        rng: the source of all randomness.

    Raises:
        InputError: for another number of channels.
    """
    if images.shape[1] not in (1, 3):
        raise InputError(f"images: expected 1 or 3 channels to change tones, got {images.shape[1]}")
    for strength, change in ((brightness, _brighten), (contrast, _contrast), (saturation, _saturate)):
        if strength:
            factors = rng.uniform(max(0.0, 1 - strength), 1 + strength, len(images)).astype(np.float32)
            on_device = torch.from_numpy(factors).to(images.device, non_blocking=True)
            images = change(images, on_device[:, None, None, None])
    return images


def _brighten(images: Tensor, factor: Tensor) -> Tensor:
    return (images * factor).clamp_(0, 255).to(torch.uint8)


def _contrast(images: Tensor, factor: Tensor) -> Tensor:
    return _blend(images, _grey(images).mean((1, 2, 3), keepdim=True), factor)


def _saturate(images: Tensor, factor: Tensor) -> Tensor:
    return images if images.shape[1] == 1 else _blend(images, _grey(images), factor)


def _blend(images: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    return (images * factor + other * (1 - factor)).clamp_(0, 255).to(torch.uint8)


def _grey(images: Tensor) -> Tensor:
    """Return whole grey values in float32, ``(batch, 1, height, width)``."""
    if images.shape[1] == 1:
        return images.float()
    red, green, blue = (weight * images[:, channel] for channel, weight in enumerate(_GREY))
    return (red + green + blue).floor_()[:, None]
