"""RandAugment of a whole uint8 batch: the operations of torchvision, another one for every row."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as tv

from ida_lightning.errors import InputError

MAGNITUDES = 31  # 0 to 30, as in torchvision


def _sharpen(images: Tensor, factor: float) -> Tensor:
    # tv.adjust_sharpness copies its kernel to the device and waits for that. The sums here are whole numbers below
    # 2**24 and a thirteenth is never halfway between two, so rounding gives the same blur on every device.
    if min(images.shape[2:]) <= 2:
        return images
    sharp = images.float()
    inner = sharp[:, :, 1:-1, 1:-1]
    blurred = F.avg_pool2d(sharp, 3, stride=1, divisor_override=1).add_(inner, alpha=4).div_(13).round_()
    inner.add_(blurred.sub_(inner), alpha=1 - factor)
    return sharp.clamp_(0, 255).to(torch.uint8)


def _shear(images: Tensor, x: float, y: float, fill: float) -> Tensor:
    angles = [math.degrees(math.atan(level)) for level in (x, y)]
    sheared: Tensor = tv.affine(images, 0.0, [0, 0], 1.0, angles, fill=fill, center=[0, 0])
    return sheared


def _shift(images: Tensor, x: float, y: float, fill: float) -> Tensor:
    shifted: Tensor = tv.affine(images, 0.0, [int(x), int(y)], 1.0, [0.0, 0.0], fill=fill)
    return shifted


# Arguments: images, level, fill. These only move pixels.
_MOVES: dict[str, Callable[[Tensor, float, float], Tensor]] = {
    "Identity": lambda images, level, fill: images,
    "ShearX": lambda images, level, fill: _shear(images, level, 0, fill),
    "ShearY": lambda images, level, fill: _shear(images, 0, level, fill),
    "TranslateX": lambda images, level, fill: _shift(images, level, 0, fill),
    "TranslateY": lambda images, level, fill: _shift(images, 0, level, fill),
    "Rotate": lambda images, level, fill: tv.rotate(images, level, fill=fill),
}
# Arguments: images, level. These treat every image of a batch as if it were alone.
_TONES: dict[str, Callable[[Tensor, float], Tensor]] = {
    "Brightness": lambda images, level: tv.adjust_brightness(images, 1 + level),
    "Color": lambda images, level: tv.adjust_saturation(images, 1 + level),
    "Contrast": lambda images, level: tv.adjust_contrast(images, 1 + level),
    "Sharpness": lambda images, level: _sharpen(images, 1 + level),
    "Posterize": lambda images, level: tv.posterize(images, int(level)),
    "Solarize": lambda images, level: tv.solarize(images, level),
    "AutoContrast": lambda images, level: tv.autocontrast(images),
    "Equalize": lambda images, level: tv.equalize(images),
}
OPERATIONS = (*_MOVES, *_TONES)
_UNSIGNED = {"Identity", "Posterize", "Solarize", "AutoContrast", "Equalize"}
_SIGNED = np.array([name not in _UNSIGNED for name in OPERATIONS])


@lru_cache(maxsize=256)
def level_of(name: str, magnitude: int, height: int, width: int) -> float:
    """Return what a magnitude from 0 to 30 means to an operation on images of this size; the sign is drawn apart.

    Slope of a shear, pixels of a shift, degrees, change of a factor of 1, bits that are left by ``Posterize``, pixel
    value from which ``Solarize`` inverts; 0 for operations without a strength.
    """
    if name == "Posterize":
        return float((8 - torch.arange(MAGNITUDES) / 7.5).round()[magnitude])
    if name == "Solarize":
        return 255 * float(torch.linspace(1, 0, MAGNITUDES)[magnitude])
    largest = dict.fromkeys(("Brightness", "Color", "Contrast", "Sharpness"), 0.9)
    largest |= {"ShearX": 0.3, "ShearY": 0.3, "Rotate": 30.0}
    largest |= {"TranslateX": 150 / 331 * width, "TranslateY": 150 / 331 * height}
    return float(torch.linspace(0, largest.get(name, 0.0), MAGNITUDES)[magnitude])


@lru_cache(maxsize=8)
def _sources(magnitude: int, height: int, width: int, device: torch.device) -> Tensor:
    """Return the pixel seen at each place after each move, int64 ``(2 * moves, height * width)``, both signs of each.

    The pixels are numbered row by row; the number ``height * width`` stands for the fill colour.
    """
    pixels = height * width
    # Whole numbers are exact in float32 up to 2**24, which is an image of 4096 x 4096.
    numbers = torch.arange(pixels, dtype=torch.float32, device="cpu").view(1, 1, height, width)
    with torch.autocast("cpu", enabled=False):  # bfloat16 would move the sampling grid by pixels
        moved = [
            move(numbers, sign * level_of(name, magnitude, height, width), pixels)
            for name, move in _MOVES.items()
            for sign in (1, -1)
        ]
    return torch.cat(moved).flatten(1).long().to(device, non_blocking=True)


def rand_augment(images: Tensor, operations: int, magnitude: int, rng: np.random.Generator, fill: Tensor) -> Tensor:
    """Apply ``operations`` random operations to every image, one after the other (Cubuk et al. 2020).

    The operations, their magnitudes and nearest-neighbour sampling are those of ``torchvision.transforms.v2``, whose
    RandAugment draws once for the whole batch.

    Args:
        images: uint8 ``(batch, channels, height, width)``, 1 or 3 channels, batch at least 1.
        operations: how many per image, drawn with replacement.
        magnitude: from 0 to 30.
        rng: the source of all randomness.
        fill: uint8 ``(channels,)`` on the device of the images, for what was outside the image.

    Raises:
        InputError: for another number of channels.
    """
    if images.shape[1] not in (1, 3):
        raise InputError(f"images: expected 1 or 3 channels for RandAugment, got {images.shape[1]}")
    for _ in range(operations):
        operation = rng.integers(0, len(OPERATIONS), len(images))
        negative = rng.random(len(images)) < 0.5
        images = apply_operations(images, operation, negative, magnitude, fill)
    return images


def apply_operations(
    images: Tensor, operation: np.ndarray, negative: np.ndarray, magnitude: int, fill: Tensor
) -> Tensor:
    """Apply to every row its own operation: its number in ``OPERATIONS``, and whether its level is negated.

    Rows are sorted so that those with the same operation and sign are one slice and one call; all moves together are
    one gather. ``operation`` and ``negative`` are ``(batch,)`` on the host, so the slices are known without waiting.
    """
    channels, height, width = images.shape[1:]
    kind = 2 * operation + (negative & _SIGNED[operation])
    order = np.argsort(kind, kind="stable")
    kind = kind[order]
    on_device = torch.from_numpy(np.stack((order, np.argsort(order), kind))).to(images.device, non_blocking=True)
    sort, unsort, sorted_kind = on_device.unbind()
    images = images.index_select(0, sort)

    moves = int(np.searchsorted(kind, 2 * len(_MOVES)))
    source = _sources(magnitude, height, width, images.device).index_select(0, sorted_kind[:moves])
    pixels = torch.cat((images[:moves].flatten(2), fill[:, None].expand(moves, channels, 1)), 2)
    moved = pixels.gather(2, source[:, None].expand(moves, channels, -1))
    parts = [moved.view(moves, channels, height, width)]
    for which in np.unique(kind[moves:]).tolist():
        start, end = np.searchsorted(kind, (which, which + 1)).tolist()
        name = OPERATIONS[which // 2]
        level = level_of(name, magnitude, height, width)
        parts.append(_TONES[name](images[start:end], -level if which % 2 else level))
    return torch.cat(parts).index_select(0, unsort)
