"""The loader over a stream: batches of one process, pass after pass, going on where an interrupted pass stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, IterableDataset

from ida_lightning.data.decoding import Encoded, ImageDecoding, as_uint8
from ida_lightning.data.labels import whole_label
from ida_lightning.data.streaming.stream import ImageStream, StreamedImage, StreamShare, number_of
from ida_lightning.errors import InputError
from ida_lightning.mixing import MixedBatch


class StreamSplit:
    """A split that is a stream: what there is of it, and how its images are decoded.

    Args:
        name: of the split, which is that of the argument.
        stream: of its images.
        decoding: from what the stream yields to uint8 images.
    """

    def __init__(self, name: str, stream: ImageStream, decoding: ImageDecoding) -> None:
        self.name, self.stream, self.decoding = name, stream, decoding

    def fingerprint(self) -> str:
        """Compute the SHA-256 of what the stream says of itself."""
        return self.stream.fingerprint()


class StreamLoader:
    """Iterates over a split: the workers read, decode and batch; every pass starts them anew.

    It has a length if the number of images is known. Workers make whole batches, so what each has left over at its end
    is left out in training and a smaller batch elsewhere.

    Args:
        split: to read.
        share: of this process; epoch and skip are asked of ``position``.
        num_workers: loader processes; 0 reads in this one.
        position: asked when iteration starts: which epoch it is, and how many batches of it this process has had.
            Without an answer the epoch is the one that :meth:`set_epoch` was told.

    Raises:
        InputError: for a stream that cannot be read in so many parts, for more than one process and too few images or
            an unknown number of them in training, and while reading, for images that cannot be used.
    """

    def __init__(
        self,
        split: StreamSplit,
        share: StreamShare,
        num_workers: int = 0,
        position: Callable[[], tuple[int, int] | None] | None = None,
    ) -> None:
        self.split, self.share, self.num_workers = split, share, num_workers
        self.batch_size = share.batch_size
        self.position = position
        self.epoch = 0
        self._check_shards()
        self.batches_per_worker = self._batches_per_worker() if share.shuffled else None

    def _check_shards(self) -> None:
        shards, share, name = self.split.stream.shards(), self.share, self.split.name
        if shards is not None and share.shuffled and shards % share.parts:
            divided = f"{share.ranks} processes x {share.workers} workers"
            raise InputError(f"{name}: expected a multiple of {share.parts} shards for {divided}, got {shards}")
        if shards is not None and shards < share.ranks:
            raise InputError(f"{name}: expected at least {share.ranks} shards, one a process, got {shards}")

    def _batches_per_worker(self) -> int | None:
        share, argument = self.share, f"{self.split.name}.images"
        images = self.split.stream.per_part(share.parts)
        divided = f"{share.ranks} processes x {share.workers} workers"
        if images is None and share.ranks > 1:
            raise InputError(
                f"{argument}: expected their number with {share.ranks} processes, which must have equally many "
                "batches, got None"
            )
        if images is not None and images < share.batch_size:
            raise InputError(
                f"{argument}: expected a batch of {share.batch_size} for each of {divided}, got {images} for one of "
                "them; take fewer workers"
            )
        return None if images is None else images // share.batch_size

    def __len__(self) -> int:
        if self.batches_per_worker is None:
            raise TypeError("a stream of unknown length has none")
        return self.batches_per_worker * self.share.workers

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch that order and draws belong to, for a loop without a Trainer."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[MixedBatch]:
        epoch, had = (self.position() if self.position is not None else None) or (self.epoch, 0)
        # The first worker yields first, so what is left of a round is read and dropped.
        rounds, rest = divmod(had, self.share.workers)
        share = self.share._replace(epoch=epoch, skip=rounds)
        left = None if self.batches_per_worker is None else max(0, self.batches_per_worker - rounds)
        reader = _Reader(self.split, self.split.stream.open(share), share, left)
        loader = DataLoader(
            reader,
            batch_size=None,
            num_workers=self.num_workers,
            pin_memory=torch.cuda.is_available(),
            collate_fn=_as_read,
        )
        yield from islice(loader, rest, None)

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: where to go on is known to the Trainer, and the data module has the rest."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load nothing."""


class _Reader(IterableDataset[MixedBatch]):
    """Makes batches of a worker's part of a pass."""

    def __init__(
        self, split: StreamSplit, images: Iterable[StreamedImage], share: StreamShare, count: int | None
    ) -> None:
        self.split, self.images, self.share, self.count = split, images, share, count

    def __iter__(self) -> Iterator[MixedBatch]:
        images, made = iter(self.images), 0
        while made != self.count:
            taken = list(islice(images, self.share.batch_size))
            if self.share.shuffled and len(taken) < self.share.batch_size:
                if self.count is None:
                    return
                raise InputError(
                    f"{self.split.name}.images: expected as many as the shards have, they end {self.count - made} "
                    f"batches early in one of {self.share.parts} parts; give fewer, or make the shards equally long"
                )
            if not taken:
                return
            yield self.split.decoding.batch(self._encoded(image) for image in taken)
            made += 1

    def _encoded(self, image: StreamedImage) -> Encoded:
        number = number_of(image)
        name = f"{self.split.name}: image {number if image.id is None else image.id}"
        return Encoded(self.share.epoch, number, partial(str, name), partial(_fetched, image))


def _fetched(image: StreamedImage) -> tuple[Any, int]:
    # Transforms of torchvision leave arrays as they are.
    pixels = as_uint8(image.image) if isinstance(image.image, np.ndarray) else image.image
    return pixels, whole_label(image.label)


def _as_read(batch: Any) -> Any:
    return batch
