"""The days of examples/, on tiny made data."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from ida_lightning.__main__ import main
from tests.helpers.command_line import CONFIGS, SHORT
from tests.helpers.folder_files import write_folder
from tests.helpers.wandb_reader import read_run

EXAMPLES = Path(__file__).parents[1] / "examples"
TINY = ["--trainer.max_epochs=1", "--trainer.accelerator=cpu", "--trainer.enable_progress_bar=false"]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


def run(*command, **environment):
    # A session of Triton's tests in this process may have left its interpreter on.
    known = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(command, capture_output=True, text=True, timeout=800, env=known | environment)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return done.stdout


def test_a_day_with_photographs(tmp_path):
    write_folder(tmp_path / "photos", parts={"train": 8, "val": 3})
    new = tmp_path / "new photos"
    new.mkdir()
    for number, file in enumerate(sorted((tmp_path / "photos" / "val").glob("*/*.png"))):
        file.rename(new / f"{number}.png")
    write_folder(tmp_path / "more", parts={"val": 3})
    (tmp_path / "photos" / "val").rename(tmp_path / "empty")
    (tmp_path / "more" / "val").rename(tmp_path / "photos" / "val")
    tiny = ["--data.image_size=32", "--data.num_workers=0", "--data.batch_size=8", *TINY]
    out = run(
        *("bash", str(EXAMPLES / "day1_photographs.sh"), str(tmp_path / "photos"), str(new), *tiny),
        IDA=str(Path(sys.executable).with_name("ida-lightning")),
        TEACHER="test_resnet",
        AUDIT_BATCHES="1",
    )
    assert "Thresholds:" in out
    assert "student/test_acc" in out
    with Path("outputs/day1/predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 9
    assert {row["name"] for row in rows} <= {"cat", "dog", "eel"}
    assert Path("outputs/day1/audit/audit.html").is_file()


def test_a_day_with_an_own_loop():
    command = [sys.executable, str(EXAMPLES / "day2_own_loop.py"), "--data", "made", "--count", "256", "--epochs", "1"]
    out = run(*command, "--teacher", "test_resnet")
    assert [line.split(":")[0].strip() for line in out.splitlines() if "test accuracy" in line] == [
        "teacher",
        "student, labels",
        "student, KD",
        "student, KD-i",
    ]
    assert "Thresholds:" in out
    assert Path("outputs/day2/student.safetensors").is_file()


@pytest.mark.filterwarnings("ignore:teacher. .* is close to chance")
def test_a_day_with_an_own_module():
    main(["fit", "--config", str(CONFIGS / "digits" / "teacher.yaml"), *SHORT])
    command = [sys.executable, str(EXAMPLES / "day3_own_module.py")]
    assert "epochs 1, steps 19" in run(*command, "--epochs", "1")
    before = torch.load("outputs/day3/last.ckpt", weights_only=True)
    assert not any(name.startswith("teacher") for name in before["state_dict"])
    assert "epochs 2, steps 38" in run(*command, "--epochs", "2", "--resume", "outputs/day3/last.ckpt")
    after = torch.load("outputs/day3/last.ckpt", weights_only=True)
    assert (before["epoch"], after["epoch"]) == (0, 1)
    runs = sorted(Path("outputs/day3/wandb").glob("offline-run-*/run-*.wandb"))
    assert len(runs) == 2
    logged = read_run(runs[-1])
    assert any("train/violation_rate_corrected" in row for row in logged.history)
