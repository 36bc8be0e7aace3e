"""Labelled images that fit in memory: fetched by the batch, augmented on the device."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from sklearn.model_selection import train_test_split
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from ida_lightning.label_mix import LabelMix
from ida_lightning.mixing import MixedBatch


class InMemoryImages(Dataset[MixedBatch]):
    """uint8 images and their labels; a batch is one indexing operation instead of one call per image.

    Args:
        images: uint8 ``(images, channels, height, width)``.
        labels: int64 ``(images,)``.
    """

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        self.images = images
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> MixedBatch:
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> MixedBatch:
        index = torch.as_tensor(indices)
        mix = LabelMix.unmixed(self.labels[index])
        return MixedBatch(self.images[index], mix, index, torch.arange(len(index)))

    def subset(self, rows: np.ndarray) -> InMemoryImages:
        """The images at ``rows``, copied."""
        chosen = torch.from_numpy(rows)
        return InMemoryImages(self.images[chosen], self.labels[chosen])


def stratified_split(labels: Tensor, held_out: int) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers of a fixed stratified split into the rest and ``held_out`` rows; never depends on a seed."""
    rest, held = train_test_split(np.arange(len(labels)), test_size=held_out, stratify=labels.numpy(), random_state=0)
    return np.sort(rest), np.sort(held)


def crop_and_flip(images: Tensor, padding: int, rng: np.random.Generator) -> Tensor:
    """Random crop after zero padding and random horizontal flip, drawn for every row on its own.

    Args:
        images: ``(batch, channels, height, width)``, any dtype and device.
        padding: pixels added on every side before cropping back to the same size.
        rng: the source of all randomness.
    """
    batch, channels, height, width = images.shape
    draws = rng.integers(0, 2 * padding + 1, (batch, 2)), rng.random(batch) < 0.5
    offset, flip = (torch.from_numpy(draw).to(images.device, non_blocking=True) for draw in draws)
    rows = offset[:, :1] + torch.arange(height, device=images.device)
    columns = torch.arange(width, device=images.device)
    columns = offset[:, 1:] + torch.where(flip[:, None], width - 1 - columns, columns)
    padded = F.pad(images, (padding,) * 4)
    flat = (rows[:, :, None] * (width + 2 * padding) + columns[:, None, :]).reshape(batch, 1, -1)
    return padded.flatten(2).gather(2, flat.expand(-1, channels, -1)).view_as(images)
