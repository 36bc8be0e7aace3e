"""Checkpoints are whole or not there, wherever temporary files are."""

import tempfile
from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.plugins.io import AsyncCheckpointIO

from ida_lightning import InputError, WholeCheckpointIO
from ida_lightning.checkpoint_io import write_whole_checkpoints
from ida_lightning.modules import ClassificationModule
from tests.helpers.networks import TinyNet
from tests.helpers.trainers import trainer


def test_every_fit_writes_its_checkpoints_so(tmp_path, blobs, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", "/dev/null")  # no place for temporary files at all
    run = trainer(tmp_path, callbacks=[ModelCheckpoint(tmp_path / "kept", save_last=True)], enable_checkpointing=True)
    module = ClassificationModule(TinyNet(), 4, 1, 8)
    run.fit(module, blobs)
    assert isinstance(run.strategy.checkpoint_io, WholeCheckpointIO)
    state = torch.load(tmp_path / "kept" / "last.ckpt", weights_only=True)["state_dict"]
    assert all(torch.equal(state[name], tensor) for name, tensor in module.state_dict().items())
    assert not list((tmp_path / "kept").glob(".*"))


def test_an_own_choice_stays(tmp_path):
    own = AsyncCheckpointIO()
    run = L.Trainer(plugins=[own], accelerator="cpu", logger=False, default_root_dir=tmp_path)
    write_whole_checkpoints(run)
    assert run.strategy.checkpoint_io is own


def test_a_failure_leaves_the_older_checkpoint(tmp_path):
    path = tmp_path / "a.ckpt"
    WholeCheckpointIO().save_checkpoint({"step": 1}, path)
    with pytest.raises(AttributeError):
        WholeCheckpointIO().save_checkpoint({"step": lambda: 2}, path)
    assert WholeCheckpointIO().load_checkpoint(path, weights_only=True) == {"step": 1}
    with pytest.raises(InputError, match="could not be written"):
        WholeCheckpointIO().save_checkpoint({}, path / "b.ckpt")
    assert [file.name for file in tmp_path.iterdir()] == ["a.ckpt"]


def test_other_places_are_left_to_lightning():
    WholeCheckpointIO().save_checkpoint({"step": 1}, "memory://run/a.ckpt")
    assert WholeCheckpointIO().load_checkpoint("memory://run/a.ckpt", weights_only=True) == {"step": 1}
    assert not Path("memory:").exists()
