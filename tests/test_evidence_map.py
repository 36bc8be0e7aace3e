"""The map of docs/evidence.md: which comparisons it runs, and the rows it collects."""

import csv
import json
from pathlib import Path

import pytest
import yaml
from tools import evidence_map

from ida_lightning.studies.compare.cells import resolve_methods
from ida_lightning.studies.compare.settings import read_settings
from tests.helpers.command_line import CONFIGS


@pytest.fixture
def comparisons(tmp_path, monkeypatch):
    """The settings of the comparisons that the tool calls, each of which leaves a row of every method."""
    monkeypatch.chdir(tmp_path)
    Path("configs").symlink_to(CONFIGS)
    called = []

    def call(arguments):
        settings = read_settings(arguments[arguments.index("compare") + 2 :: 2])
        called.append(settings)
        out = Path(settings.output)
        out.mkdir(parents=True, exist_ok=True)
        rows = [f"{name},{seed},0.5,1\n" for name in settings.methods for seed in settings.seeds]
        (out / "results.csv").write_text("method,seed,last_test_acc,other\n" + "".join(rows))
        return len(called) == 2

    monkeypatch.setattr(evidence_map.subprocess, "call", call)
    return called


def run(monkeypatch, *arguments):
    monkeypatch.setattr("sys.argv", ["evidence_map", *arguments])
    return evidence_map.main()


def test_every_regime_is_one_comparison(comparisons, monkeypatch):
    assert run(monkeypatch, "--teachers", "labels", "5", "--images", "few", "all", "--seeds", "7", "3") == 1
    outputs = [Path(settings.output).name for settings in comparisons]
    assert outputs == ["few-labels", "few-5", "all-labels", "all-5"] * 2
    assert [settings.seeds for settings in comparisons] == [[7]] * 4 + [[3]] * 4
    epochs = [settings.common["trainer"]["max_epochs"] for settings in comparisons[:4]]
    assert epochs == [120, 120, 27, 27]
    fit = resolve_methods(comparisons[1]._replace(methods={"kd_aug": {}}))
    teacher = yaml.safe_load(Path(comparisons[1].teacher).read_text())
    exported = teacher["trainer"]["callbacks"][1]["init_args"]["path"]
    assert teacher["trainer"]["max_epochs"] == 5
    assert fit["kd_aug"]["model"]["init_args"]["teacher_checkpoint"] == exported


def test_more_methods_and_other_mixing_when_asked_for(comparisons, monkeypatch):
    run(monkeypatch, "--teachers", "5", "--mixing", "cutmix", "mixup", "--also", "more")
    cutmix, mixup = comparisons
    assert [Path(settings.output).name for settings in comparisons] == ["few-5", "few-5-mixup"]
    assert "margin_0.2" in cutmix.methods
    assert "mixing" not in cutmix.common["data"]["init_args"]
    assert mixup.common["data"]["init_args"]["mixing"] == {"kind": "mixup"}


def test_figures_of_a_teacher_are_those_of_its_audit(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def audit(arguments, check):
        assert check
        assert "--model.teacher_checkpoint=outputs/evidence/map/teachers/12.safetensors" in arguments
        assert ("--data.val_images=8000" in arguments) == ("--out=outputs/evidence/map/audits/few-12" in arguments)
        out = Path(arguments[-1].removeprefix("--out="))
        shown = {"clean": 0.1, "mixup": 0.2, "cutmix": 0.3, "validation": 0.4}
        names = ("missed", "missed_by_guessing", "accuracy", "violated")
        found = [{"mixing": m, "metric": name, "bin": "all", "value": v} for m, v in shown.items() for name in names]
        out.mkdir(parents=True)
        (out / "audit.json").write_text(json.dumps({"measurements": found}))

    monkeypatch.setattr(evidence_map.subprocess, "run", audit)
    assert run(monkeypatch, "--figures", "--teachers", "12", "--images", "few", "all") == 0
    with evidence_map.FIGURES.open() as lines:
        rows = list(csv.DictReader(lines))
    found = [(row["images"], row["mixing"], row["missed"], row["val_accuracy"]) for row in rows]
    assert found == [
        *(("all", "cutmix", "0.3", "0.4"), ("all", "mixup", "0.2", "0.4"), ("all", "none", "0.1", "0.4")),
        *(("few", "cutmix", "0.3", "0.4"), ("few", "mixup", "0.2", "0.4"), ("few", "none", "0.1", "0.4")),
    ]


def test_what_has_a_row_is_not_run_again(comparisons, monkeypatch):
    run(monkeypatch, "--teachers", "12", "labels")
    kept = evidence_map.RESULTS.read_text()
    with evidence_map.RESULTS.open() as lines:
        rows = list(csv.DictReader(lines))
    assert {(row["teacher_epochs"], row["mixing"], row["last_test_acc"]) for row in rows} == {
        ("12", "cutmix", "0.5"), ("labels", "cutmix", "0.5"),
    }  # fmt: skip
    assert "other" not in rows[0]
    evidence_map.RESULTS.write_text(
        "".join(line for line in kept.splitlines(True) if "few,12,cutmix,kd_aug" not in line)
    )
    run(monkeypatch, "--teachers", "12", "labels")
    assert [list(settings.methods) for settings in comparisons[2:]] == [["kd_aug"]]
    assert evidence_map.RESULTS.read_text() == kept
    run(monkeypatch, "--teachers", "12", "--also", "more")
    assert comparisons[3].reference in comparisons[3].methods
    assert "kd_aug" not in comparisons[3].methods
    run(monkeypatch, "--teachers", "12", "--again", "--methods", "kd_aug", "share_0.1")
    assert list(comparisons[4].methods) == ["kd_aug", "share_0.1"]


def test_methods_that_do_not_exist_are_named(comparisons, monkeypatch, capsys):
    with pytest.raises(SystemExit) as stop:
        run(monkeypatch, "--teachers", "12", "--methods", "kd_aug", "share_0.2")
    assert stop.value.code == 2
    assert "--methods: expected names of cutmixpick, dist, " in capsys.readouterr().err
    assert not comparisons


def test_a_share_of_truth_goes_behind_what_a_method_does(comparisons, monkeypatch):
    run(monkeypatch, "--teachers", "5", "--also", "repairs", "--share", "0.3", "--methods", "exchange", "dkd")
    settings = comparisons[0]
    assert list(settings.methods) == ["exchange+0.3", "dkd+0.3"]
    for name, config in resolve_methods(settings).items():
        taught = config["trainer"]["callbacks"]
        assert taught[-1]["class_path"] == "ida_lightning.TruthBlendCallback"
        assert taught[-1]["init_args"]["share"] == 0.3
        assert ("ValueExchange" in taught[0]["class_path"]) == (name == "exchange+0.3")
