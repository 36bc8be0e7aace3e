"""The command ``ida-lightning teach``: a teacher answers the batches of a fit, and no student is trained."""

from __future__ import annotations

import warnings
from pathlib import Path

import lightning as L
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.utilities import rank_zero_info

from ida_lightning.data import LabelledDataModule
from ida_lightning.errors import InputError, at_least
from ida_lightning.lightning_internals import set_max_epochs
from ida_lightning.methods import InnerMixingCallback
from ida_lightning.modules import DistillationModule
from ida_lightning.modules.recording import TeacherRecorder


def teach(
    trainer: L.Trainer,
    model: L.LightningModule,
    datamodule: L.LightningDataModule,
    epochs: int | None = None,
) -> None:
    """Store the teacher's answers to the training batches of a fit config; students then replay them.

    A run that was stopped goes on where it ended. The students' fits need the same data, seed, batch size and number
    of processes; what differs is named when they start.

    Args:
        trainer: its devices, precision, progress bar and InnerMixingCallback are used; other callbacks and loggers not.
        model: a DistillationModule with ``teacher_outputs``.
        datamodule: a LabelledDataModule.
        epochs: how many; none takes the cycle of ``teacher_outputs``, or else the Trainer's ``max_epochs``.

    Raises:
        InputError: for another kind of model or data, a module that stores no answers, and a folder of other answers.
    """
    if not isinstance(model, DistillationModule):
        raise InputError(f"model: expected a DistillationModule, got {type(model).__name__}")
    if not isinstance(datamodule, LabelledDataModule):
        raise InputError(f"data: expected a LabelledDataModule, got {type(datamodule).__name__}")
    recorder = TeacherRecorder(model)
    options = recorder.answers.options
    assert options is not None
    wanted = epochs if epochs is not None else options.cycle or trainer.max_epochs
    epochs = at_least("epochs", -1 if wanted is None else wanted, 1)
    set_max_epochs(trainer, epochs)
    kept = (ProgressBar, InnerMixingCallback)  # the answers are to what is mixed in the teacher
    trainer.callbacks = [one for one in trainer.callbacks if isinstance(one, kept)]  # type: ignore[attr-defined]
    trainer.loggers = []
    datamodule.prepare_data()
    datamodule.setup("fit")
    if "val" in datamodule.splits:
        (figures,) = trainer.validate(recorder, datamodule=datamodule, verbose=False)
        rank_zero_info(f"teacher: {figures['teacher/val_acc']:.2%} validation accuracy")
    trainer.limit_val_batches = 0
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*this fit will run with no optimizer")
        trainer.callbacks = [bar for bar in trainer.callbacks if bar is not recorder.answers]  # type: ignore[attr-defined]
        trainer.fit(recorder, datamodule=datamodule)
    if trainer.interrupted:
        raise KeyboardInterrupt
    if "val" in datamodule.splits and trainer.is_global_zero:
        recorder.answers.keep_validation(figures["teacher/val_acc"], figures["teacher/val_nll"])
    folder = Path(options.folder)
    stored = sum(file.stat().st_size for file in folder.glob("epoch_*.npy"))
    rank_zero_info(
        f"teacher_outputs: epochs 0 ... {epochs - 1} are in {folder}, {stored / 1e6:,.1f} MB; "
        f"{recorder.answers.live} batches were asked now"
    )
