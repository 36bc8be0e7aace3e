"""The command ``teach``: answers without a student, and students that learn from them."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from ida_lightning.__main__ import main
from ida_lightning.models import build_model
from ida_lightning.studies import teach as study
from tests.helpers.audits import complaint_of

FOLDER = "--model.teacher_outputs.folder=answers"
DATA = {"class_path": "tests.helpers.data.BlobsDataModule", "init_args": {"batch_size": 16}}

pytestmark = [
    pytest.mark.filterwarnings("ignore:teacher. .* is close to chance"),
]


@pytest.fixture
def config():
    """A fit of a student whose teacher has a weight file."""
    torch.manual_seed(0)
    save_file(build_model("test_resnet", 4, 1).state_dict(), "teacher.safetensors")
    export = {"class_path": "ExportCallback", "init_args": {"path": "student.safetensors"}}
    trainer = {"accelerator": "cpu", "max_epochs": 2, "callbacks": [export], "enable_progress_bar": False}
    teacher = {"teacher": "test_resnet", "teacher_checkpoint": "teacher.safetensors", "student": "test_resnet"}
    model = {"class_path": "DistillationModule", "init_args": teacher}
    content = {"trainer": {**trainer, "logger": False, "enable_checkpointing": False}, "model": model, "data": DATA}
    Path("fit.yaml").write_text(yaml.safe_dump(content))
    return ["--config", "fit.yaml"]


def student():
    return load_file("student.safetensors")


def test_students_learn_where_the_teacher_is_not(config):
    main(["fit", *config])
    live = student()
    main(["teach", *config, FOLDER])
    Path("teacher.safetensors").unlink()
    main(["fit", *config, FOLDER, "--model.teacher_outputs.mode=replay"])
    assert all(torch.equal(live[name], tensor) for name, tensor in student().items())
    kept = json.loads(Path("answers/validation.json").read_text())
    assert 0 <= kept["accuracy"] <= 1
    assert kept["nll"] > 0
    assert not Path("outputs").exists(), "what the fit config writes is left out"


def test_a_recording_goes_on_and_can_be_longer(config, monkeypatch):
    lines = []
    monkeypatch.setattr(study, "rank_zero_info", lines.append)
    for epochs, asked in ((1, 4), (3, 8), (3, 0)):
        main(["teach", *config, FOLDER, f"--epochs={epochs}"])
        assert f"epochs 0 ... {epochs - 1} are in answers" in lines[-1]
        assert f"; {asked} batches were asked now" in lines[-1]
    main(["teach", *config, "--model.teacher_outputs={folder: few, cycle: 1}"])
    assert "epochs 0 ... 0 are in few" in lines[-1]
    assert len(list(Path("answers").glob("epoch_*.npy"))) == 3


def test_what_cannot_be_recorded_is_one_line(config, capsys):
    assert "teacher_outputs: expected a folder for the answers" in complaint_of(["teach", *config], capsys)
    assert "epochs: expected" in complaint_of(["teach", *config, FOLDER, "--epochs=0"], capsys)
    assert "teacher_checkpoint: expected a weight file" in complaint_of(
        ["fit", *config, FOLDER, "--model.teacher_checkpoint=none.safetensors"], capsys
    )
    line = complaint_of(["fit", *config, FOLDER, "--model.teacher_outputs.mode=replay"], capsys)
    assert "teacher_outputs: expected stored answers in answers, found no manifest.json" in line
    main(["teach", *config, FOLDER, "--epochs=1"])
    other = complaint_of(["fit", *config, FOLDER, "--data.batch_size=8"], capsys)
    assert "teacher_outputs: expected pictures.batch_size 16, with which answers was recorded, got 8" in other
    torch.manual_seed(1)
    save_file(build_model("test_resnet", 4, 1).state_dict(), "teacher.safetensors")
    assert "expected teacher.fingerprint" in complaint_of(["fit", *config, FOLDER], capsys)
    replay = complaint_of(["fit", *config, FOLDER, "--model.teacher_outputs.mode=replay"], capsys)
    assert "expected teacher.file" in replay, "not built, but the file is there and another one"
