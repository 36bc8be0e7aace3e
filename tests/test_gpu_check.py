"""The script for the day a GPU is there runs on a CPU, smaller, and says what fails."""

import json
import subprocess
import sys
from pathlib import Path

from benchmarks import gpu_check


def test_gpu_check_runs_where_little_is_installed(tmp_path):
    # The machine with a GPU has no network, no pytest, jsonargparse or wandb.
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('pytest', 'jsonargparse', 'wandb')));"
        "from benchmarks.gpu_check import main; main(sys.argv[1:])"
    )
    command = [sys.executable, "-c", code, "--device", "cpu", "--small", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1], timeout=280)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    report = json.loads((tmp_path / "gpu_check_cpu.json").read_text())
    assert {part["outcome"] for part in report["parts"]} == {"ok"}
    assert {"ten steps: mosaic, 32-true", "solver times", "step", "data"} <= {part["part"] for part in report["parts"]}
    text = (tmp_path / "gpu_check_cpu.md").read_text()
    assert "| 16 | 10 | 1.0 | threshold |" in text
    assert "Step:" in text


def test_gpu_check_reports_what_fails():
    def fails():
        raise gpu_check.checks.CheckFailed("10 classes: off by 3")

    outcomes = gpu_check.run([("first", fails), ("second", lambda: [{"ms": 1}])], minutes=0)
    assert [outcome["outcome"] for outcome in outcomes] == ["FAILED: CheckFailed: 10 classes: off by 3", "ok"]
    assert "| first | FAILED: CheckFailed: 10 classes: off by 3 |" in gpu_check.markdown({"device": "none"}, outcomes)
    assert gpu_check.run([("late", fails)], minutes=1e-9)[0]["outcome"] == "not begun: time was up"
