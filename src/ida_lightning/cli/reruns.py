"""What a second run would do to the files of the first one, said or refused before it starts."""

from __future__ import annotations

from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from ida_lightning.callbacks import CheckpointCallback, ExportCallback
from ida_lightning.errors import InputError
from ida_lightning.lightning_internals import numbers_further_files
from ida_lightning.remote import is_address, is_file


def check_reruns(trainer: L.Trainer, resumes: bool) -> None:
    """Look at the files that the callbacks of a fit will write.

    Args:
        trainer: that will fit.
        resumes: whether it goes on with an earlier run, whose files are then its own.

    Raises:
        InputError: if the best checkpoints of two runs would lie side by side, next to the export of the second.
    """
    callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    foreign = [c for c in callbacks if isinstance(c, ModelCheckpoint) and not isinstance(c, CheckpointCallback)]
    for checkpoint in foreign:
        if checkpoint.save_last and checkpoint.monitor is not None:
            rank_zero_warn(
                "ModelCheckpoint: its last.ckpt is the last epoch that was among the best, not the last of the run; "
                "CheckpointCallback writes the last"
            )
    if resumes or trainer.fast_dev_run:  # type: ignore[attr-defined]
        return
    exports = [c.path for c in callbacks if isinstance(c, ExportCallback) and is_file(c.path)]
    for checkpoint in foreign:
        folder = checkpoint.dirpath
        if (
            exports
            and folder
            and not is_address(folder)
            and numbers_further_files(checkpoint)
            and list(Path(folder).glob("*.ckpt"))
        ):
            raise InputError(
                f"ModelCheckpoint: {folder} has checkpoints of an earlier run and {exports[0]} is its export; this run "
                "would replace the export and number its checkpoints behind the earlier ones. CheckpointCallback or "
                "enable_version_counter: false replaces both, another dirpath and path keep both"
            )
    for path in exports:
        rank_zero_info(f"export: {path} is of an earlier run, until this one has finished and replaces it")
