"""Isolation for every test, and fixtures. Helpers that tests import are in tests/helpers/."""

import logging
import os

# Without a GPU the Triton kernels run in its interpreter; Triton looks at this once, when it is imported.
if not os.path.exists("/dev/nvidiactl"):
    os.environ["TRITON_INTERPRET"] = "1"

import random
import sys
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch
import torch.distributed as dist

from ida_lightning.mixing import Mixing

# Lightning 2.6 calls what jsonargparse 4.49 has deprecated; pyproject.toml keeps jsonargparse below 5.
os.environ["JSONARGPARSE_DEPRECATION_WARNINGS"] = "off"
# Nothing here may depend on the speed of the machine, and a failure must come back in the next run.
hypothesis.settings.register_profile("suite", deadline=None, derandomize=True)
hypothesis.settings.load_profile("suite")
# Two threads make small convolutions slower, and much slower when the machine is busy.
torch.set_num_threads(1)

pytest.register_assert_rewrite("tests.helpers")


def pytest_addoption(parser):
    parser.addoption("--without-lightning", action="store_true", help="make every import of Lightning an error")


def pytest_configure(config):
    if config.getoption("--without-lightning"):
        if "lightning" in sys.modules:
            raise pytest.UsageError("--without-lightning: tests/conftest.py or a plugin has imported Lightning already")
        # Python's way to say that there is no such module: importing it raises ModuleNotFoundError.
        sys.modules["lightning"] = sys.modules["pytorch_lightning"] = None


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
    if utilities := sys.modules.get("lightning.pytorch.utilities"):
        utilities.rank_zero_only.rank = 0
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(autouse=True)
def _blank_pictures(request, monkeypatch):
    """Draw nothing into the pictures of audits and comparisons, which takes more time than all the rest of them."""
    tables = sys.modules.get("ida_lightning.studies.tables")
    if tables is None or request.node.get_closest_marker("draws") or request.node.get_closest_marker("slow"):
        return
    from matplotlib.figure import Figure

    as_png = tables.as_png
    for module in ("audit.page", "audit.run", "compare.command"):
        monkeypatch.setattr(f"ida_lightning.studies.{module}.as_png", lambda _, run: as_png(Figure((1, 1)), run))


@pytest.fixture
def blobs():
    from tests.helpers.data import BlobsDataModule

    return BlobsDataModule(batch_size=16, mixing=Mixing("cutmix"))


@pytest.fixture
def configs() -> Path:
    return Path(__file__).parents[1] / "configs"
