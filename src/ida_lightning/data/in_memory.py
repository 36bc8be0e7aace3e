"""Keeps labelled images or other inputs in memory, fetches them by the batch and augments them on the device."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import torch
from sklearn.model_selection import train_test_split
from torch import Tensor
from torch.utils.data import Dataset

from ida_lightning.data.labels import not_negative
from ida_lightning.errors import InputError, int_vector, is_tensor, kind_of
from ida_lightning.inputs import Inputs, check_inputs, rows_in, take_rows
from ida_lightning.label_mix import LabelMix
from ida_lightning.mixing import MixedBatch


class InMemoryRows(Dataset[MixedBatch], ABC):
    """Holds labelled rows in memory; a batch is one fetch instead of one call per row: a base.

    Attributes:
        labels: int64 ``(rows,)``.
    """

    labels: Tensor

    @abstractmethod
    def fetch(self, index: Tensor) -> Inputs:
        """Return the inputs of rows, int64 ``(batch,)``."""

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, key: int) -> MixedBatch:
        return self.__getitems__([key])

    def __getitems__(self, keys: Sequence[int]) -> MixedBatch:
        index = torch.as_tensor(keys) % len(self)  # the epoch in the key matters to sets that decode
        mix = LabelMix.unmixed(self.labels[index])
        return MixedBatch(self.fetch(index), mix, index, torch.arange(len(index))[:, None])


class InMemoryImages(InMemoryRows):
    """Holds uint8 images and their labels.

    Args:
        images: uint8 ``(images, channels, height, width)``.
        labels: int64 ``(images,)``.

    Raises:
        InputError: for other dtypes or shapes, or numbers of images and labels that differ.
    """

    def __init__(self, images: Tensor, labels: Tensor) -> None:
        expected = "uint8 (images, channels, height, width)"
        if is_tensor("images", images, expected).dtype != torch.uint8 or images.ndim != 4:
            raise InputError(f"images: expected {expected}, got {kind_of(images)}")
        if not isinstance(labels, Tensor) or labels.dtype != torch.int64 or labels.shape != images.shape[:1]:
            raise InputError(f"labels: expected int64, one for each of {len(images)} images, got {kind_of(labels)}")
        self.images = images
        self.labels = labels

    def fetch(self, index: Tensor) -> Tensor:
        """Return the images of rows."""
        return self.images[index]

    def subset(self, rows: np.ndarray) -> InMemoryImages:
        """Return a copy of the images at ``rows``."""
        chosen = torch.from_numpy(rows)
        return InMemoryImages(self.images[chosen], self.labels[chosen])


class InMemoryInputs(InMemoryRows):
    """Holds labelled inputs of any kind.

    Args:
        inputs: a tensor ``(rows, ...)``, or a mapping of such (token ids and their mask, say).
        labels: int64 ``(rows,)``.

    Raises:
        InputError: for inputs of another structure, or numbers of rows that differ.

    Example:
        >>> ids = torch.tensor([[5, 2], [7, 0]])
        >>> sentences = InMemoryInputs({"ids": ids, "mask": ids > 0}, torch.tensor([0, 1]))
        >>> sentences[1].inputs
        {'ids': tensor([[7, 0]]), 'mask': tensor([[ True, False]])}
    """

    def __init__(self, inputs: Inputs, labels: Tensor) -> None:
        self.inputs = check_inputs("inputs", inputs)
        self.labels = int_vector("labels", labels, rows_in(inputs))

    def fetch(self, index: Tensor) -> Inputs:
        """Return the inputs of rows."""
        return take_rows(self.inputs, index)


def carve(labels: Tensor, share: float | None) -> tuple[np.ndarray, np.ndarray]:
    """Divide rows into those to train with and those to validate with; never depends on a seed.

    Args:
        labels: int64, of all rows.
        share: of the rows to validate with, stratified; at least one a class. 0 takes none, 1 takes all. None takes a
            tenth, but at least five a class (as far as that leaves two thirds) and, of very many, 10,000.

    Raises:
        InputError: see :func:`stratified_split`.

    Example:
        >>> rest, held = carve(torch.arange(600) % 10, None)
        >>> len(rest), len(held)
        (540, 60)
    """
    rows, none = np.arange(len(labels)), np.arange(0)
    if share is not None and share in (0, 1):
        return (none, rows) if share else (rows, none)
    classes = int((int_vector("labels", labels).bincount() > 0).sum())
    if share is None:
        least = min(5 * classes, len(labels) // 3)
        count = min(max(math.ceil(len(labels) / 10), least), max(10_000, least))
    else:
        count = math.ceil(share * len(labels))
    return stratified_split(labels, max(count, classes))


def stratified_split(labels: Tensor, held_out: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw the row numbers of a fixed stratified split into the rest and ``held_out`` rows; never depends on a seed.

    Raises:
        InputError: if there are fewer rows on one side than classes, or a class has a single row.
    """
    not_negative(int_vector("labels", labels))
    counts = labels.bincount()
    classes = int((counts > 0).sum())
    if not classes <= held_out <= len(labels) - classes:
        raise InputError(f"val_images: expected {classes} ... {len(labels) - classes}, one a class, got {held_out}")
    if (counts == 1).any():
        raise InputError(
            f"labels: expected two images a class or more, got one of class {int((counts == 1).int().argmax())}"
        )
    rest, held = train_test_split(np.arange(len(labels)), test_size=held_out, stratify=labels.numpy(), random_state=0)
    return np.sort(rest), np.sort(held)
