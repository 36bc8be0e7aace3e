"""Pictures of training images with the soft labels that the student is taught on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import lightning as L
import torch
from lightning.pytorch.loggers import Logger
from matplotlib.figure import Figure

from ida_lightning.data_facts import facts_of
from ida_lightning.errors import at_least
from ida_lightning.files import replacing
from ida_lightning.methods.base import Method
from ida_lightning.plots import plot_corrections
from ida_lightning.supervision import Supervision
from ida_lightning.trackers import run_folder

_OTHER_CLASSES = 3
_NAME = "train/panel"
_COLUMNS = ["epoch", "row", "class", "share of the image", "soft label", "taught"]


@runtime_checkable
class _ImageLogger(Protocol):
    """A logger such as W&B's."""

    def log_image(self, key: str, images: list[Any], step: int | None = None) -> None: ...


@runtime_checkable
class _TableLogger(Protocol):
    """A logger such as W&B's."""

    def log_table(self, key: str, columns: list[str], data: list[list[Any]], *, step: int | None = None) -> None: ...


@runtime_checkable
class _HasExperiment(Protocol):
    @property
    def experiment(self) -> Any: ...


@runtime_checkable
class _FigureWriter(Protocol):
    """What TensorBoard's logger calls its experiment."""

    def add_figure(self, tag: str, figure: Figure, global_step: int | None = None) -> None: ...


class PanelCallback(Method):
    """Draws mixed training images with their hard label, the teacher's soft label and the one that is taught.

    A panel shows the first mixed rows of an epoch's first batch, taken from the training step itself: no further
    forward pass, no random draw, and no other batch waits for the device. "Corrected" is the soft label where this
    callback stands, so it goes **last in the list of callbacks**: hooks run in that order, and what later ones change
    is not shown. Inputs that are no pictures are shown in the words of the data module's ``describe``, or as a picture
    of their numbers. The bars are of the image's classes and of three others that have most of the soft labels.

    Every logger of the run gets the panel in its own way: W&B as an image, and as a table ``train/panel_values`` of
    what the bars show of the image's classes; TensorBoard as a figure, like the image named ``train/panel``; any
    other, such as CSV, as ``panels/epoch_0005.png`` beside its logs. A run without a logger draws nothing. An epoch
    that is resumed in its middle has its panel already.

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
        super().__init__()
        self.every_n_epochs = at_least("every_n_epochs", every_n_epochs, 1)
        self.rows = at_least("rows", rows, 1)
        self._due = False

    def register(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Register a hook that draws the panel where one is due."""
        self._due = False

        def hook(supervision: Supervision) -> Supervision:
            if self._due and len(supervision.index):  # a hook before this one may have left out all rows
                self._due = False
                self._draw(trainer, supervision)
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

    def _draw(self, trainer: L.Trainer, supervision: Supervision) -> None:
        """Draw the panel of one batch and give it to every logger."""
        facts = facts_of(trainer)
        count = min(self.rows, len(supervision.index))
        # Clean rows in front of their mixes have nothing to show.
        rows = torch.arange(len(supervision.index), device=supervision.index.device)
        if supervision.mixed is not None:
            rows = (~supervision.mixed).int().argsort(stable=True)
        rows = rows[:count]
        shown = supervision._replace(inner=()).select(rows)
        classes = shown.soft_labels.shape[1]
        names = facts.class_names
        figure = plot_corrections(
            facts.shown(supervision.inputs, rows, supervision.inner),
            shown.label_mix,
            (shown.teacher_logits / shown.temperature).softmax(1),
            shown.soft_labels,
            names if names is not None and len(names) == classes else [str(label) for label in range(classes)],
            f"What is taught in epoch {trainer.current_epoch} (T = {shown.temperature:g})",
            _OTHER_CLASSES,
        )
        for logger in trainer.loggers:
            _log_figure(logger, figure, trainer.current_epoch, trainer.global_step)
            if isinstance(logger, _TableLogger):
                values = _values(shown, names, trainer.current_epoch)
                logger.log_table(f"{_NAME}_values", _COLUMNS, values, step=trainer.global_step)


def _values(shown: Supervision, names: Sequence[str] | None, epoch: int) -> list[list[Any]]:
    """Return the panel in numbers: a line for every class that is in an image."""
    teacher = (shown.teacher_logits / shown.temperature).softmax(1)
    lines = []
    for row, (labels, weights) in enumerate(zip(shown.label_mix.labels, shown.label_mix.weights, strict=True)):
        for label, weight in zip(labels.tolist(), weights.tolist(), strict=True):
            name = names[label] if names is not None and label < len(names) else str(label)
            lines.append([epoch, row, name, weight, float(teacher[row, label]), float(shown.soft_labels[row, label])])
    return lines


def _log_figure(logger: Logger, figure: Figure, epoch: int, step: int) -> None:
    """Give a logger the panel by what the logger can do, so that none of them has to be imported, or installed."""
    if isinstance(logger, _ImageLogger):
        logger.log_image(_NAME, [figure], step=step)
        return
    experiment = logger.experiment if isinstance(logger, _HasExperiment) else None
    if isinstance(experiment, _FigureWriter):
        experiment.add_figure(_NAME, figure, global_step=step)
        return
    with replacing(f"{run_folder(logger)}/panels/epoch_{epoch:04d}.png") as unfinished:
        figure.savefig(unfinished, dpi=110)
