"""A second run into the same folder: said, and replaced as a whole or refused."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ida_lightning.cli import reruns
from tests.helpers.command_line import fit


@pytest.fixture
def lines(monkeypatch):
    said = []
    monkeypatch.setattr(reruns, "rank_zero_info", said.append)
    return said


def contents():
    return sorted(path.name for path in Path("outputs/digits").rglob("*") if path.is_file())


def test_a_second_run_replaces_the_first_as_a_whole(lines):
    fit("digits/student")
    assert lines == []
    fit("digits/student", "--seed_everything=1")
    (line,) = lines
    assert "export: outputs/digits/student.safetensors is of an earlier run" in line
    assert contents() == ["best.ckpt", "last.ckpt", "student.safetensors"]
    exported = load_file("outputs/digits/student.safetensors")
    for name in ("best", "last"):
        kept = torch.load(f"outputs/digits/student/{name}.ckpt", weights_only=True)["state_dict"]
        assert all(torch.equal(kept[f"model.{key}"], value) for key, value in exported.items())
    fit("digits/student", "--ckpt_path=outputs/digits/student/last.ckpt", "--trainer.max_epochs=2")
    assert len(lines) == 1, "it is the same run"


MODEL_CHECKPOINT = """
trainer:
  callbacks:
    - class_path: ModelCheckpoint
      init_args: {dirpath: kept, filename: best, monitor: model/val_acc, mode: max, save_last: true}
    - {class_path: ExportCallback, init_args: {path: student.safetensors}}
"""


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_numbered_checkpoints_beside_a_new_export_are_refused(capsys):
    Path("own.yaml").write_text(MODEL_CHECKPOINT)
    with pytest.warns(UserWarning, match="ModelCheckpoint: its last.ckpt is the last epoch that was among the best"):
        fit("digits/student", "--config=own.yaml")
    with pytest.warns(UserWarning, match="CheckpointCallback writes the last"), pytest.raises(SystemExit):
        fit("digits/student", "--config=own.yaml")
    assert "kept has checkpoints of an earlier run and student.safetensors is its export" in capsys.readouterr().err
    assert {path.name for path in Path("kept").iterdir()} == {"best.ckpt", "last.ckpt"}
