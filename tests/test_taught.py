"""What methods teach beside what their teacher says, taken apart."""

import csv
import math
from pathlib import Path

import pytest
import torch
from tools import taught
from tools.evidence_map import Regime

from ida_lightning import LabelMix, Supervision, blend_with_truth, isotonic_soft_labels
from ida_lightning.errors import InputError
from ida_lightning.mixing import MixedBatch
from tests.helpers.command_line import CONFIGS, fit


def supervision(rows=64, classes=6):
    generator = torch.Generator().manual_seed(0)
    labels = torch.rand(rows, classes, generator=generator).topk(2, 1).indices
    lead = 0.5 + torch.rand(rows, generator=generator) / 2
    mix = LabelMix.pair(labels[:, 0], labels[:, 1], lead)
    batch = MixedBatch(torch.zeros(rows, 1, 2, 2), mix, torch.arange(rows), torch.ones(rows))
    return Supervision.from_teacher(batch, 3 * torch.randn(rows, classes, generator=generator), temperature=2.0)


def test_a_blend_is_a_step_towards_the_truth_and_nothing_else():
    plain = supervision()
    blended = plain._replace(soft_labels=blend_with_truth(plain.soft_labels, plain.label_mix, 0.3))
    found = taught.taken_apart([plain.select(torch.arange(30)), plain.select(torch.arange(30, 64))])
    assert found["rows"] == 64
    assert found["moved"] == found["towards"] == 0
    assert math.isnan(found["explained"])
    assert 0 < found["violated"] < 1
    found = taught.taken_apart([blended])
    for name in ("towards", "towards_seen", "towards_missed", "towards_even", "towards_mixed", "towards_clear"):
        assert found[name] == pytest.approx(0.3, abs=1e-5), name
    assert found["explained"] == pytest.approx(1, abs=1e-5)
    assert found["ties"] == 0


def test_a_repair_is_a_short_step_with_ties_and_a_rest():
    plain = supervision()
    repaired = plain._replace(soft_labels=isotonic_soft_labels(plain.soft_labels, plain.label_mix))
    found = taught.taken_apart([repaired])
    assert found["violated"] == 0
    assert found["ties"] > 0.5
    assert 0.05 < found["towards"] < found["towards_missed"]
    assert 0.2 < found["explained"] < 0.9
    change = repaired.soft_labels - plain.soft_labels
    way = plain.label_mix.dense(6) - plain.soft_labels
    assert found["towards"] == pytest.approx(float((change * way).sum() / way.square().sum()), rel=1e-5)
    clear = plain.label_mix.weights.amax(1) > 0.8
    expected = (change * way)[clear].sum() / way[clear].square().sum()
    assert found["towards_clear"] == pytest.approx(float(expected), rel=1e-5)


def test_comparisons_with_a_share_behind_every_method_are_whole(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("configs").symlink_to(CONFIGS)
    monkeypatch.setattr(taught, "listen", lambda config, batches: [supervision(batches)])
    found = taught.measure(Regime("few", "5", "cutmix"), 0.3, ["lr", "dkd"], 9)
    assert list(found) == ["lr+0.3", "dkd+0.3"]
    assert found["lr+0.3"]["rows"] == 9
    with pytest.raises(InputError, match="--methods: expected one of kd_aug, .*, got 'lrr'"):
        taught.measure(Regime("few", "5", "cutmix"), 0.3, ["lr", "lrr"], 9)


@pytest.mark.filterwarnings("ignore:teacher. .* is close to chance")
def test_methods_of_a_comparison_are_listened_to(monkeypatch):
    fit("digits/teacher")
    plan = {"fit": str(CONFIGS / "digits/kd_cutmix.yaml"), "seeds": [0], "output": "out", "common": {}, "threads": 1}
    blend = {"class_path": "TruthBlendCallback", "init_args": {"share": 0.5}}
    plan |= {"reference": "kd", "methods": {"kd": {}, "share_0.5": {"trainer": {"callbacks+": [blend]}}, "other": {}}}
    asked = []
    monkeypatch.setattr(taught, "plan", lambda regime, also, share: asked.append((regime, also, share)) or plan)
    for methods in (["kd"], ["kd", "share_0.5"]):
        arguments = ["--teachers", "7", "--batches", "2", "--methods", *methods]
        monkeypatch.setattr("sys.argv", ["taught", *arguments])
        taught.RESULTS.parent.mkdir(parents=True, exist_ok=True)
        assert taught.main() == 0
    assert asked[0] == (Regime("few", "7", "cutmix"), ("more", "repairs"), None)
    with taught.RESULTS.open() as lines:
        rows = {row["method"]: row for row in csv.DictReader(lines)}
    assert list(rows) == ["kd", "share_0.5"]
    assert float(rows["kd"]["moved"]) == 0
    assert float(rows["share_0.5"]["towards"]) == pytest.approx(0.5)
    assert int(rows["kd"]["rows"]) > 0
    assert not Path("checkpoints").exists()
    assert not list(Path("outputs").glob("**/kd_cutmix*")), "nothing is kept of the runs"
