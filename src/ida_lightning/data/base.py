"""The base of all data modules: it mixes on the device and keeps the label order."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from torch.utils.data import DataLoader, Dataset

from ida_lightning.checks import seed_or_none
from ida_lightning.data.in_memory import InMemoryRows
from ida_lightning.data.loading import EpochSampler, ResumableLoader
from ida_lightning.data.summary import lines_about
from ida_lightning.data_facts import data_fingerprint
from ida_lightning.errors import InputError, at_least, is_a
from ida_lightning.inputs import Inputs, is_picture, rows_in
from ida_lightning.lightning_internals import batches_begun, epoch_in_progress, to_precision
from ida_lightning.mixing import MixedBatch, Mixing, mix_batch, plan_batch, stack_pool, with_plain


def _as_fetched(batch: Any) -> Any:
    return batch


DRAWS = 1
"""Counts the changes of what is drawn for a training batch from given numbers: what was stored before fits no more."""
# The split without which a Trainer's function cannot begin.
_NEEDED = {TrainerFn.FITTING: "train", TrainerFn.TESTING: "test"}


class LabelledDataModule(L.LightningDataModule, ABC):
    """Yields training batches of mixed inputs with their label mix, and validation and test batches of plain ones.

    Inputs are what the data sets give: vectors, sequences, spectrograms, or mappings of tensors such as token ids and
    their mask. They are mixed after the transfer, so on the device. All randomness of a training batch comes from
    generators made of (seed, epoch, batch number, rank): ranks draw differently, nothing depends on global state, and a
    resumed run, in the middle of an epoch too, sees the inputs and draws that the uninterrupted one would have seen.

    A data set is a subclass that gives ``class_names``, on the class or before ``super().__init__()``, and
    :meth:`load`. It may say by :meth:`normalise` and :meth:`augment` what becomes of loaded inputs on the device, and
    by :meth:`describe` how a person reads them. Of pictures it is a :class:`MixingDataModule`.

    Attributes:
        class_names: what the outputs stand for, in order.
        required: the attributes that a subclass gives.
        unit: what the rows are called in the log.
        origins: where each split comes from, in words, for the log; :meth:`load` may fill it.
        cycle: after how many epochs the same training inputs come again; None for never.
        keeps_plain: whether training batches know the unmixed inputs that they were made of, ``MixedBatch.plain``; a
            module whose teacher looks at those sets it for its fit.
        inner_layers: in which layers of the teacher (or of the only network) rows are mixed, in the place of inputs;
            :class:`~ida_lightning.methods.InnerMixingCallback` sets it for its fit.

    Args:
        batch_size: rows per batch and process.
        mixing: how training inputs are mixed; ``Mixing("none")`` for not at all. CutMix and mosaics are for inputs
            ``(batch, channels, height, width)``.
        seed: of shuffling and all draws; None takes the one of ``seed_everything``.
        num_workers: loader processes; data sets in memory need none.
        pool: with 0 a training batch is mixed. With n its inputs stay as they are, and n mixes of each follow them:
            ``(1 + n) * batch_size`` rows of the same augmented inputs, the clean ones first. 1 for inputs that the
            teacher alone labels beside clean ones (:class:`~ida_lightning.methods.TeacherLabelCallback`), more to
            pick from (:class:`~ida_lightning.methods.CutMixPickCallback`).

    Raises:
        InputError: for a subclass without one of the attributes (one without :meth:`load` is a ``TypeError``, as with
            any abstract method), a batch size below 1, a pool of nothing mixed, and, in :meth:`setup`, for splits that
            do not fit the attributes.

    Example:
        >>> from ida_lightning import InMemoryInputs
        >>> class Signals(LabelledDataModule):
        ...     class_names = ["low", "high"]
        ...
        ...     def load(self):
        ...         return {"train": InMemoryInputs(torch.randn(8, 20, 3), torch.arange(8) % 2)}
        >>> data = Signals(batch_size=4)
        >>> data.setup("fit")
        >>> next(iter(data.train_dataloader())).inputs.shape
        torch.Size([4, 20, 3])
    """

    class_names: list[str]
    required: tuple[str, ...] = ("class_names",)
    unit = "inputs"

    def __init__(
        self,
        batch_size: int = 64,
        mixing: Mixing = Mixing("mixup"),  # noqa: B008 (frozen)
        seed: int | None = None,
        num_workers: int = 0,
        pool: int = 0,
    ) -> None:
        # By the dictionaries, as asking for a property may read files.
        given = set(vars(self)).union(*(vars(cls) for cls in type(self).__mro__))
        if missing := [name for name in self.required if name not in given]:
            raise InputError(
                f"{type(self).__name__}: expected the attributes {', '.join(self.required)}, on the class or before "
                f"super().__init__(), got no {', '.join(missing)}"
            )
        super().__init__()
        self.batch_size = at_least("batch_size", batch_size, 1)
        self.mixing = is_a("mixing", mixing, Mixing)
        seed = seed_or_none("seed", seed)
        self.seed = int(os.environ.get("PL_GLOBAL_SEED", 0)) if seed is None else seed
        self.num_workers = at_least("num_workers", num_workers, 0)
        self.pool = at_least("pool", pool, 0)
        if pool and mixing.kind == "none":
            raise InputError(f"pool: expected 0 where mixing.kind is none, got {pool}")
        self.splits: Mapping[str, Dataset[MixedBatch]] = {}
        self.origins: dict[str, str] = {}
        self.cycle: int | None = None
        self.keeps_plain = False
        self.inner_layers: tuple[str, ...] = ()

    @property
    def num_classes(self) -> int:
        """Return the number of classes."""
        return len(self.class_names)

    @abstractmethod
    def load(self) -> Mapping[str, Dataset[MixedBatch]]:
        """Return the splits ``train``, ``val`` and ``test``; ``predict`` too if predictions are for other images.

        What :attr:`origins` says of where a split comes from is logged with its size.
        """

    def setup(self, stage: str) -> None:
        """Load the splits once, whatever the stage, and log how many rows each has."""
        if not self.splits:
            splits = self.load()
            for name, split in splits.items():
                self.check_split(name, split)
            self.splits = splits
            for line in lines_about(splits, self.origins, self.class_names, self.unit):
                rank_zero_info(line)
        # Not when loaders are asked for: an error there leaves torch's DataLoader as Lightning patches it.
        if self.trainer is not None and self.trainer.state.fn in _NEEDED:
            self._split(_NEEDED[self.trainer.state.fn])

    def check_split(self, name: str, split: Any) -> None:
        """Refuse a split in memory that has no rows, or labels of no class.

        Args:
            name: of the split.
            split: what :meth:`load` returned.
        """
        if not isinstance(split, InMemoryRows):
            return
        if not len(split):
            raise InputError(f"{name}: expected {self.unit}, got none")
        low, high = (int(bound) for bound in split.labels.aminmax())
        if low < 0 or high >= self.num_classes:
            wrong = low if low < 0 else high
            raise InputError(f"{name}: expected labels 0 ... {self.num_classes - 1}, got {wrong}")

    def train_dataloader(self) -> DataLoader[MixedBatch]:
        """Return a loader that shuffles every epoch, for this process's share; an incomplete last batch is left out.

        A loop without a Trainer calls ``loader.sampler.set_epoch(epoch)`` for that.
        """
        # Lightning leaves a DistributedSampler alone and tells it the epoch; one process is the case of one replica.
        sampler = EpochSampler(
            self._split("train"),
            self.seed,
            # Outside of training a loader starts at the beginning.
            lambda: self._position()[1] * self.batch_size if self.trainer and self.trainer.training else 0,
            *((self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)),
            cycle=lambda: self.cycle,
        )
        drop_last = len(sampler) >= self.batch_size
        return self._loader("train", sampler=sampler, drop_last=drop_last)

    def val_dataloader(self) -> DataLoader[MixedBatch] | list[DataLoader[MixedBatch]]:
        """Return a loader of the validation split, in order; an empty list if there is none."""
        return self._loader("val") if "val" in self.splits else []

    def test_dataloader(self) -> DataLoader[MixedBatch]:
        """Return a loader of the test split, in order."""
        return self._loader("test")

    def predict_dataloader(self) -> DataLoader[MixedBatch]:
        """Return a loader of the images to predict, in order: the test split unless there are others."""
        return self._loader("predict" if "predict" in self.splits else "test")

    def _split(self, name: str) -> Dataset[MixedBatch]:
        if name not in self.splits:
            raise InputError(f"{name}: this data module was given no such split")
        return self.splits[name]

    def _loader(self, split: str, **options: Any) -> DataLoader[MixedBatch]:
        return ResumableLoader(
            self._split(split),
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
            batch = batch._replace(inputs=self.normalise(batch.inputs))
        else:
            batch = self.mix(batch, self.batch_generator(*self._position(), trainer.global_rank))
        # Lightning converts what the loader yields, and that was uint8; the label weights stay in float32.
        return batch if trainer is None else _inputs_in_precision(trainer, batch)

    def _position(self) -> tuple[int, int]:
        """Return the epoch that draws belong to, and how many training batches of it this process has begun."""
        if self.trainer is None:
            return 0, 0
        epoch = epoch_in_progress(self.trainer)
        return epoch % (self.cycle or epoch + 1), batches_begun(self.trainer)

    def pictures(self) -> dict[str, Any]:
        """Return all that decides about the inputs of a training batch, beside epoch, batch and process."""
        return {
            "train": data_fingerprint(self._split("train")),
            "seed": self.seed,
            "batch_size": self.batch_size,
            "pool": self.pool,
            "mixing": asdict(self.mixing),
            "draws": DRAWS,
            **({"inner_layers": list(self.inner_layers)} if self.inner_layers else {}),  # older folders say nothing
        }

    def batch_generator(self, epoch: int, batch: int, rank: int = 0) -> np.random.Generator:
        """Return the generator of all random draws of one training batch."""
        return np.random.default_rng((self.seed, epoch, batch, rank))

    def mix(self, batch: MixedBatch, rng: np.random.Generator) -> MixedBatch:
        """Make a training batch from a batch as loaded: augment, normalise and mix it with draws from ``rng``.

        Args:
            batch: inputs as loaded, labels of one class per row.
            rng: the source of all randomness; the same state gives the same batch.
        """
        inputs = self.augment(batch.inputs, rng)
        clean, size = batch._replace(inputs=inputs), inputs.shape[2:] if is_picture(inputs) else (1, 1)
        drawn = [self.mixing.draw(rows_in(inputs), (size[0], size[1]), rng) for _ in range(max(1, self.pool))]
        plans = [plan for plan in drawn if plan is not None]
        mixes = [plan_batch(plan, clean) if self.inner_layers else mix_batch(plan, clean) for plan in plans]
        mixed = stack_pool(clean, mixes) if self.pool and mixes else mixes[0] if mixes else clean
        return with_plain(mixed, clean, plans) if self.keeps_plain else mixed

    def augment(self, inputs: Inputs, rng: np.random.Generator) -> Inputs:
        """Return training inputs as a network sees them; those of evaluation unless a subclass draws something.

        Args:
            inputs: as loaded.
            rng: the source of all randomness.
        """
        return self.normalise(inputs)

    def normalise(self, inputs: Inputs) -> Inputs:
        """Return inputs as a network sees them in evaluation; as they were loaded unless a subclass changes them."""
        return inputs

    def describe(self, inputs: Inputs) -> list[str] | None:
        """Return every row in words, for the pages that show some; None draws the numbers as a picture."""
        return None


def _inputs_in_precision(trainer: L.Trainer, batch: MixedBatch) -> MixedBatch:
    plain = tuple(part._replace(batch=_inputs_in_precision(trainer, part.batch)) for part in batch.plain)
    return batch._replace(inputs=to_precision(trainer, batch.inputs), plain=plain)
