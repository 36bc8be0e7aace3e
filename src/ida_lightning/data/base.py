"""The data module that mixes on the device and keeps the label order."""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler

from ida_lightning.data.in_memory import InMemoryImages, crop_and_flip
from ida_lightning.errors import InputError
from ida_lightning.mixing import MixedBatch, Mixing, mix_images, mix_labels


def _as_fetched(batch: Any) -> Any:
    return batch


class MixingDataModule(L.LightningDataModule):
    """Training batches of mixed images with their label mix; validation and test batches of plain ones.

    Images travel as uint8 and are normalised, augmented and mixed after the transfer, so on the device. All
    randomness of a training batch comes from a generator made of (seed, epoch, batch number, rank): ranks draw
    differently, nothing depends on global state, and a run resumed from a checkpoint draws what the
    uninterrupted one would have drawn.

    A data set is a subclass that sets the class attributes and :meth:`load`.

    Attributes:
        class_names: what the outputs stand for, in order.
        channels: of the images.
        image_size: height and width in pixels.
        mean: per channel, for pixel values from 0 to 1.
        std: per channel.
        crop_padding: random crop and flip of training images with this padding; None for no augmentation.

    Args:
        batch_size: rows per batch and process.
        mixing: how training images are mixed; ``Mixing("none")`` for not at all.
        seed: of shuffling and mixing; None takes the one of ``seed_everything``.
        num_workers: loader processes; data sets in memory need none.

    Raises:
        InputError: for a batch size below 1.
    """

    class_names: list[str]
    channels: int
    image_size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_padding: int | None = None

    def __init__(
        self,
        batch_size: int = 64,
        mixing: Mixing = Mixing(),  # noqa: B008 (frozen)
        seed: int | None = None,
        num_workers: int = 0,
    ) -> None:
        super().__init__()
        if batch_size < 1:
            raise InputError(f"batch_size: expected at least 1, got {batch_size}")
        self.batch_size = batch_size
        self.mixing = mixing
        self.seed = int(os.environ.get("PL_GLOBAL_SEED", 0)) if seed is None else seed
        self.num_workers = num_workers
        self.splits: dict[str, InMemoryImages] = {}
        self._progress = (0, 0)  # epoch, training batches of it that were mixed

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.class_names)

    @abstractmethod
    def load(self) -> dict[str, InMemoryImages]:
        """The splits ``train``, ``val`` and ``test``."""

    def setup(self, stage: str) -> None:
        """Load the splits once, whatever the stage."""
        self.splits = self.splits or self.load()

    def train_dataloader(self) -> DataLoader[MixedBatch]:
        """Shuffled anew every epoch, each process its own share; the incomplete last batch is left out.

        A loop without a Trainer calls ``loader.sampler.set_epoch(epoch)`` for that.
        """
        # Lightning leaves a DistributedSampler alone and tells it the epoch; one process is the case of one replica.
        sampler: DistributedSampler[MixedBatch] = DistributedSampler(
            self.splits["train"],
            num_replicas=self.trainer.world_size if self.trainer else 1,
            rank=self.trainer.global_rank if self.trainer else 0,
            seed=self.seed,
        )
        drop_last = len(sampler) >= self.batch_size
        return self._loader("train", sampler=sampler, drop_last=drop_last)

    def val_dataloader(self) -> DataLoader[MixedBatch]:
        """The validation split, in order."""
        return self._loader("val")

    def test_dataloader(self) -> DataLoader[MixedBatch]:
        """The test split, in order."""
        return self._loader("test")

    def predict_dataloader(self) -> DataLoader[MixedBatch]:
        """The test split, in order."""
        return self._loader("test")

    def _loader(self, split: str, **options: Any) -> DataLoader[MixedBatch]:
        return DataLoader(
            self.splits[split],
            batch_size=self.batch_size,
            num_workers=self.num_workers,
            persistent_workers=self.num_workers > 0,
            pin_memory=torch.cuda.is_available(),
            collate_fn=_as_fetched,
            **options,
        )

    def on_after_batch_transfer(self, batch: MixedBatch, dataloader_idx: int) -> MixedBatch:
        """Normalise; in training also augment and mix."""
        trainer = self.trainer
        if trainer is None or not trainer.training:
            batch = batch._replace(images=self.normalise(batch.images))
        else:
            epoch = trainer.current_epoch
            at, batches = self._progress
            batches = batches if at == epoch else 0
            self._progress = (epoch, batches + 1)
            batch = self.mix(batch, self.batch_generator(epoch, batches, trainer.global_rank))
        # Lightning converts what the loader yields, and that was uint8; the label weights stay in float32.
        return batch if trainer is None else batch._replace(images=trainer.precision_plugin.convert_input(batch.images))

    def batch_generator(self, epoch: int, batch: int, rank: int = 0) -> np.random.Generator:
        """The source of all randomness of one training batch."""
        return np.random.default_rng((self.seed, epoch, batch, rank))

    def mix(self, batch: MixedBatch, rng: np.random.Generator) -> MixedBatch:
        """The training batch made of a batch as loaded: augmented, normalised and mixed with draws from ``rng``.

        Args:
            batch: uint8 images, labels of one class per row.
            rng: the source of all randomness; the same state gives the same batch.
        """
        images = batch.images
        if self.crop_padding is not None:
            images = crop_and_flip(images, self.crop_padding, rng)
        images = self.normalise(images)
        height, width = images.shape[2:]
        plan = self.mixing.draw(len(images), (height, width), rng)
        if plan is None:
            return batch._replace(images=images)
        return MixedBatch(
            mix_images(images, plan),
            mix_labels(batch.label_mix.labels[:, 0], plan),
            batch.index,
            plan.partner.to(images.device, non_blocking=True),
        )

    def normalise(self, images: Tensor) -> Tensor:
        """Float images with zero mean and unit variance from uint8 ones."""
        mean, std = self._statistics(images)
        return (images / 255 - mean) / std

    def denormalise(self, images: Tensor) -> Tensor:
        """Pixel values from 0 to 1 again, for pictures."""
        mean, std = self._statistics(images)
        return (images * std + mean).clamp(0, 1)

    def _statistics(self, images: Tensor) -> Iterator[Tensor]:
        for values in (self.mean, self.std):
            yield torch.tensor(values)[:, None, None].to(images.device, non_blocking=True)

    def state_dict(self) -> dict[str, Any]:
        """How far the draws have come, so that a resumed run goes on with the next ones."""
        return {"epoch": self._progress[0], "batches": self._progress[1]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on where ``state_dict`` was taken."""
        self._progress = (state_dict["epoch"], state_dict["batches"])
