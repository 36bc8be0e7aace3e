"""What a stream of images is: the contract between an engine that reads shards and what this package does with them."""

from __future__ import annotations

import importlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from hashlib import blake2b, sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import get_worker_info

from ida_lightning.errors import InputError, at_least
from ida_lightning.remote import is_address

PACKED = "images.json"
"""What the packer writes beside shards: ``{"images": number, "class_names": [...]}``."""
_LARGEST = 2**63


class StreamedImage(NamedTuple):
    """One image as an engine yields it.

    Attributes:
        image: its file's content as bytes, a PIL image, or uint8 pixels: an array ``(height, width[, channels])`` or a
            tensor ``(channels, height, width)``. An engine decodes nothing, so that nothing of a file is lost: see
            :func:`ida_lightning.data.image_files.as_seen`.
        label: 0 ... classes - 1.
        id: the same in every epoch and run, and of this image alone. Whole numbers are kept, anything else becomes
            one; None goes by the image's content.
    """

    image: Any
    label: Any
    id: int | str | None = None


class StreamShare(NamedTuple):
    """Which images of a pass over a stream one process wants, and in what order.

    Attributes:
        seed: of the order.
        epoch: number of the pass.
        shuffled: whether the order changes with seed and epoch, as in training.
        rank: of this process.
        ranks: number of processes.
        workers: loader processes of each, at least 1; every one reads a part of its own.
        batch_size: images that a worker takes at a time.
        skip: batches of each worker that an interrupted run has had.
    """

    seed: int = 0
    epoch: int = 0
    shuffled: bool = False
    rank: int = 0
    ranks: int = 1
    workers: int = 1
    batch_size: int = 1
    skip: int = 0

    @property
    def parts(self) -> int:
        """Number of workers of all processes together."""
        return self.ranks * self.workers

    @property
    def part(self) -> int:
        """Number of this worker's part; asked in the worker. The parts of a few shards are of different processes."""
        info = get_worker_info()
        return (0 if info is None else info.id) * self.ranks + self.rank

    def order(self) -> int:
        """Return the seed of what is drawn for this pass."""
        return int(np.random.SeedSequence((self.seed, self.epoch)).generate_state(1, np.uint32)[0])


class ImageStream(ABC):
    """A split of labelled images that is read in order: all that :class:`StreamingDataModule` asks of an engine.

    The engine knows shards, shuffling and reading. Decoding, augmenting and mixing are not its business. To stream from
    an engine of your own, derive from this and give :meth:`open`.

    Args:
        images: how many there are; None if that is not known, as training for a number of epochs needs it.

    Attributes:
        resumes: whether :meth:`open` begins exactly behind ``share.skip`` batches of each worker. Where it cannot, a
            run that stopped in the middle of an epoch is not gone on with, unless ``allow_inexact_resume``.

    Raises:
        InputError: for a number below 1.

    Example:
        >>> class Numbers(ImageStream):
        ...     def open(self, share):
        ...         from_here = range(share.part, 100, share.parts)[share.skip * share.batch_size :]
        ...         return [StreamedImage(np.full((8, 8, 3), row, np.uint8), row % 2, row) for row in from_here]
        >>> [image.id for image in Numbers(100).open(StreamShare(batch_size=48, skip=2))]
        [96, 97, 98, 99]
    """

    resumes: bool = True

    def __init__(self, images: int | None = None) -> None:
        self.images = None if images is None else at_least("images", images, 1)

    @abstractmethod
    def open(self, share: StreamShare) -> Iterable[StreamedImage]:
        """Return what each worker iterates over to get its part of a pass; called before the workers start.

        What is returned is pickled where workers are not forked. All parts together are every image once; those that
        are dropped so that parts are equal are dropped by whoever reads batches.
        """

    def size(self) -> int | None:
        """Return how many images there are; None if that is not known."""
        return self.images

    def shards(self) -> int | None:
        """Return how many shards there are where workers read whole ones; None where the engine divides images."""
        return None

    def per_part(self, parts: int) -> int | None:
        """Return how many images each of so many parts has at least, if shards differ by one; None if not known.

        Of 103 images in 8 shards, one of 4 parts has 24 at least: two shards of 12.
        """
        size, shards = self.size(), self.shards()
        if size is None:
            return None
        return size // parts if shards is None else shards // parts * (size // shards)

    def facts(self) -> Mapping[str, Any]:
        """Return all that decides about its images and their order, as plain values."""
        return {"images": self.images}

    def class_names(self) -> list[str] | None:
        """Return what labels stand for, if the shards say so."""
        return None

    def fingerprint(self) -> str:
        """Compute the SHA-256 of what :meth:`facts` says."""
        facts = json.dumps({"stream": type(self).__name__, **self.facts()}, sort_keys=True, default=str)
        return sha256(facts.encode()).hexdigest()


def number_of(image: StreamedImage) -> int:
    """Return the id of an image as a whole number from 0 on.

    Example:
        >>> number_of(StreamedImage(b"", 0, 7)), number_of(StreamedImage(b"", 0, "000012"))
        (7, 12)
        >>> number_of(StreamedImage(b"", 0, "n01440764/7.jpeg"))
        5767619343812478130

    Raises:
        InputError: for a number that is negative or needs more than 63 bits.
    """
    given = image.id
    if given is None:
        return _digest(_content(image.image))
    text = str(given)
    if isinstance(given, str) and not (text.isascii() and text.isdigit() and int(text) < _LARGEST):
        return _digest(text.encode(errors="surrogateescape"))
    if not 0 <= int(given) < _LARGEST:
        raise InputError(f"id: expected a whole number from 0 to 2**63 - 1, or text, got {given}")
    return int(given)


def _content(image: Any) -> bytes:
    if isinstance(image, bytes):
        return image
    return image.tobytes() if hasattr(image, "tobytes") else bytes(np.asarray(image).tobytes())


def _digest(content: bytes) -> int:
    return int.from_bytes(blake2b(content, digest_size=8).digest(), "big") >> 1


def what_was_packed(folder: str | Path) -> dict[str, Any]:
    """Read what the packer said of shards in a local folder; nothing if it did not make them."""
    path = Path(folder) / PACKED
    if is_address(folder) or not path.is_file():
        return {}
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
        return {"images": int(said["images"]), "class_names": [str(name) for name in said["class_names"]]}
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise InputError(f"{path}: expected images and class_names as the packer writes them ({error})") from error


def engine(package: str) -> Any:
    """Import the package of an engine.

    Raises:
        InputError: if it is not there, with what installs it.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise InputError(
            f"data: expected the package {package} for this stream, found none; pip install 'ida-lightning[streaming]' "
            f"brings it ({error})"
        ) from error
