"""What training a classifier and distilling one share: evaluation, optimiser, schedule, checkpoints."""

from __future__ import annotations

import inspect
import math
import os
from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, cast

import lightning as L
import numpy as np
import torch
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from torch.utils.data import DistributedSampler
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import MulticlassAccuracy

from ida_lightning.adapters import as_mixed_batch
from ida_lightning.errors import InputError
from ida_lightning.label_mix import LabelMix
from ida_lightning.losses import mixed_cross_entropy
from ida_lightning.mixing import MixedBatch
from ida_lightning.models import ImageInput
from ida_lightning.modules.guards import check_loss
from ida_lightning.supervision import Supervision

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
        self,
        num_classes: int,
        optimizer: OptimizerCallable,
        lr_scheduler: LRSchedulerCallable | None,
        lr_reference_batch: int | None,
        compile_args: dict[str, Any] | None,
    ) -> None:
        super().__init__()
        if lr_reference_batch is not None and lr_reference_batch < 1:
            raise InputError(f"lr_reference_batch: expected at least 1, got {lr_reference_batch}")
        self.num_classes = num_classes
        self.lr_reference_batch = lr_reference_batch
        self.compile_args = compile_args
        self._watched: tuple[Tensor, MixedBatch, Supervision | None] | None = None
        self._make_optimizer = optimizer
        self._make_scheduler = lr_scheduler
        self.val_acc = MulticlassAccuracy(num_classes, average="micro")
        self.test_acc = MulticlassAccuracy(num_classes, average="micro")
        self.val_nll = MeanMetric()
        self.test_nll = MeanMetric()

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

    def setup(self, stage: str) -> None:
        """Compile for training, if asked to; in place, so the names in checkpoints stay as they are."""
        strategy = getattr(self._trainer, "strategy", None)
        if isinstance(strategy, (FSDPStrategy, ModelParallelStrategy)):
            raise InputError(
                "strategy: expected one that keeps the whole network in every process, such as ddp, got "
                f"{type(strategy).__name__}"
            )
        if stage == "fit" and self.compile_args is not None:
            self.network.compile(**self.compile_args)

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(batch, classes)`` of normalised images."""
        return cast(Tensor, self.network(images))

    def on_validation_epoch_start(self) -> None:
        """Begin anew: what an earlier run in inference mode left behind cannot be added to under DDP."""
        self.val_acc.reset()
        self.val_nll.reset()

    def on_test_epoch_start(self) -> None:
        """Begin anew, for the same reason."""
        self.test_acc.reset()
        self.test_nll.reset()

    def validation_step(self, batch: MixedBatch, batch_idx: int) -> None:
        """Accuracy and NLL on plain images."""
        self._evaluate(batch, batch_idx, "val", self.trainer.val_dataloaders)

    def test_step(self, batch: MixedBatch, batch_idx: int) -> None:
        """Accuracy and NLL on plain images."""
        self._evaluate(batch, batch_idx, "test", self.trainer.test_dataloaders)

    def predict_step(self, batch: MixedBatch, batch_idx: int) -> Tensor:
        """Class probabilities ``(batch, classes)``, float32."""
        batch = as_mixed_batch(batch, self.num_classes)
        return cast(Tensor, self(batch.inputs)).softmax(1, dtype=torch.float32)

    def _evaluate(self, batch: MixedBatch, batch_idx: int, split: str, loader: Any) -> None:
        batch = as_mixed_batch(batch, self.num_classes)
        accuracy, nll = getattr(self, f"{split}_acc"), getattr(self, f"{split}_nll")
        update(accuracy, nll, self(batch.inputs), batch, rows_that_count(loader, batch_idx, len(batch.inputs)))
        self.log(f"{self.owner}/{split}_acc", accuracy, prog_bar=split == "val")
        self.log(f"{self.owner}/{split}_nll", nll)

    def on_train_batch_start(self, batch: MixedBatch, batch_idx: int) -> None:
        """Seed the step, so that dropout too depends on (seed, epoch, batch, process) alone, resumed or not."""
        place = (self.trainer.fit_loop.epoch_progress.current.processed, batch_idx, self.trainer.global_rank)  # type: ignore[attr-defined]
        words = np.random.SeedSequence((int(os.environ.get("PL_GLOBAL_SEED", 0)), *place)).generate_state(1, np.uint64)
        if self.device.type == "cpu":  # torch.manual_seed would look for every kind of accelerator, each time
            torch.default_generator.manual_seed(int(words[0]))
        else:
            torch.manual_seed(int(words[0]))

    def watch(self, loss: Tensor, batch: MixedBatch, supervision: Supervision | None = None) -> None:
        """Have the loss of this step looked at once backward is on its way, so that an accelerator does not idle."""
        self._watched = loss.detach(), batch, supervision

    def on_after_backward(self) -> None:
        """Stop before the update if the loss is no number."""
        if self._watched is not None:
            watched, self._watched = self._watched, None
            check_loss(self, *watched)

    def shows_loss(self) -> bool:
        """Whether anybody looks at this step's loss: logging it costs about half a millisecond a value.

        The last one of an epoch is there for callbacks that monitor it.
        """
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        logged = bool(every) and (self.trainer.global_step + 1) % every == 0
        bar = self.trainer.progress_bar_callback
        return logged or self.trainer.is_last_batch or (bar is not None and getattr(bar, "is_enabled", True))

    def trained_parameters(self) -> list[nn.Parameter]:
        """Return what the optimiser trains."""
        return list(self.network.parameters())

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """The optimiser of the trained network; by default warm-up and cosine to zero over the whole run."""
        optimizer = self._make_optimizer(self.trained_parameters())
        for group in optimizer.param_groups:
            group["lr"] *= self._lr_factor()
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

    def _lr_factor(self) -> float:
        """How many times larger than the reference the batch is that one step of the optimiser sees."""
        if self.lr_reference_batch is None:
            return 1.0
        rows = getattr(self.trainer.datamodule, "batch_size", None)  # type: ignore[attr-defined]
        if rows is None:
            raise InputError("lr_reference_batch: expected a data module with a batch_size, got none")
        factor: float = rows * self.trainer.world_size * self.trainer.accumulate_grad_batches / self.lr_reference_batch
        rank_zero_info(f"learning rate times {factor:g}: {factor * self.lr_reference_batch:g} rows a step")
        return factor

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Write what goes in and what comes out beside the weights, so that a student can check it."""
        checkpoint["class_names"] = self.class_names()
        seen = self.image_input()
        checkpoint["image_input"] = None if seen is None else tuple(seen)  # a plain tuple loads with weights_only

    def class_names(self) -> list[str] | None:
        """What the outputs stand for, if the data module in use says so."""
        data = getattr(self._trainer, "datamodule", None)
        names = getattr(data, "class_names", None)
        return None if names is None else list(names)

    def image_input(self) -> ImageInput | None:
        """What images the network sees, if the data module in use says so."""
        data: Any = getattr(self._trainer, "datamodule", None)
        if not all(hasattr(data, name) for name in ("mean", "std", "image_size")):
            return None
        return ImageInput(tuple(data.mean), tuple(data.std), int(data.image_size))


def rows_that_count(loader: Any, batch_idx: int, rows: int) -> int:
    """How many rows of a batch are evaluated here, and not a second time.

    Where processes share a data set, the sampler repeats some rows at the end so that all shares are equal; they come
    last in their process. Counting is the only way: with shares of different length, DDP would wait for ever.
    """
    if isinstance(loader, list):
        loader = loader[0] if len(loader) == 1 else None
    sampler = getattr(loader, "sampler", None)
    if not isinstance(sampler, DistributedSampler) or loader.batch_size is None:
        return rows
    own = len(range(sampler.rank, len(sampler.dataset), sampler.num_replicas))  # type: ignore[arg-type]
    before: int = batch_idx * loader.batch_size
    return min(rows, max(0, own - before))


def update(accuracy: Metric, nll: Metric, logits: Tensor, batch: MixedBatch, rows: int) -> None:
    """Bring the first ``rows`` of an evaluated batch into its metrics."""
    if rows:
        mix = LabelMix(*(field[:rows] for field in batch.label_mix))
        accuracy.update(logits[:rows], mix.labels[:, 0])
        nll.update(mixed_cross_entropy(logits[:rows], mix))
