"""Validation, test and prediction with one network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, cast

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import MulticlassAccuracy

from ida_lightning.errors import InputError, at_least
from ida_lightning.label_mix import LabelMix
from ida_lightning.lightning_internals import attached_trainer
from ida_lightning.losses import mixed_cross_entropy
from ida_lightning.mixing import MixedBatch
from ida_lightning.models import check_logits, failure, logits_of
from ida_lightning.modules.intake import BatchIntake


class EvaluatedModule(L.LightningModule, ABC):
    """A module whose network is validated and tested by accuracy and NLL, and predicts class probabilities.

    A subclass gives the property ``network`` and the class attribute ``owner``.

    Args:
        num_classes: width of the network's output.

    Attributes:
        owner: whose metrics these are: the first part of their names.

    Raises:
        InputError: for a subclass without ``owner``. One without ``network`` is a ``TypeError``, as with any abstract
            method.
    """

    owner: str

    def __init__(self, num_classes: int) -> None:
        if not any("owner" in vars(cls) for cls in type(self).__mro__):
            raise InputError(
                f"{type(self).__name__}: expected the class attribute owner, the first part of its metrics' names, "
                "such as owner = 'student', got none"
            )
        super().__init__()
        self.num_classes = at_least("num_classes", num_classes, 2)
        self.intake = BatchIntake(num_classes)
        self._has_answered = False
        self.val_acc = MulticlassAccuracy(num_classes, average="micro")
        self.test_acc = MulticlassAccuracy(num_classes, average="micro")
        self.val_nll = MeanMetric()
        self.test_nll = MeanMetric()

    @property
    @abstractmethod
    def network(self) -> nn.Module:
        """The network that is trained, exported, tested."""

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(batch, classes)`` of normalised images.

        A network that returns a tuple or a mapping gives its first element or its entry ``logits``.

        Raises:
            InputError: if the network fails on its first batch, or returns anything but logits of these classes.
        """
        try:
            output = self.network(images)
        except (RuntimeError, AssertionError, TypeError, AttributeError, ValueError, LookupError) as error:
            # Only what cannot work at all; running out of memory is for the search for a batch size.
            if self._has_answered or isinstance(error, InputError) or "memory" in str(error).lower():
                raise
            raise failure(self.owner, tuple(images.shape[1:]), error) from error
        logits = logits_of(output, self.owner)
        if not self._has_answered and logits is not output:
            rank_zero_info(f"{self.owner}: returns {type(output).__name__}; its logits or first element are taken")
        self._has_answered = True
        return check_logits(logits, len(images), self.num_classes, self.owner)

    def take_batch(self, batch: object, labelled: bool = True) -> MixedBatch:
        """Return a batch of any loader as a :class:`MixedBatch`, checked; see :class:`BatchIntake`."""
        return self.intake.take(batch, next((p.dtype for p in self.network.parameters()), None), labelled)

    def log(self, name: str, value: Any, *args: Any, **kwargs: Any) -> None:
        """Log a value as Lightning does; with ``Trainer(barebones=True)`` nothing, where Lightning warns every time."""
        trainer = attached_trainer(self)
        if trainer is None or not trainer.barebones:
            super().log(name, value, *args, **kwargs)

    def on_validation_epoch_start(self) -> None:
        """Reset the metrics: what an earlier run in inference mode left behind cannot be added to under DDP."""
        self.val_acc.reset()
        self.val_nll.reset()

    def on_test_epoch_start(self) -> None:
        """Reset the metrics, for the same reason."""
        self.test_acc.reset()
        self.test_nll.reset()

    def on_validation_epoch_end(self) -> None:
        """Report labels out of range."""
        self.intake.check()

    def on_test_epoch_end(self) -> None:
        """Report labels out of range."""
        self.intake.check()

    def validation_step(self, batch: MixedBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Add a batch of plain images to accuracy and NLL."""
        _check_one_loader("val_dataloaders", dataloader_idx)
        rows = self._update(self.val_acc, self.val_nll, batch, batch_idx, self.trainer.val_dataloaders)
        self.log(f"{self.owner}/val_acc", self.val_acc, prog_bar=True, batch_size=rows)
        self.log(f"{self.owner}/val_nll", self.val_nll, batch_size=rows)

    def test_step(self, batch: MixedBatch, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Add a batch of plain images to accuracy and NLL."""
        _check_one_loader("test_dataloaders", dataloader_idx)
        rows = self._update(self.test_acc, self.test_nll, batch, batch_idx, self.trainer.test_dataloaders)
        self.log(f"{self.owner}/test_acc", self.test_acc, batch_size=rows)
        self.log(f"{self.owner}/test_nll", self.test_nll, batch_size=rows)

    def predict_step(self, batch: MixedBatch, batch_idx: int) -> Tensor:
        """Compute class probabilities ``(batch, classes)``, float32."""
        batch = self.take_batch(batch, labelled=False)
        return cast(Tensor, self(batch.inputs)).softmax(1, dtype=torch.float32)

    def _update(self, accuracy: Metric, nll: Metric, batch: MixedBatch, batch_idx: int, loader: Any) -> int:
        batch = self.take_batch(batch)
        update_metrics(accuracy, nll, self(batch.inputs), batch, rows_that_count(loader, batch_idx, len(batch.inputs)))
        return len(batch.inputs)


def _check_one_loader(name: str, number: int) -> None:
    """Refuse a second loader: metrics would be of both, under one name."""
    if number:
        raise InputError(f"{name}: expected one, as accuracy and NLL are of one data set, got a second")


def rows_that_count(loader: Any, batch_idx: int, rows: int) -> int:
    """Return how many rows of a batch are evaluated here, and not a second time.

    Where processes share a data set, the sampler repeats some rows at the end so that all shares are equal; they come
    last in their process. Counting is the only way: with shares of different length, DDP would wait for ever.
    """
    if isinstance(loader, list):
        loader = loader[0] if len(loader) == 1 else None
    if not isinstance(loader, DataLoader) or loader.batch_size is None:
        return rows
    sampler = loader.sampler
    if not isinstance(sampler, DistributedSampler):
        return rows
    shared_rows = len(range(sampler.rank, len(sampler.dataset), sampler.num_replicas))  # type: ignore[arg-type]
    before: int = batch_idx * loader.batch_size
    return min(rows, max(0, shared_rows - before))


def update_metrics(accuracy: Metric, nll: Metric, logits: Tensor, batch: MixedBatch, rows: int) -> None:
    """Add the first ``rows`` of an evaluated batch to its metrics."""
    if rows:
        mix = LabelMix(*(field[:rows] for field in batch.label_mix))
        accuracy.update(logits[:rows], mix.labels[:, 0])
        nll.update(mixed_cross_entropy(logits[:rows], mix))
