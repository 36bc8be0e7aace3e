"""What training a classifier and distilling one share: evaluation, optimiser, schedule, checkpoints."""

from __future__ import annotations

import inspect
import math
from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, cast

import lightning as L
import torch
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from torchmetrics.classification import MulticlassAccuracy

from ida_lightning.losses import mixed_cross_entropy
from ida_lightning.mixing import MixedBatch

# LightningCLI has the same two, but importing it needs jsonargparse, which training from Python does not.
OptimizerCallable = Callable[[Iterable[nn.Parameter]], Optimizer]
LRSchedulerCallable = Callable[[Optimizer], LRScheduler]

_WARMUP = 0.05  # share of all steps


class ClassifierBase(L.LightningModule):
    """A module with one network that is trained, whatever teaches it.

    Attributes:
        owner: whose metrics these are: the first part of their names.
    """

    owner: str
    hparams_to_leave_out = ("optimizer", "lr_scheduler")

    def __init__(
        self, num_classes: int, optimizer: OptimizerCallable, lr_scheduler: LRSchedulerCallable | None
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self._make_optimizer = optimizer
        self._make_scheduler = lr_scheduler
        self.val_acc = MulticlassAccuracy(num_classes, average="micro")
        self.test_acc = MulticlassAccuracy(num_classes, average="micro")

    @property
    @abstractmethod
    def network(self) -> nn.Module:
        """The network that is trained, exported, tested."""

    def _save_plain_hyperparameters(self, *modules: str) -> None:
        """Remember the init arguments that a checkpoint can hold without pickling code.

        Args:
            modules: names of the arguments that are modules, not names of modules.
        """
        frame = cast(Any, inspect.currentframe()).f_back
        self.save_hyperparameters(ignore=[*self.hparams_to_leave_out, *modules], frame=frame)
        if "_instantiator" in self.hparams:  # under LightningCLI every argument is its plain config
            self.save_hyperparameters(frame=frame)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(batch, classes)`` of normalised images."""
        return cast(Tensor, self.network(images))

    def validation_step(self, batch: MixedBatch, batch_idx: int) -> None:
        """Accuracy and NLL on plain images."""
        self._evaluate(batch, "val", self.val_acc)

    def test_step(self, batch: MixedBatch, batch_idx: int) -> None:
        """Accuracy and NLL on plain images."""
        self._evaluate(batch, "test", self.test_acc)

    def predict_step(self, batch: MixedBatch, batch_idx: int) -> Tensor:
        """Class probabilities ``(batch, classes)``, float32."""
        return cast(Tensor, self(batch.images)).softmax(1, dtype=torch.float32)

    def _evaluate(self, batch: MixedBatch, split: str, accuracy: MulticlassAccuracy) -> None:
        logits = self(batch.images)
        accuracy(logits, batch.label_mix.labels[:, 0])
        nll = mixed_cross_entropy(logits, batch.label_mix).mean()
        rows = len(logits)
        self.log(f"{self.owner}/{split}_acc", accuracy, batch_size=rows, prog_bar=split == "val")
        self.log(f"{self.owner}/{split}_nll", nll, batch_size=rows, sync_dist=True)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimiser of the trained network; by default warm-up and cosine to zero over the whole run."""
        optimizer = self._make_optimizer(self.network.parameters())
        if self._make_scheduler is not None:
            return [optimizer], [self._make_scheduler(optimizer)]
        steps = self.trainer.estimated_stepping_batches
        if math.isinf(steps):  # a run without an end has no schedule
            return optimizer
        warmup = math.ceil(_WARMUP * steps)

        def factor(step: int) -> float:
            if step < warmup:
                return (step + 1) / (warmup + 1)
            return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))

        scheduler = LambdaLR(optimizer, factor)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Write what the outputs stand for beside the weights, so that a student can check it."""
        checkpoint["class_names"] = self.class_names()

    def class_names(self) -> list[str] | None:
        """What the outputs stand for, if the data module in use says so."""
        data = getattr(self._trainer, "datamodule", None)
        names = getattr(data, "class_names", None)
        return None if names is None else list(names)
