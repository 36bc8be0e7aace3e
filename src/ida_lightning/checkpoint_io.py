"""Writes checkpoints so that a crash, a full disk or another file system for temporary files destroys none."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from lightning.fabric.utilities.types import _PATH
from lightning.pytorch.plugins.io import TorchCheckpointIO

from ida_lightning.errors import is_a
from ida_lightning.files import replacing
from ida_lightning.remote import is_address


class WholeCheckpointIO(TorchCheckpointIO):
    """Writes a checkpoint beside its place, waits until it is on the disk, and moves it there.

    Lightning's own writer puts the file into ``TMPDIR`` first and copies it over the older one where that is another
    file system, so that a crash or a full disk leaves neither. The format is the same. Checkpoints at other places
    than this machine's folders (``s3://...``) are written by Lightning's writer.

    The command line and :class:`~ida_lightning.DistillationModule` and its kin use it wherever no other
    ``CheckpointIO`` was chosen.

    Example:
        >>> trainer = L.Trainer(plugins=[WholeCheckpointIO()], accelerator="cpu", logger=False)
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: _PATH, storage_options: Any | None = None) -> None:
        """Write a checkpoint, whole or not at all.

        Raises:
            InputError: if it cannot be written; the older file is as it was.
        """
        if storage_options is not None or is_address(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        with replacing(str(path), same_ending=False) as unfinished, unfinished.open("wb") as file:
            torch.save(checkpoint, file)


def write_whole_checkpoints(trainer: L.Trainer) -> None:
    """Give a Trainer :class:`WholeCheckpointIO`, if it has what Lightning takes by default."""
    if type(is_a("trainer", trainer, L.Trainer).strategy.checkpoint_io) is TorchCheckpointIO:
        trainer.strategy.checkpoint_io = WholeCheckpointIO()
