"""Checks what can be known before a run of the command line: that it can write, alone, and has weights to evaluate."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from ida_lightning.errors import InputError
from ida_lightning.files import writable_folder
from ida_lightning.locks import OutputLock
from ida_lightning.modules.evaluation import EvaluatedModule
from ida_lightning.remote import checked_address, is_address, on_this_machine

_WRITES_AT_ADDRESSES = (CSVLogger, TensorBoardLogger)  # by fsspec; others would make a folder s3:


def require_weights(module: L.LightningModule, ckpt_path: str | None, allow_untrained: bool) -> None:
    """Check that the weights to evaluate come from somewhere; of those in a checkpoint the module sees to.

    Args:
        module: to validate, test or predict with.
        ckpt_path: that was given.
        allow_untrained: evaluate it whatever its weights are.

    Raises:
        InputError: if they come from nowhere.

    Example:
        >>> require_weights(L.LightningModule(), None, allow_untrained=False)
        Traceback (most recent call last):
        ...
        ida_lightning.errors.InputError: ckpt_path: expected a checkpoint for LightningModule, got none; allow_untrained: true evaluates it as it was built
    """  # noqa: E501
    if isinstance(module, EvaluatedModule):
        module.allow_untrained = allow_untrained
    if allow_untrained or ckpt_path:
        return
    if not isinstance(module, EvaluatedModule):
        raise InputError(
            f"ckpt_path: expected a checkpoint for {type(module).__name__}, got none; allow_untrained: true evaluates "
            "it as it was built"
        )
    module.require_weights()


@contextmanager
def kept_outputs(trainer: L.Trainer, fits: bool) -> Iterator[None]:
    """Try to write where a run will, and keep other runs from its checkpoints inside the block; on one process.

    Args:
        trainer: that will run.
        fits: whether it will fit, and write checkpoints.

    Raises:
        InputError: for a place that cannot be written to, and checkpoints that another run writes.

    Example:
        >>> with kept_outputs(L.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False), fits=True):
        ...     pass
    """
    with ExitStack() as locks:
        if trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            folders: list[tuple[str, Any]] = [("trainer.default_root_dir", trainer.default_root_dir)]
            for logger in trainer.loggers:
                if not isinstance(logger, _WRITES_AT_ADDRESSES) and logger.save_dir is not None:
                    on_this_machine(f"{type(logger).__name__}.save_dir", logger.save_dir)
                folders.append(("trainer.logger", logger.save_dir))
            if fits:
                folders += [("dirpath", _dirpath(callback)) for callback in trainer.callbacks]  # type: ignore[attr-defined]
            for name, folder in folders:
                if folder is not None and re.match(r"(file|local):", str(folder)):  # Lightning would make it here
                    raise InputError(f"{name}: expected a path without file:, got {folder}")
                if is_address(folder):
                    checked_address(name, str(folder))
                elif folder is not None:
                    writable_folder(name, folder)
                    if name == "dirpath":
                        locks.enter_context(OutputLock(name, folder))
        yield


def _dirpath(callback: L.Callback) -> str | None:
    return str(callback.dirpath) if isinstance(callback, ModelCheckpoint) and callback.dirpath is not None else None
