"""A small distillation run that stops and waits where a test wants it; ``test_faults.py`` starts it as a process."""

import io
import json
import multiprocessing
import os
import sys
import tempfile
import time
import traceback
from pathlib import Path

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, LearningRateMonitor
from lightning.pytorch.loggers import CSVLogger

from ida_lightning import Mixing
from ida_lightning.augment.augmentation import Augmentation
from ida_lightning.callbacks import CheckpointCallback, ExportCallback
from ida_lightning.methods import IsotonicSoftLabelCallback
from ida_lightning.modules import DistillationModule
from tests.helpers.data import BlobsDataModule
from tests.helpers.networks import TinyNet
from tests.helpers.trainers import trainer

PATIENCE = 200  # seconds until a process that nobody ends gives up


class Hold(Callback):
    """Writes down every step, and in one of them waits for a signal."""

    def __init__(self, folder, step):
        self.folder = folder
        self.step = step

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        with (self.folder / f"steps{trainer.global_rank}").open("a") as file:
            file.write(f"{trainer.global_step}\n")
        if trainer.global_step == self.step:
            wait(lambda: trainer.received_sigterm)


def wait(over):
    for _ in range(100 * PATIENCE):
        if over():
            return
        time.sleep(0.01)
    raise TimeoutError("nobody ended this process")


def stop_halfway(folder, name):
    """Wait in the middle of writing this checkpoint of step 4, when older ones are there."""
    save = torch.save

    def half(content, file, *args):
        if name not in file.name or "4" not in (folder / "steps0").read_text().split():
            return save(content, file, *args)
        whole = io.BytesIO()
        save(content, whole, *args)
        file.write(whole.getvalue()[: whole.tell() // 2])
        file.flush()
        (folder / "half").touch()
        wait(lambda: False)

    torch.save = half


def run(
    folder,
    attempt,
    hold=None,
    resume=None,
    ema=False,
    every=None,
    processes=1,
    strategy="auto",
    rescue=False,
    half=None,
    workers=0,
):
    """Fit, whole or until the signal.

    Args:
        folder: of everything that is written.
        attempt: counts the processes that work on one run.
        hold: the step in which to wait.
        resume: the checkpoint to go on from.
        ema: average the weights.
        every: steps from checkpoint to checkpoint within an epoch; None is at its end only, as in the shipped configs.
        processes: that train together.
        strategy: of the Trainer.
        rescue: a checkpoint also when an exception ends the run.
        half: part of a checkpoint's name: wait in the middle of writing it.
        workers: processes that load.
    """
    folder = Path(folder)
    if half is not None:
        stop_halfway(folder, half)
    L.seed_everything(3, verbose=False)
    module = DistillationModule(TinyNet(), TinyNet(), 4, 1, 8)
    data = BlobsDataModule(
        batch_size=16 // processes,
        mixing=Mixing("both"),
        augmentation=Augmentation(crop_padding=1, flip=True, cutout=2),
        num_workers=workers,
    )
    torch.rand(attempt)  # what a process did before must not matter
    callbacks = [
        IsotonicSoftLabelCallback(),
        LearningRateMonitor("step"),
        *([EMAWeightAveraging(decay=0.7)] if ema else []),
        Hold(folder, hold),
        CheckpointCallback(folder / "checkpoints", every_n_steps=every, save_on_exception=rescue),
        ExportCallback(str(folder / "student.safetensors")),
    ]
    fitting = trainer(
        folder,
        max_epochs=3,
        devices=processes,
        strategy=strategy,
        callbacks=callbacks,
        logger=CSVLogger(folder, "log", attempt, flush_logs_every_n_steps=1),
        enable_checkpointing=True,
    )
    fitting.fit(module, data, ckpt_path=resume, weights_only=True)


def process(options, environment, errors):
    """The whole life of a process that the test forks from a server which has imported everything."""
    os.environ.update(environment)
    multiprocessing.set_start_method("fork", force=True)  # of loader processes; they would import everything again
    tempfile.tempdir = str(Path(errors).parent)  # what a killed process leaves behind goes with the test
    with Path(errors).open("w") as file:
        os.dup2(file.fileno(), 2)
        os.dup2(file.fileno(), 1)
    try:
        run(**options)
    except Exception:
        traceback.print_exc()
        raise


if __name__ == "__main__":
    run(**json.loads(sys.argv[1]))
