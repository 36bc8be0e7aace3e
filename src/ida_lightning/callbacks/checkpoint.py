"""Checkpoints of the best and of the last epoch of a run."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any, Literal
from weakref import proxy

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info

from ida_lightning.checks import path_or_address, text
from ida_lightning.errors import at_least, flag, one_of
from ida_lightning.remote import is_file, move, remove


class CheckpointCallback(ModelCheckpoint):
    """Writes ``last.ckpt`` after every epoch, and ``best.ckpt`` after every epoch that is better than all before.

    ``last.ckpt`` is always the last epoch, so that is what a killed run goes on from; ``ModelCheckpoint`` with
    ``save_last`` writes its ``last.ckpt`` only in epochs that are among the best. It is written too after validations
    within an epoch.

    A run that is not resumed replaces both files of an earlier run in the same folder as soon as it writes the first
    of its own, and says so when it starts. Until its own stand, the earlier ``last.ckpt`` is ``last.earlier.ckpt``: two
    runs' files never stand side by side under these names. Other files in the folder stay.

    Args:
        dirpath: the folder, also at an address (``s3://bucket/run``); None is ``checkpoints`` beside the run's logs.
        monitor: name of the metric that decides which epoch is best. Without validation there is no ``best.ckpt``.
        mode: whether ``max`` or ``min`` of the metric is best.
        every_n_steps: write ``last.ckpt`` every so many steps of the optimiser too, for long epochs.
        save_on_exception: write it too when an exception or SIGTERM ends the run.
        save_weights_only: leave out what only resuming needs.

    Raises:
        InputError: for another mode, and fewer steps than 1.

    Example:
        >>> from lightning import Trainer
        >>> trainer = Trainer(callbacks=[CheckpointCallback("outputs/run", monitor="student/val_acc")], logger=False)
    """

    def __init__(
        self,
        dirpath: str | Path | None = None,
        monitor: str = "student/val_acc",
        mode: Literal["max", "min"] = "max",
        every_n_steps: int | None = None,
        save_on_exception: bool = False,
        save_weights_only: bool = False,
    ) -> None:
        super().__init__(
            dirpath=None if dirpath is None else path_or_address("dirpath", dirpath),
            filename="best",
            monitor=text("monitor", monitor),
            mode=one_of("mode", mode, ("max", "min")),
            save_weights_only=flag("save_weights_only", save_weights_only),
            enable_version_counter=False,
        )
        self.every_n_steps = None if every_n_steps is None else at_least("every_n_steps", every_n_steps, 1)
        self.rescues = flag("save_on_exception", save_on_exception)  # ModelCheckpoint would write it as the best
        self._step = 0  # of the latest last.ckpt
        self._replaces = False

    @property
    def last_path(self) -> str:
        """Where ``last.ckpt`` is, once a run has begun."""
        return self._path(self.CHECKPOINT_NAME_LAST)

    def _path(self, name: str) -> str:
        return os.path.join(self.dirpath or "", f"{name}{self.FILE_EXTENSION}")

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Find the folder."""
        with warnings.catch_warnings():  # what on_train_start says is clearer
            warnings.filterwarnings("ignore", message="Checkpoint directory .* exists and is not empty")
            super().setup(trainer, pl_module, stage)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Say that an earlier run's files will be replaced, if there are any and this run is a new one."""
        super().on_train_start(trainer, pl_module)
        self._step = trainer.global_step
        # A resumed run finishes what a kill in the middle of replacing has left.
        there = self._files() if trainer.global_step == 0 else [path for path in [self._earlier] if is_file(path)]
        self._replaces = bool(there) and not trainer.fast_dev_run  # type: ignore[attr-defined]
        if self._replaces and trainer.global_step == 0:
            rank_zero_info(
                f"checkpoints: {self.dirpath} has those of an earlier run, which this run replaces; "
                "--ckpt_path goes on with one, another dirpath keeps them"
            )

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Write ``last.ckpt`` after every ``every_n_steps``-th step."""
        step = trainer.global_step
        if self.every_n_steps is not None and step != self._step and step % self.every_n_steps == 0:
            self._write_last(trainer)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the files after a validation within an epoch; the epoch's end follows one after its last batch."""
        if trainer.state.fn != TrainerFn.FITTING or trainer.sanity_checking:
            return
        self._set_aside(trainer)
        super().on_validation_end(trainer, pl_module)
        if not trainer.is_last_batch:
            self._write_last(trainer)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write ``last.ckpt``, behind ``best.ckpt`` so that it knows of it."""
        self._set_aside(trainer)
        super().on_train_epoch_end(trainer, pl_module)
        self._write_last(trainer)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Write ``last.ckpt``, if asked to and if it is not the latest already."""
        if self.rescues and not trainer.sanity_checking and trainer.global_step != self._step:
            self._write_last(trainer)
            rank_zero_info(f"checkpoints: {self.last_path} is of step {trainer.global_step}, where the run ended")

    def _files(self) -> list[str]:
        return [path for path in (self._best, self.last_path, self._earlier) if is_file(path)]

    @property
    def _best(self) -> str:
        return self._path(str(self.filename))

    @property
    def _earlier(self) -> str:
        """Where an earlier run's ``last.ckpt`` is while this run replaces it."""
        return self._path(f"{self.CHECKPOINT_NAME_LAST}.earlier")

    def _set_aside(self, trainer: L.Trainer) -> None:
        """Rename an earlier run's ``last.ckpt``, which would stand beside this run's ``best.ckpt`` for a moment."""
        if self._replaces and trainer.is_global_zero and self._step == 0 and is_file(self.last_path):
            move(self.last_path, self._earlier)

    def _remove_earlier(self, trainer: L.Trainer) -> None:
        """Remove what an earlier run has left, now that this run's files stand."""
        if self._replaces and trainer.is_global_zero:
            remove(self._earlier)
            if not self.best_model_path:
                remove(self._best)
        self._replaces = False

    def _write_last(self, trainer: L.Trainer) -> None:
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        self._step = trainer.global_step
        self.last_model_path = self.last_path
        trainer.save_checkpoint(self.last_path, self.save_weights_only)
        self._remove_earlier(trainer)
        for logger in trainer.loggers:
            logger.after_save_checkpoint(proxy(self))
