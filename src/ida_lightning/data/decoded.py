"""Reads and decodes labelled images one by one, such as folders of JPEG files."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import InterpolationMode, v2

from ida_lightning.data.decoding import Encoded, ImageDecoding
from ida_lightning.data.in_memory import InMemoryImages
from ida_lightning.data.labels import label_vector, whole_label
from ida_lightning.data_facts import INTERPOLATION
from ida_lightning.errors import InputError
from ida_lightning.inputs import as_pictures
from ida_lightning.mixing import MixedBatch

_IMAGE_KEYS = ("image", "img", "images", "pixel_values")
_LABEL_KEYS = ("label", "labels", "fine_label", "target")


class DecodedImages(Dataset[MixedBatch]):
    """Returns batches of uint8 images from any data set of images and labels.

    Random transforms draw from the global generators of torch, numpy and ``random``, which are set from (seed, epoch,
    row) before every image and put back after the batch: worker processes, their number and what happened before do
    not matter.

    Args:
        source: items are ``(image, label)`` or mappings with an image and a label; images are PIL images, uint8
            arrays ``(height, width[, channels])`` or uint8 tensors ``(channels, height, width)``.
        num_classes: labels are 0 ... num_classes - 1.
        channels: that every image must have.
        rows: which items; None for all.
        size: height and width that every image must have after the transform; None for any that is the same for all.
        unlabelled: take the label -1, which stands for one that is not known.
        transform: from a decoded image to one of the kinds above or floating point pixels from 0 to 1, all of one size.
        seed: of the transform's draws.
        image_key: of mappings; None tries the usual ones.
        label_key: likewise.

    Raises:
        InputError: while reading, with the file or item: unreadable images, labels out of range, images of
            another size or number of channels than the rest, images that are not uint8.
    """

    def __init__(
        self,
        source: Any,
        num_classes: int,
        channels: int,
        rows: np.ndarray | None = None,
        transform: Callable[[Any], Any] | None = None,
        seed: int = 0,
        image_key: str | None = None,
        label_key: str | None = None,
        unlabelled: bool = False,
        size: int | None = None,
    ) -> None:
        self.source = source
        self.rows = np.arange(len(source)) if rows is None else rows
        self.image_key = image_key
        self.label_key = label_key
        self.decoding = ImageDecoding(num_classes, channels, transform, seed, unlabelled, size)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: int) -> MixedBatch:
        return self.__getitems__([key])

    def __getitems__(self, keys: Sequence[int]) -> MixedBatch:
        places = [divmod(int(key), len(self)) for key in keys]
        return self.decoding.batch(
            Encoded(epoch, row, partial(self.name_of, row), partial(self._item, row)) for epoch, row in places
        )

    def read(self, row: int) -> tuple[Tensor, int]:
        """Decode and transform one image; return it with its label."""
        return self.decoding.read(partial(self._item, row), partial(self.name_of, row))

    def _item(self, row: int) -> tuple[Any, int]:
        return item_of(self.source[int(self.rows[row])], self.image_key, self.label_key)

    def name_of(self, row: int) -> str:
        """Return the file of a row where the source knows it, else its number."""
        return self.file_of(row) or f"item {int(self.rows[row])}"

    def file_of(self, row: int) -> str | None:
        """Return the file of a row; None if the source does not know it."""
        samples = attribute_of(self.source, "samples")
        return str(samples[int(self.rows[row])][0]) if samples else None

    def known_labels(self) -> Tensor | None:
        """Return the labels of all rows, or None if the source has no list of them."""
        if attribute_of(self.source, "targets", "labels", "column_names") is None:
            return None
        return labels_of(self.source, label_key=self.label_key)[torch.from_numpy(self.rows)]

    def in_memory(self) -> InMemoryImages:
        """Decode all images and return them as arrays, for sets that fit into memory."""
        batches = [self.__getitems__(range(at, min(at + 1000, len(self)))) for at in range(0, len(self), 1000)]
        images = [as_pictures("images", batch.inputs) for batch in batches]
        sizes = {tuple(some.shape[1:]) for some in images}
        if len(sizes) > 1:
            raise InputError(f"images: expected one size, got {', '.join(map(str, sorted(sizes)))}; give a transform")
        return InMemoryImages(
            torch.cat(images),
            torch.cat([batch.label_mix.labels[:, 0] for batch in batches]),
        )


def middle_of(size: int, crop: float) -> v2.Transform:
    """Return a transform that resizes an image and takes the square in its middle, for evaluation.

    Args:
        size: of the square in pixels.
        crop: share of the short side that the square keeps.
    """
    return v2.Compose(
        [v2.Resize(round(size / crop), InterpolationMode(INTERPOLATION), antialias=True), v2.CenterCrop(size)]
    )


def attribute_of(source: Any, *names: str) -> Any:
    """Return the first attribute that somebody else's data set has, None if it has none of these names."""
    return next((value for name in names if (value := getattr(source, name, None)) is not None), None)


def item_of(item: Any, image_key: str | None = None, label_key: str | None = None) -> tuple[Any, int]:
    """Return the image and the label of one item of a data set."""
    if isinstance(item, Mapping):
        image_key = image_key or _first_of(_IMAGE_KEYS, item, "image")
        label_key = label_key or _first_of(_LABEL_KEYS, item, "label")
        for key in (image_key, label_key):
            if key not in item:
                raise InputError(f"expected a key {key!r}, got {', '.join(map(repr, item))}")
        return item[image_key], whole_label(item[label_key])
    if isinstance(item, Sequence) and len(item) == 2:
        return item[0], whole_label(item[1])
    raise InputError(f"expected (image, label) or a mapping with both, got {type(item).__name__}")


def labels_of(source: Any, image_key: str | None = None, label_key: str | None = None) -> Tensor:
    """Return all labels of a data set, without decoding images where it offers a way."""
    if (labels := attribute_of(source, "targets", "labels")) is not None:
        return label_vector(labels)
    columns = attribute_of(source, "column_names")
    if columns:
        return label_vector(source[label_key or _first_of(_LABEL_KEYS, columns, "label")])
    labels = torch.empty(len(source), dtype=torch.int64)
    for row in range(len(source)):
        try:
            labels[row] = item_of(source[row], image_key, label_key)[1]
        except InputError as error:
            raise InputError(f"item {row}: {error}") from error
    return labels


def _first_of(usual: Sequence[str], keys: Any, what: str) -> str:
    for key in usual:
        if key in keys:
            return key
    raise InputError(f"expected a key for the {what}, one of {', '.join(usual)}, got {', '.join(map(repr, keys))}")
