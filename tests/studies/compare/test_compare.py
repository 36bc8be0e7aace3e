"""Comparisons on tiny data through the real command."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import lightning as L
import pytest
import torch
import yaml
from lightning.pytorch.callbacks import Callback

from ida_lightning.__main__ import main
from ida_lightning.files import replacing
from ida_lightning.studies.compare.settings import read_settings
from tests.helpers.comparisons import CONTROL, ISOTONIC, METHODS, STUDENT, TRAINER, cell, rows_of

pytestmark = [
    # Four batches make no teacher.
    pytest.mark.filterwarnings("ignore:teacher. .* is close to chance"),
    pytest.mark.filterwarnings("ignore:The number of training batches"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),  # the fit config's own
]


class Explode(Callback):
    """Fails in the second epoch, after a validation has left a checkpoint."""

    kind: type = RuntimeError

    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == 1:
            raise self.kind("out of\nluck")


class Wait(Callback):
    """Says which process it is in, and stays there."""

    def on_train_start(self, trainer, pl_module):
        with replacing(Path("running")) as unfinished:
            unfinished.write_text(f"{os.getpid()}\n")
        time.sleep(200)


class Watch(Callback):
    """Keeps the images that a run trained on."""

    seen: list = []  # noqa: RUF012

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.seen.append((pl_module.owner, batch.inputs.clone(), batch.index.clone()))


class FirstStep(Callback):
    """Keeps the weights that runs start from."""

    weights: list = []  # noqa: RUF012

    def on_train_start(self, trainer, pl_module):
        state = pl_module.network.state_dict()
        self.weights.append((trainer.default_root_dir, {name: tensor.clone() for name, tensor in state.items()}))


def with_callbacks(*callbacks):
    return {
        "trainer": {"callbacks": [c if isinstance(c, dict) else {"class_path": f"{__name__}.{c}"} for c in callbacks]}
    }


@pytest.fixture
def fits(monkeypatch):
    """Counts fits."""
    count = []
    fit = L.Trainer.fit
    monkeypatch.setattr(L.Trainer, "fit", lambda self, *args, **kwargs: (count.append(1), fit(self, *args, **kwargs)))
    return count


@pytest.mark.draws
def test_a_finished_cell_never_runs_again(files, fits, capsys):
    curves = {"mass": {"kd_aug": 0, "control": 0.5}}
    main(files(curves=curves))
    assert len(fits) == 1 + 6, "the teacher, and methods x seeds"
    printed = capsys.readouterr().out
    assert "6 cells, 0 finished, 6 to run" in printed
    assert "[6/6] kd_aug, seed 1: test accuracy" in printed, "in this seed the control has recorded the teacher"
    rows = rows_of("results")
    assert [(row["method"], row["seed"]) for row in rows] == [(m, s) for s in "01" for m in METHODS]
    for row in rows:
        for weights in ("last", "best"):
            assert 0 <= float(row[f"{weights}_test_acc"]) <= 1
            for name in ("val_acc", "val_nll", "val_ece", "test_nll", "test_ece"):
                assert float(row[f"{weights}_{name}"]) >= 0
            assert (row[f"{weights}_agreement"] == "") == (row["method"] == "student")
        assert row["steps"] == "8"
        assert float(row["seconds_per_step"]) > 0
        assert (row["violation_rate"] == "") == (row["method"] == "student")
    control = [row for row in rows if row["method"] == "control"]
    assert all(float(row["moved_mass"]) > 0 for row in control)
    summary = Path("out/summary.md").read_text()
    assert summary.strip() in printed
    for name in ("differences", "curves"):
        assert Path(f"out/{name}.png").stat().st_size > 10_000
    assert "Pictures: differences.png, curves.png" in printed
    assert not Path("elsewhere").exists(), "what the fit config saves is left out"
    assert not list(Path("out").rglob("*.ckpt"))

    main(files())
    assert len(fits) == 7
    assert "6 cells, 6 finished, 0 to run" in capsys.readouterr().out
    cell("kd_aug", 1).unlink()
    main([*files(), "--summarise"])
    assert len(fits) == 7
    assert len(rows_of("results")) == 5
    assert "Not finished: 1 of 6" in capsys.readouterr().out
    main(files())
    assert len(fits) == 8
    assert len(rows_of("results")) == 6
    assert "[6/6] kd_aug, seed 1" in capsys.readouterr().out


def test_further_files_replace_keys_of_those_before(files, fits, capsys):
    files(output=..., seeds=[0, 1, 2], threads=1)
    kd_aug = {"model": {"init_args": {"temperature": 2.0}}}
    more = {"seeds": [7], "threads": None, "common": {"trainer": {"max_epochs": 1}}, "methods": {"kd_aug": kd_aug}}
    Path("quick.yaml").write_text(yaml.safe_dump(more))
    both = read_settings(["compare.yaml", "quick.yaml"])
    assert (both.seeds, both.threads, both.common) == ([7], None, more["common"])
    assert both.methods == {**METHODS, "kd_aug": kd_aug}
    assert both.output == "outputs/compare/compare-quick"
    assert read_settings(["compare.yaml"]).output == "outputs/compare/compare"
    Path("one.yaml").write_text(yaml.safe_dump({"methods": {"student": {"trainer": {"max_epochs": 1}}}}))
    student = read_settings(["compare.yaml", "one.yaml"]).methods["student"]
    assert student == {**METHODS["student"], "trainer": {"callbacks": [], "max_epochs": 1}}, (
        "the rest of a mapping stays"
    )
    Path("teacher.safetensors").touch()
    main(["compare", "--config", "compare.yaml", "--config", "quick.yaml", "--summarise"])
    assert "Not finished: 3 of 3 cells." in capsys.readouterr().out
    assert not fits


def test_a_changed_config_or_teacher_says_so_and_runs_again(files, fits, capsys):
    methods = {"kd_aug": {}, "control": METHODS["control"]}
    main(files(methods=methods, seeds=[3]))
    hotter = {"model": {"init_args": {"temperature": 2.0}}}
    main(files(methods={**methods, "kd_aug": hotter}, seeds=[3]))
    assert len(fits) == 1 + 2 + 1
    printed = capsys.readouterr().out
    assert "kd_aug, seed 3: runs again, its config has changed: model.init_args.temperature was 4.5, is 2.0" in printed
    Path("teacher.safetensors").unlink()
    teacher = yaml.safe_load(Path("teacher.yaml").read_text())
    Path("teacher.yaml").write_text(yaml.safe_dump({**teacher, "seed_everything": 5}))
    main(files(methods=methods, seeds=[3]))
    assert len(fits) == 4 + 1 + 2
    assert "control, seed 3: runs again, its config has changed: the teacher's weights" in capsys.readouterr().out


@pytest.mark.slow
def test_methods_share_initial_weights_shuffling_and_draws(files):
    Watch.seen, FirstStep.weights = [], []
    both = ["Watch", "FirstStep"]
    methods = {
        "kd_aug": with_callbacks(ISOTONIC, *both),
        "control": with_callbacks(CONTROL, *both),
        "student": {**STUDENT, **with_callbacks(*both)},
    }
    main(files(methods=methods))
    results = [json.loads(cell(method, seed).read_text()) for seed in (0, 1) for method in methods]
    starts = [result["initial_weights"] for result in results]
    assert starts[0] == starts[1] == starts[2] != starts[3] == starts[4] == starts[5]
    weights = [state for _, state in FirstStep.weights]
    for name, tensor in weights[0].items():
        assert torch.equal(tensor, weights[1][name]), name
        assert torch.equal(tensor, weights[2][name]), name
    runs = [Watch.seen[start : start + 8] for start in range(0, 48, 8)]
    assert [run[0][0] for run in runs] == ["student", "student", "model"] * 2
    for run, other in ((0, 1), (0, 2), (3, 4), (3, 5)):
        for (_, images, index), (_, others, other_index) in zip(runs[run], runs[other], strict=True):
            assert torch.equal(images, others)
            assert torch.equal(index, other_index)
    assert not torch.equal(runs[0][0][2], runs[3][0][2]), "another seed shuffles otherwise"
    assert "Not the same initial weights" not in Path("out/summary.md").read_text()


def test_a_failing_cell_does_not_stop_the_others(files, fits, capsys):
    methods = {"broken": with_callbacks("Explode"), "kd_aug": {}}
    for runs in (1 + 4, 1 + 4 + 2):
        with pytest.raises(SystemExit) as stop:
            main(files(methods=methods))
        assert stop.value.code == 1
        assert len(fits) == runs, "the failed cells are tried again, the others are not"
        printed = capsys.readouterr().out
        assert "broken, seed 0: failed: RuntimeError: out of luck" in printed
        assert "Failed: broken, seed 1: RuntimeError: out of luck" in printed
        assert "Not finished" not in printed
    assert not cell("broken", 0).exists()
    assert "on_train_epoch_start" in Path("out/cells/broken/seed_0/error.txt").read_text()
    assert [row["method"] for row in rows_of("results")] == ["kd_aug", "kd_aug"]


def test_a_run_that_is_killed_leaves_no_figures_and_starts_anew(files, fits, monkeypatch):
    methods = {"kd_aug": {}, "killed": with_callbacks("Explode")}
    monkeypatch.setattr(Explode, "kind", KeyboardInterrupt)
    with pytest.raises((SystemExit, KeyboardInterrupt)):
        main(files(methods=methods, seeds=[0]))
    assert cell("kd_aug", 0).exists()
    assert not cell("killed", 0).exists()
    assert not list(Path("out").rglob(".unfinished*"))
    monkeypatch.setattr(Explode, "on_train_epoch_start", Callback.on_train_epoch_start)
    main(files(methods=methods, seeds=[0]))
    assert len(fits) == 1 + 2 + 1
    assert cell("killed", 0).exists()
    assert not (cell("killed", 0).parent / "weights").exists()


def test_kept_weights_are_those_that_were_measured(files):
    main(files(methods={"kd_aug": {}}, seeds=[0], keep_weights=True))
    folder = cell("kd_aug", 0).parent
    figures = json.loads(cell("kd_aug", 0).read_text())
    best = str(folder / "weights" / "best.ckpt")
    main(["test", "--config", str(folder / "config.yaml"), "--ckpt_path", best, "--trainer.logger.save_dir=again"])
    with Path("again/logs/metrics.csv").open() as file:
        tested = list(csv.DictReader(file))[-1]
    assert float(tested["student/test_nll"]) == pytest.approx(figures["best"]["test_nll"], rel=1e-5)
    assert (folder / "weights" / "last.ckpt").is_file()


def test_side_by_side_gives_what_one_after_the_other_gives(files, capfd):
    methods = {"kd_aug": {}, "broken": with_callbacks("Explode")}
    arguments = files(methods=methods, seeds=[0], threads=1)
    with pytest.raises(SystemExit):
        main([*arguments, "--output", "alone"])
    with pytest.raises(SystemExit):
        main([*arguments, "--jobs", "2"])
    assert "failed: RuntimeError: out of luck" in capfd.readouterr().out
    alone, apart = (json.loads(Path(f"{out}/cells/kd_aug/seed_0/cell.json").read_text()) for out in ("alone", "out"))
    assert apart["config_sha256"] == alone["config_sha256"]
    for key in ("initial_weights", "last", "best", "logged"):
        assert apart[key] == alone[key]
    assert Path("out/cells/kd_aug/seed_0/log.txt").is_file()


@pytest.mark.slow
def test_runs_end_with_the_comparison_however_it_is_ended(files):
    main(files(methods={"kd_aug": {}}, seeds=[0]))  # the teacher
    arguments = files(methods={"waiting": with_callbacks("Wait"), "kd_aug": {}}, seeds=[1], jobs=2)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    comparison = subprocess.Popen([sys.executable, "-m", "ida_lightning", *arguments], env=environment)
    try:
        end = time.monotonic() + 120
        while not Path("running").is_file() and time.monotonic() < end:
            time.sleep(0.05)
        (run,) = [int(line) for line in Path("running").read_text().split()]
    finally:
        comparison.kill()
        comparison.wait()
    end = time.monotonic() + 20
    while Path(f"/proc/{run}").exists() and time.monotonic() < end:
        time.sleep(0.05)
    alive = Path(f"/proc/{run}").exists()
    if alive:
        os.kill(run, signal.SIGKILL)
    assert not alive


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"methods": {"kd_aug": {"trainer": {"max_epoch": 3}}}}, "methods.kd_aug: .*'trainer.max_epoch'"),
        ({"methods": {"kd_aug": {"modle": {"a": 1}}}}, "methods.kd_aug: .*modle"),
        ({"methods": {"kd_aug": 3}}, "methods: expected a mapping, got 3"),
        ({"methods": {"a/b": {}}}, "methods: expected names of letters.*got 'a/b'"),
        ({"methods": {}}, "methods: expected names with a part of a fit config each, got none"),
        ({"reference": "kd"}, "reference: expected one of student, kd_aug, control, got 'kd'"),
        ({"reference": ...}, "the following arguments are required: reference"),
        ({"seeds": []}, r"seeds: expected different numbers, got \[\]"),
        ({"seeds": [1, 1]}, r"seeds: expected different numbers, got \[1, 1\]"),
        ({"seeds": 3}, "seeds: expected a list, got 3"),
        ({"sedes": [1]}, "sedes: no key of a comparison; did you mean seeds?"),
        ({"fit": "nowhere.yaml"}, "fit: .*File does not exist: .*nowhere.yaml"),
        ({"common": {"trainer": {"max_epoch": 3}}}, "common: .*'trainer.max_epoch'"),
        ({"jobs": 0}, "jobs: .*0 does not conform to restriction v>0"),
        ({"curves": ["kd_aug"]}, r"curves: expected a mapping, got \['kd_aug'\]"),
        ({"curves": {"sigma": 3}}, "curves: expected a mapping, got 3"),
        ({"curves": {"sigma": {"kd": 1}}}, "curves.sigma: expected one of student, kd_aug, control, got 'kd'"),
        ({"curves": {"sigma": {"kd_aug": "one"}}}, "curves: expected a number, got one"),
        ({"devices": "all"}, "devices: expected a list, got all"),
        (
            {"teacher": ...},
            "methods.kd_aug: teacher_checkpoint: .*nothing at teacher.safetensors; the key teacher names",
        ),
        ({"teacher": "fit_alone.yaml"}, "teacher: expected a fit config with an ExportCallback, got none in fit_alone"),
    ],
)
def test_mistakes_are_one_line_before_anything_runs(files, fits, changes, complaint, capsys):
    fit = yaml.safe_load(Path("teacher.yaml").read_text())
    Path("fit_alone.yaml").write_text(yaml.safe_dump({**fit, "trainer": TRAINER}))
    with pytest.raises(SystemExit) as stop:
        main(files(**changes))
    assert stop.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    (line,) = (line for line in lines if line.startswith("ida-lightning: "))
    assert re.search(complaint, line)
    assert not fits


def test_arguments_that_are_wrong_are_one_line(capsys):
    for arguments, complaint in (
        ([], "required: config"),
        (["--config", "nowhere.yaml"], "found nothing at nowhere.yaml"),
    ):
        with pytest.raises(SystemExit) as stop:
            main(["compare", *arguments])
        assert stop.value.code == 2
        assert complaint in capsys.readouterr().err


def test_a_fit_that_never_validates_is_named(files, capsys):
    methods = {"student": {**STUDENT, "trainer": {"callbacks": [], "check_val_every_n_epoch": 5}}}
    with pytest.raises(SystemExit):
        main(files(methods=methods, reference="student", seeds=[0]))
    assert "failed: trainer: expected a validation while fitting" in capsys.readouterr().out
