"""What a comparison believes: results that are whole, of this cell and of the weights that taught."""

import json
import os
import signal
import threading
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch.callbacks import Callback
from safetensors.torch import save_file

from ida_lightning.__main__ import main
from ida_lightning.files import digest_of_file
from ida_lightning.models import build_model
from ida_lightning.studies.compare import schedule
from ida_lightning.studies.compare.cells import Cell, check_result
from tests.helpers.audits import complaint_of
from tests.helpers.cells import FIGURES, RESULT

pytestmark = [
    pytest.mark.filterwarnings("ignore:teacher. .* is close to chance"),
    pytest.mark.filterwarnings("ignore:The number of training batches"),
]


def changed(**changes):
    return json.dumps({key: value for key, value in {**RESULT, **changes}.items() if value is not ...})


def cell():
    return Cell("kd", 0, Path("kd/seed_0"), {"trainer": {}}, "cd", None, False)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "no JSON"),
        (changed()[:100], "no JSON"),
        ("\x00\x01\xff", "no JSON"),
        ("[]", "no mapping"),
        ("null", "no mapping"),
        ("{}", "no method"),
        ("[" * 100_000, "recursion"),
        (changed(last=...), "no last"),
        (changed(config={}), "no config.trainer"),
        (changed(seconds="x"), "no seconds"),
        (changed(seed=5), "of kd, seed 5"),
        (changed(method="other"), "of other, seed 0"),
        (changed(last={**FIGURES, "test_acc": float("nan")}), "it holds NaN"),
        (changed(best={**FIGURES, "test_acc": 7.0}), "best.test_acc is 7.0"),
        (changed(best={**FIGURES, "test_nll": None}), "best.test_nll is None"),
    ],
)
def test_damaged_and_foreign_results_run_again(content, reason):
    path = Path("kd/seed_0/cell.json")
    path.parent.mkdir(parents=True)
    path.write_bytes(content.encode("latin-1"))
    assert cell().last_result() is None
    assert cell().result() is None
    assert cell().change().startswith(f"{path} is damaged (")
    assert reason in cell().change()
    path.write_text(changed())
    assert cell().change() is None
    assert cell().result() == RESULT
    assert check_result(RESULT, "kd", 0) is RESULT


class Interfere(Callback):
    """Another process replaces the teacher while a cell is trained with it."""

    def on_train_start(self, trainer, pl_module):
        network = build_model("test_resnet", 4, 1)
        with torch.no_grad():
            next(network.parameters()).add_(1)
        save_file(network.state_dict(), "teacher.safetensors")


class Terminated(Callback):
    """Is ended by a scheduler."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        os.kill(os.getpid(), signal.SIGTERM)


def comparison(*callbacks, **changes):
    save_file(build_model("test_resnet", 4, 1).state_dict(), "teacher.safetensors")
    data = {"class_path": "tests.helpers.data.BlobsDataModule", "init_args": {"batch_size": 16}}
    networks = {"teacher": "test_resnet", "teacher_checkpoint": "teacher.safetensors", "student": "test_resnet"}
    trainer = {
        "max_epochs": 1,
        "accelerator": "cpu",
        "callbacks": [{"class_path": f"{__name__}.{c}"} for c in callbacks],
    }
    fit = {"trainer": trainer, "model": {"class_path": "DistillationModule", "init_args": networks}, "data": data}
    Path("fit.yaml").write_text(yaml.safe_dump(fit))
    content = {"fit": "fit.yaml", "seeds": [0], "methods": {"kd": {}}, "reference": "kd", "output": "out", **changes}
    Path("compare.yaml").write_text(yaml.safe_dump(content))
    return ["compare", "--config", "compare.yaml"]


def test_the_weights_that_taught_are_recorded(capsys):
    arguments = comparison("Interfere")
    before = digest_of_file("teacher.safetensors")
    with pytest.raises(SystemExit, match="^1$"):  # the cell is not one of the teacher that lies there now
        main(arguments)
    recorded = json.loads(Path("out/cells/kd/seed_0/cell.json").read_text())["teacher_sha256"]
    assert recorded == before != digest_of_file("teacher.safetensors")
    assert "Not finished: 1 of 1 cells." in capsys.readouterr().out
    main([*arguments, "--summarise"])
    printed = capsys.readouterr().out
    assert "kd, seed 0: left out, its config has changed: the teacher's weights teacher.safetensors are oth" in printed


def test_the_tables_are_of_one_run():
    main(comparison())
    runs = [line.rpartition(",")[2] for line in Path("out/results.csv").read_text().split()[1:]]
    (run,) = {*runs, *(line.rpartition(",")[2] for line in Path("out/summary.csv").read_text().splitlines()[1:])}
    assert f"Run {run}" in Path("out/summary.md").read_text()
    assert f"Run {run}".encode() in Path("out/differences.png").read_bytes()
    assert {path.name for path in Path("out").iterdir()} == {
        *("cells", "results.csv", "summary.csv", "summary.md", "differences.png")
    }


def test_sigterm_ends_a_comparison_with_143():
    with pytest.raises(SystemExit) as stop:
        main(comparison("Terminated"))
    assert stop.value.code == 143
    assert not Path("out/cells/kd/seed_0/cell.json").exists()


@pytest.mark.slow
def test_a_worker_is_said_to_be_ended_by_its_signal(capfd):
    with pytest.raises(SystemExit) as stop:
        main(comparison("Terminated", jobs=2))
    assert stop.value.code == 1
    assert "kd, seed 0: failed: was ended by SIGTERM; see " in capfd.readouterr().out


@pytest.mark.parametrize(
    ("code", "text"),
    [(-15, "was ended by SIGTERM"), (143, "was ended by SIGTERM"), (-9, "was ended by SIGKILL"), (1, "ended with 1")],
)
def test_how_a_process_ended(code, text):
    assert schedule._ending(code) == text


def test_an_output_that_cannot_be_written_is_said_first(capsys):
    arguments = comparison(output="file/out")
    Path("file").touch()
    assert "output: expected a place to write to, got file/out" in complaint_of(arguments, capsys)


def test_a_teacher_ends_with_its_comparison(monkeypatch):
    watched = threading.Event()
    monkeypatch.setattr(schedule, "_end_with_parent", watched.set)

    class Fit:
        def __init__(self, args):
            assert watched.wait(20), "while it trains"

        def run(self):
            raise schedule.Terminated

    monkeypatch.setattr(schedule, "IDACLI", Fit)
    with pytest.raises(SystemExit) as stop:
        schedule._fit("teacher.yaml", 1)
    assert stop.value.code == 143
