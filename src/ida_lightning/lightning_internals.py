"""Everything of Lightning that its documentation does not promise: one named function for each use.

A new release of Lightning may change what stands here; ``tests/test_lightning_internals.py`` has a test for each
function that fails then. Nothing else in the package may use the names that ``tests/test_layers.py`` lists.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar, cast

import lightning as L
from lightning.pytorch.callbacks import RichProgressBar, TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm
from lightning.pytorch.core.mixins.hparams_mixin import _given_hyperparameters
from lightning.pytorch.utilities.data import extract_batch_size
from torch import Tensor, nn

_Item = TypeVar("_Item")

# --- what belongs to a module or a Trainer


def attached_trainer(module: L.LightningModule) -> L.Trainer | None:
    """Return the Trainer that runs ``module``, or None; the documented property raises without one."""
    return module._trainer


def attached_datamodule(trainer: L.Trainer) -> L.LightningDataModule | None:
    """Return the data module that ``trainer`` was given, or None if it was given loaders."""
    return cast("L.LightningDataModule | None", trainer.datamodule)  # type: ignore[attr-defined]


def configured_by_cli() -> bool:
    """Say whether LightningCLI is building a module, so that its config is what ``save_hyperparameters`` keeps."""
    return _given_hyperparameters.get() is not None


# --- where a fit is


def epoch_in_progress(trainer: L.Trainer) -> int:
    """Return the number of the epoch as samplers are told it, also in a fit that goes on from a checkpoint."""
    return cast(int, trainer.fit_loop.epoch_progress.current.processed)  # type: ignore[attr-defined]


def batches_begun(trainer: L.Trainer) -> int:
    """Return how many training batches of the epoch this process has begun, the present one included."""
    return trainer.fit_loop.epoch_loop.batch_progress.current.ready


@contextmanager
def validation_stage(trainer: L.Trainer) -> Iterator[None]:
    """Make ``trainer.validating`` true inside, so that a data module mixes nothing."""
    before = trainer.state.stage
    trainer.validating = True
    try:
        yield
    finally:
        trainer.state.stage = before


# --- what is logged and shown


def logs_this_step(trainer: L.Trainer) -> bool:
    """Say whether loggers get the values of the training step in progress.

    The answer is the same from ``on_train_batch_start`` to ``on_train_batch_end``. It is False in all steps with
    ``log_every_n_steps=0`` and with ``barebones=True``.
    """
    return trainer._logger_connector.should_update_logs


def shows_progress_bar(trainer: L.Trainer) -> bool:
    """Say whether this process has a progress bar that is switched on."""
    bar = trainer.progress_bar_callback
    return bar.is_enabled if isinstance(bar, (RichProgressBar, TQDMProgressBar)) else bar is not None


def with_progress_bar(trainer: L.Trainer, items: Iterable[_Item], title: str) -> Iterable[_Item]:
    """Iterate over batches with a progress bar of their own, if the Trainer shows one."""
    quiet = not shows_progress_bar(trainer)
    return cast(Iterable[_Item], Tqdm(items, desc=title, unit="batch", disable=quiet, file=sys.stderr))


# --- device and precision


def to_device(trainer: L.Trainer, batch: Any) -> Any:
    """Move a batch to the Trainer's device, with all hooks that its loader's batches go through."""
    return trainer.strategy.batch_to_device(batch)


def to_precision(trainer: L.Trainer, images: Tensor) -> Tensor:
    """Convert images to the floating point type of the Trainer's precision, such as bfloat16 for ``bf16-true``."""
    return cast(Tensor, trainer.precision_plugin.convert_input(images))


def convert_network(trainer: L.Trainer, network: nn.Module) -> nn.Module:
    """Convert weights to the floating point type of the Trainer's precision, in place."""
    return trainer.precision_plugin.convert_module(network)


def forward_precision(trainer: L.Trainer) -> AbstractContextManager[None]:
    """Return the context of a forward pass in the Trainer's precision: autocast for ``bf16-mixed``, say."""
    return cast("AbstractContextManager[None]", trainer.precision_plugin.forward_context())


def rows_of(batch: Any) -> int:
    """Return the number of rows of a batch of any structure."""
    return extract_batch_size(batch)
