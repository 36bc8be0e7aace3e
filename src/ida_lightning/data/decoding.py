"""Makes batches of uint8 images from what a data set holds: files, encoded bytes or pixels."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as F

from ida_lightning.data.image_files import UNREADABLE, as_seen, read_image
from ida_lightning.errors import InputError, kind_of
from ida_lightning.label_mix import LabelMix
from ida_lightning.mixing import MixedBatch


class Encoded(NamedTuple):
    """An image that is to be decoded, with what its random transform draws from.

    Attributes:
        epoch: that the draws belong to.
        number: of the image in its data set, for the draws and for ``MixedBatch.index``.
        name: called for messages.
        fetch: called for the image and its label.
    """

    epoch: int
    number: int
    name: Callable[[], str]
    fetch: Callable[[], tuple[Any, int]]


@dataclass(frozen=True)
class ImageDecoding:
    """Decodes and transforms images, with draws of (seed, epoch, number) and nothing else.

    Args:
        num_classes: labels are 0 ... num_classes - 1.
        channels: that every image must have.
        transform: from a decoded image to one of the kinds of :meth:`read` or floating point pixels from 0 to 1.
        seed: of the transform's draws.
        unlabelled: take the label -1, which stands for one that is not known.
        size: height and width that every image must have after the transform; None for any that is the same for all.
    """

    num_classes: int
    channels: int
    transform: Callable[[Any], Any] | None = None
    seed: int = 0
    unlabelled: bool = False
    size: int | None = None

    def batch(self, items: Iterable[Encoded]) -> MixedBatch:
        """Decode the images of a batch; the global generators are afterwards what they were.

        Raises:
            InputError: for images of different sizes; see :meth:`read`.
        """
        images: list[Tensor] = []
        labels, index = [], []
        with _own_draws():
            for item in items:
                draws = np.random.SeedSequence((self.seed, item.epoch, item.number)).generate_state(1, np.uint64)
                _seed_draws(int(draws[0]))
                image, label = self.read(item.fetch, item.name)
                if images and image.shape != images[0].shape:
                    raise InputError(
                        f"{item.name()}: expected an image of {tuple(images[0].shape)} like the others of its "
                        f"batch, got {tuple(image.shape)}; give a transform that makes them equal"
                    )
                images.append(image)
                labels.append(label)
                index.append(item.number)
        mix = LabelMix.unmixed(torch.tensor(labels))
        return MixedBatch(torch.stack(images), mix, torch.tensor(index), torch.arange(len(index))[:, None])

    def read(self, fetch: Callable[[], tuple[Any, int]], name: Callable[[], str]) -> tuple[Tensor, int]:
        """Decode and transform one image; return it with its label.

        Args:
            fetch: returns the image, a PIL image, an encoded one as bytes, a uint8 array ``(height, width[,
                channels])`` or a uint8 tensor ``(channels, height, width)``, and its label.
            name: returns what messages call it.

        Raises:
            InputError: for an image or a label that cannot be used.
        """
        try:
            image, label = fetch()
            if isinstance(image, bytes):
                image = read_image(BytesIO(image))
            elif isinstance(image, Image.Image):
                image.load()
                image = as_seen(image)
            image = as_uint8(_to_pixels(self.transform(image)) if self.transform else image)
        except InputError as error:
            raise InputError(f"{name()}: {error}") from error
        except UNREADABLE as error:
            raise InputError(f"{name()}: not readable as an image ({error})") from error
        if not (0 <= label < self.num_classes or (self.unlabelled and label == -1)):
            raise InputError(f"{name()}: expected a label 0 ... {self.num_classes - 1}, got {label}")
        if image.shape[0] != self.channels:
            raise InputError(f"{name()}: expected {self.channels} channels, got {image.shape[0]}")
        if self.size is not None and image.shape[1:] != (self.size, self.size):
            height, width = image.shape[1:]
            raise InputError(
                f"{name()}: expected {self.size} x {self.size} pixels after the transform, got {height} x {width}"
            )
        return image, label


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


def as_uint8(image: Any) -> Tensor:
    """Return the pixels of a PIL image, an array or a tensor as a uint8 tensor ``(channels, height, width)``."""
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
