"""Isolation for every test, and small things that many of them need."""

import logging
import os

# Without a GPU the Triton kernels run in its interpreter; Triton looks at this once, when it is imported.
if not os.path.exists("/dev/nvidiactl"):
    os.environ["TRITON_INTERPRET"] = "1"

import random
from contextlib import contextmanager
from pathlib import Path

import hypothesis
import lightning as L
import numpy as np
import pytest
import torch
import torch.distributed as dist
from lightning.pytorch.utilities import rank_zero_only
from torch import nn

from ida_lightning.data import MixingDataModule
from ida_lightning.data.in_memory import InMemoryImages
from ida_lightning.mixing import Mixing

# Lightning 2.6 calls what jsonargparse 4.49 has deprecated; pyproject.toml keeps jsonargparse below 5.
os.environ["JSONARGPARSE_DEPRECATION_WARNINGS"] = "off"
# Nothing here may depend on the speed of the machine, and a failure must come back in the next run.
hypothesis.settings.register_profile("suite", deadline=None, derandomize=True)
hypothesis.settings.load_profile("suite")
# Two threads make small convolutions slower, and much slower when the machine is busy.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _isolated(monkeypatch, tmp_path):
    """Own folder, known seeds, no traces of process groups or of W&B in the environment afterwards."""
    before = dict(os.environ)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    torch.manual_seed(0)
    np.random.seed(0)  # noqa: NPY002 (libraries under test may use the global state)
    random.seed(0)
    yield
    if dist.is_initialized():
        dist.destroy_process_group()
    rank_zero_only.rank = 0
    os.environ.clear()
    os.environ.update(before)


class BlobsDataModule(MixingDataModule):
    """Four classes of 8 x 8 images told apart by the bright corner: learnt in a few steps."""

    class_names = ["top left", "top right", "bottom left", "bottom right"]  # noqa: RUF012
    channels = 1
    image_size = 8
    mean = (0.2,)
    std = (0.25,)

    def load(self):
        rng = np.random.default_rng(7)

        def part(images):
            labels = torch.arange(images) % 4
            noise = torch.from_numpy(rng.integers(0, 60, (images, 1, 8, 8), dtype=np.uint8))
            for image, label in zip(noise, labels, strict=True):
                top, left = 4 * (int(label) // 2), 4 * (int(label) % 2)
                image[:, top : top + 4, left : left + 4] += 180
            return InMemoryImages(noise, labels)

        return {"train": part(64), "val": part(24), "test": part(16)}


class TinyNet(nn.Sequential):
    """A network with BatchNorm and dropout, so that a teacher in train mode is noticed."""

    def __init__(self, classes=4, channels=1, width=8):
        super().__init__(
            nn.Conv2d(channels, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Dropout(0.1),
            nn.Linear(4 * width, classes),
        )


@pytest.fixture
def blobs():
    return BlobsDataModule(batch_size=16, mixing=Mixing("cutmix"))


@pytest.fixture
def configs() -> Path:
    return Path(__file__).parents[1] / "configs"


DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@contextmanager
def never_waiting(device):
    """Inside, anything that makes the host wait for the accelerator is an error."""
    if device == "cpu":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def trainer(tmp_path, **options) -> L.Trainer:
    """A quiet CPU trainer."""
    defaults = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "log_every_n_steps": 1,
        "default_root_dir": tmp_path,
    }
    return L.Trainer(**{**defaults, **options})
