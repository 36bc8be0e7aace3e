"""Reads and decodes labelled images one by one, such as folders of JPEG files."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from ida_lightning.data.image_files import UNREADABLE, as_seen
from ida_lightning.data.in_memory import InMemoryImages
from ida_lightning.data.labels import label_vector, whole_label
from ida_lightning.data_facts import INTERPOLATION
from ida_lightning.errors import InputError, kind_of
from ida_lightning.inputs import as_pictures
from ida_lightning.label_mix import LabelMix
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
        self.num_classes = num_classes
        self.channels = channels
        self.rows = np.arange(len(source)) if rows is None else rows
        self.transform = transform
        self.seed = seed
        self.image_key = image_key
        self.label_key = label_key
        self.unlabelled = unlabelled
        self.size = size

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: int) -> MixedBatch:
        return self.__getitems__([key])

    def __getitems__(self, keys: Sequence[int]) -> MixedBatch:
        images: list[Tensor] = []
        labels, index = [], []
        with _own_draws():
            for key in keys:
                epoch, row = divmod(int(key), len(self))
                draws = np.random.SeedSequence((self.seed, epoch, row)).generate_state(1, np.uint64)
                _seed_draws(int(draws[0]))
                image, label = self.read(row)
                if images and image.shape != images[0].shape:
                    raise InputError(
                        f"{self.name_of(row)}: expected an image of {tuple(images[0].shape)} like the others of its "
                        f"batch, got {tuple(image.shape)}; give a transform that makes them equal"
                    )
                images.append(image)
                labels.append(label)
                index.append(row)
        mix = LabelMix.unmixed(torch.tensor(labels))
        return MixedBatch(torch.stack(images), mix, torch.tensor(index), torch.arange(len(index))[:, None])

    def read(self, row: int) -> tuple[Tensor, int]:
        """Decode and transform one image; return it with its label."""
        try:
            image, label = item_of(self.source[int(self.rows[row])], self.image_key, self.label_key)
            if isinstance(image, Image.Image):
                image.load()
                image = as_seen(image)
            image = _as_uint8(_to_pixels(self.transform(image)) if self.transform else image)
        except InputError as error:
            raise InputError(f"{self.name_of(row)}: {error}") from error
        except UNREADABLE as error:
            raise InputError(f"{self.name_of(row)}: not readable as an image ({error})") from error
        if not (0 <= label < self.num_classes or (self.unlabelled and label == -1)):
            raise InputError(f"{self.name_of(row)}: expected a label 0 ... {self.num_classes - 1}, got {label}")
        if image.shape[0] != self.channels:
            raise InputError(f"{self.name_of(row)}: expected {self.channels} channels, got {image.shape[0]}")
        if self.size is not None and image.shape[1:] != (self.size, self.size):
            height, width = image.shape[1:]
            raise InputError(
                f"{self.name_of(row)}: expected {self.size} x {self.size} pixels after the transform, got {height} x "
                f"{width}"
            )
        return image, label

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


@contextmanager
def _own_draws() -> Iterator[None]:
    """Put the global generators back as they were after the block."""
    numpy_state, python_state = np.random.get_state(), random.getstate()  # noqa: NPY002 (what transforms draw from)
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            np.random.set_state(numpy_state)  # noqa: NPY002
            random.setstate(python_state)


def _seed_draws(seed: int) -> None:
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    random.seed(seed)


def _to_pixels(image: Any) -> Any:
    """Return what a transform made; floating point pixels from 0 to 1 as uint8."""
    if not isinstance(image, Tensor) or not image.is_floating_point():
        return image
    low, high = (float(bound) for bound in image.aminmax())
    if not (low >= 0 and high <= 1):
        raise InputError(
            f"transform: expected uint8, or floating point pixels from 0 to 1, got {kind_of(image)} from {low:g} to "
            f"{high:g}; leave Normalize out, it happens on the device"
        )
    return image.mul(255).round().to(torch.uint8)


def _as_uint8(image: Any) -> Tensor:
    if isinstance(image, Image.Image):
        image = F.pil_to_tensor(image)
    if isinstance(image, np.ndarray):
        image = torch.from_numpy(image if image.ndim == 2 else image.transpose(2, 0, 1).copy())
        image = image[None] if image.ndim == 2 else image
    if not isinstance(image, Tensor):
        raise InputError(f"expected a PIL image, an array or a tensor, got {type(image).__name__}")
    if image.dtype != torch.uint8 or image.ndim != 3:
        raise InputError(
            f"expected a uint8 image (channels, height, width), got {kind_of(image)}; leave ToTensor and Normalize "
            "out of the transform, both happen on the device"
        )
    plain: Tensor = image.as_subclass(Tensor)
    return plain
