"""Validation, test and prediction with one network."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, cast

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import MulticlassAccuracy

from ida_lightning.errors import InputError, at_least
from ida_lightning.inputs import Inputs, rows_in
from ida_lightning.label_mix import LabelMix
from ida_lightning.lightning_internals import attached_trainer, configured_by_cli
from ida_lightning.losses import mixed_cross_entropy
from ida_lightning.mixing import MixedBatch
from ida_lightning.models import check_logits, failure, logits_of, run_network
from ida_lightning.modules.intake import BatchIntake


class EvaluatedModule(L.LightningModule, ABC):
    """A module whose network is validated and tested by accuracy and NLL, and predicts class probabilities.

    A subclass gives the property ``network`` and the class attribute ``owner``.

    Args:
        num_classes: width of the network's output.

    Attributes:
        owner: whose metrics these are: the first part of their names.
        allow_untrained: evaluate a network whose weights are as they were drawn.

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
        self._answered: set[bool] = set()  # in evaluation, in training
        self.val_acc = MulticlassAccuracy(num_classes, average="micro")
        self.test_acc = MulticlassAccuracy(num_classes, average="micro")
        self.val_nll = MeanMetric()
        self.test_nll = MeanMetric()
        self.allow_untrained = False
        self._drawn: list[int] | None = None
        self._useless_rows: Tensor | None = None

    @property
    @abstractmethod
    def network(self) -> nn.Module:
        """The network that is trained, exported, tested."""

    def forward(self, inputs: Inputs) -> Tensor:
        """Logits ``(batch, classes)`` of inputs, such as normalised images; a network takes those of a mapping by name.

        A network that returns a tuple or a mapping gives its first element or its entry ``logits``.

        Raises:
            InputError: if the network fails on its first batch, in training or in evaluation, or returns anything but
                logits of these classes.
        """
        try:
            output = run_network(self.network, inputs)
        except (RuntimeError, AssertionError, TypeError, AttributeError, ValueError, LookupError) as error:
            # Only what cannot work at all; running out of memory is for the search for a batch size.
            if self.training in self._answered or isinstance(error, InputError) or "memory" in str(error).lower():
                raise
            raise failure(self.owner, inputs, error) from error
        logits = logits_of(output, self.owner)
        if not self._answered and logits is not output:
            rank_zero_info(f"{self.owner}: returns {type(output).__name__}; its logits or first element are taken")
        self._answered.add(self.training)
        return check_logits(logits, rows_in(inputs), self.num_classes, self.owner)

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
        logits = cast(Tensor, self(batch.inputs))
        self._count_useless(logits)
        return logits.softmax(1, dtype=torch.float32)

    def _update(self, accuracy: Metric, nll: Metric, batch: MixedBatch, batch_idx: int, loader: Any) -> int:
        batch = self.take_batch(batch)
        logits = self(batch.inputs)
        self._count_useless(logits)
        update_metrics(accuracy, nll, logits, batch, rows_that_count(loader, batch_idx, len(batch.index)))
        return len(batch.index)

    def note_drawn(self, given: object, args: Mapping[str, Any] | None) -> None:
        """Remember that the network has the weights that were drawn for it, unless they may come from somewhere.

        They may where ``args`` load pretrained ones, and in a network that a user has built; in one that a config names
        by its class they hardly do.

        Args:
            given: a timm name or a network.
            args: of :func:`ida_lightning.models.build_model`.
        """
        loaded = any((args or {}).get(key) for key in ("pretrained", "checkpoint_path"))
        drawn = isinstance(given, str) or configured_by_cli()
        self._drawn = _versions(self.network) if drawn and not loaded else None

    def require_weights(self) -> None:
        """Check that the weights were trained or loaded, and are numbers.

        Raises:
            InputError: for weights as they were drawn, unless ``allow_untrained``, and for NaN and infinite ones.
        """
        if self._drawn is not None and self._drawn == _versions(self.network) and not self.allow_untrained:
            raise InputError(
                f"ckpt_path: expected a checkpoint, or a network that was trained or loaded before, got a {self.owner} "
                "whose weights are as they were drawn; allow_untrained: true evaluates it"
            )
        require_finite(self.owner, self.network)

    def _count_useless(self, logits: Tensor) -> None:
        """Count the rows that have no probabilities; looked at when all batches are through, so nothing waits."""
        count = (~torch.isfinite(logits.detach().float().logsumexp(1))).sum()
        rows = torch.stack((count, torch.full_like(count, len(logits))))
        self._useless_rows = rows if self._useless_rows is None else self._useless_rows + rows

    def check_useless(self, raises: bool = True) -> None:
        """Forget the rows counted since the last call, and raise for those without probabilities.

        Args:
            raises: False only forgets.

        Raises:
            InputError: if there are such rows.
        """
        counts, self._useless_rows = self._useless_rows, None
        if counts is None or not raises:
            return
        useless, rows = counts.tolist()
        if useless:
            raise InputError(
                f"{self.owner}: expected finite logits, got some that make no probabilities (NaN or infinity) in "
                f"{useless} of {rows} rows"
            )


def _versions(network: nn.Module) -> list[int]:
    """Return how often each parameter was written to: training a network changes that, and so does loading it."""
    return [parameter._version for parameter in network.parameters()]


def require_finite(name: str, network: nn.Module) -> None:
    """Check that every parameter is finite and no buffer NaN (a mask may hold infinity). Waits for an accelerator.

    Raises:
        InputError: naming the first tensor that is not.
    """
    tensors = [(key, value.detach().isfinite()) for key, value in network.named_parameters()]
    tensors += [(key, ~value.isnan()) for key, value in network.named_buffers() if value.is_floating_point()]
    right = torch.stack([kind.all() for _, kind in tensors]).tolist() if tensors else []
    wrong = [key for (key, _), good in zip(tensors, right, strict=True) if not good]
    if wrong:
        raise InputError(
            f"{name}: expected finite weights, got NaN or infinity in {len(wrong)} of {len(right)}, {wrong[0]} first"
        )


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
