"""Validation, test and prediction with one network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, cast

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import MulticlassAccuracy

from ida_lightning.adapters import as_mixed_batch
from ida_lightning.errors import InputError
from ida_lightning.label_mix import LabelMix
from ida_lightning.lightning_internals import attached_trainer
from ida_lightning.losses import mixed_cross_entropy
from ida_lightning.mixing import MixedBatch


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
        self.num_classes = num_classes
        self.val_acc = MulticlassAccuracy(num_classes, average="micro")
        self.test_acc = MulticlassAccuracy(num_classes, average="micro")
        self.val_nll = MeanMetric()
        self.test_nll = MeanMetric()

    @property
    @abstractmethod
    def network(self) -> nn.Module:
        """The network that is trained, exported, tested."""

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(batch, classes)`` of normalised images."""
        return cast(Tensor, self.network(images))

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

    def validation_step(self, batch: MixedBatch, batch_idx: int) -> None:
        """Add a batch of plain images to accuracy and NLL."""
        rows = self._update(self.val_acc, self.val_nll, batch, batch_idx, self.trainer.val_dataloaders)
        self.log(f"{self.owner}/val_acc", self.val_acc, prog_bar=True, batch_size=rows)
        self.log(f"{self.owner}/val_nll", self.val_nll, batch_size=rows)

    def test_step(self, batch: MixedBatch, batch_idx: int) -> None:
        """Add a batch of plain images to accuracy and NLL."""
        rows = self._update(self.test_acc, self.test_nll, batch, batch_idx, self.trainer.test_dataloaders)
        self.log(f"{self.owner}/test_acc", self.test_acc, batch_size=rows)
        self.log(f"{self.owner}/test_nll", self.test_nll, batch_size=rows)

    def predict_step(self, batch: MixedBatch, batch_idx: int) -> Tensor:
        """Compute class probabilities ``(batch, classes)``, float32."""
        batch = as_mixed_batch(batch, self.num_classes)
        return cast(Tensor, self(batch.inputs)).softmax(1, dtype=torch.float32)

    def _update(self, accuracy: Metric, nll: Metric, batch: MixedBatch, batch_idx: int, loader: Any) -> int:
        batch = as_mixed_batch(batch, self.num_classes)
        update_metrics(accuracy, nll, self(batch.inputs), batch, rows_that_count(loader, batch_idx, len(batch.inputs)))
        return len(batch.inputs)


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
