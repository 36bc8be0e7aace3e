"""Pictures of the training images and of what the student is taught on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import Logger
from matplotlib.figure import Figure
from torch import Tensor

from ida_lightning.errors import InputError
from ida_lightning.files import replacing
from ida_lightning.methods.base import Method
from ida_lightning.plots import plot_corrections
from ida_lightning.supervision import Supervision

_OTHERS = 3
_NAME = "train/panel"


class PanelCallback(Method):
    """Shows mixed training images with their hard label, the teacher's soft label and the one that is taught.

    It looks at the first mixed rows of an epoch's first batch as they pass by: no further forward pass, no random draw,
    and nothing waits for the device on any other batch. "Corrected" is the soft label where this callback stands, so it
    goes **last in the list of callbacks**: hooks run in that order, and what later ones change is not seen. The bars
    are of the image's classes and of three others that have most of the soft labels.

    Every logger of the run gets the panel in its own way: W&B as an image and TensorBoard as a figure, both named
    ``train/panel``; any other, such as CSV, as ``panels/epoch_0005.png`` beside its logs. A run without a logger
    draws nothing. An epoch that is resumed in its middle has its panel already.

    Args:
        every_n_epochs: epochs from one panel to the next; the first shows epoch 0.
        rows: how many images.

    Raises:
        InputError: for numbers below 1, and a module without ``register_supervision_hook``.

    Example:
        >>> from lightning import Trainer
        >>> from ida_lightning.methods import IsotonicSoftLabelCallback
        >>> trainer = Trainer(callbacks=[IsotonicSoftLabelCallback(), PanelCallback(rows=4)], logger=False)
    """

    def __init__(self, every_n_epochs: int = 5, rows: int = 6) -> None:
        for name, value in (("every_n_epochs", every_n_epochs), ("rows", rows)):
            if value < 1:
                raise InputError(f"{name}: expected at least 1, got {value}")
        super().__init__()
        self.every_n_epochs = every_n_epochs
        self.rows = rows
        self._due = False

    def register(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Register a hook that draws the panel where one is due."""
        self._due = False

        def hook(supervision: Supervision) -> Supervision:
            if self._due and len(supervision.inputs):  # a hook before this one may have left out all rows
                self._due = False
                self._show(trainer, supervision)
            return supervision

        self.register_with(module, "register_supervision_hook", hook)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Decide at the first batch of an epoch whether it has a panel, on one process."""
        # Not on_train_epoch_start: Lightning leaves it out after a resume from the last batch of the epoch before.
        if batch_idx == 0:
            shown = trainer.is_global_zero and bool(trainer.loggers) and not trainer.fast_dev_run  # type: ignore[attr-defined]
            self._due = shown and trainer.current_epoch % self.every_n_epochs == 0

    def _show(self, trainer: L.Trainer, supervision: Supervision) -> None:
        data = getattr(trainer, "datamodule", None)
        count = min(self.rows, len(supervision.inputs))
        # Clean rows in front of their mixes have nothing to show.
        rows = torch.arange(len(supervision.inputs), device=supervision.inputs.device)
        if supervision.mixed is not None:
            rows = (~supervision.mixed).int().argsort(stable=True)
        shown = supervision.select(rows[:count])
        classes = shown.soft_labels.shape[1]
        names = getattr(data, "class_names", None)
        figure = plot_corrections(
            _pixels(shown.inputs, data),
            shown.label_mix,
            (shown.teacher_logits / shown.temperature).softmax(1),
            shown.soft_labels,
            names if names is not None and len(names) == classes else [str(label) for label in range(classes)],
            f"What is taught in epoch {trainer.current_epoch} (T = {shown.temperature:g})",
            _OTHERS,
        )
        for logger in trainer.loggers:
            _deliver(logger, figure, trainer.current_epoch, trainer.global_step)


def _pixels(images: Tensor, data: Any) -> Tensor:
    """Values from 0 to 1 in 1 or 3 channels."""
    images = images.float()
    denormalise = getattr(data, "denormalise", None)
    if callable(denormalise):
        images = denormalise(images).clamp(0, 1)
    else:
        low, high = images.amin((1, 2, 3), keepdim=True), images.amax((1, 2, 3), keepdim=True)
        images = (images - low) / (high - low).clamp(min=1e-6)
    return images if images.shape[1] in (1, 3) else images.mean(1, keepdim=True)


def _deliver(logger: Logger, figure: Figure, epoch: int, step: int) -> None:
    """Give a logger the panel by what the logger can do, so that none of them has to be imported, or installed."""
    log_image = getattr(logger, "log_image", None)  # W&B
    if callable(log_image):
        log_image(_NAME, [figure], step=step)
        return
    add_figure = getattr(getattr(logger, "experiment", None), "add_figure", None)  # TensorBoard
    if callable(add_figure):
        add_figure(_NAME, figure, global_step=step)
        return
    log_dir = getattr(logger, "log_dir", None)
    folder = Path(log_dir or Path(logger.save_dir or ".") / str(logger.name) / str(logger.version))
    with replacing(folder / "panels" / f"epoch_{epoch:04d}.png") as unfinished:
        figure.savefig(unfinished, dpi=110)
