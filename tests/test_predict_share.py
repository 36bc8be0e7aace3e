"""The rules for the share of truth: what they are fitted on, and what they lose."""

import csv
import json
from pathlib import Path

import pytest
from tools import evidence_figures, predict_share, taught
from tools.evidence_tables import _beside, _Run, gains
from tools.predict_share import Regime, fitted_power, known, loss, read_regimes, table


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


OTHERS = {"last_test_nll_scaled": 1.5, "last_agreement": 0.5, "teacher_sha256": "a1"}


@pytest.fixture
def regimes(tmp_path, monkeypatch):
    """Four teachers of whom the best share is the square of how often they miss, and one without figures."""
    monkeypatch.chdir(tmp_path)
    results, measured = [], []
    for number, missed in enumerate((0.2, 0.4, 0.6, 0.8, 0.9)):
        place = {"images": "few", "teacher_epochs": str(number), "mixing": "cutmix"}
        for seed in (0, 1):
            for share in (0.0, 0.1, 0.3, 0.6):
                accuracy = 0.6 - 0.5 * (share**0.5 - missed) ** 2 + 0.01 * seed
                method = f"share_{share}" if share else "kd_aug"
                results.append({**place, "method": method, "seed": seed, "last_test_acc": accuracy, **OTHERS})
            # A repair that goes 0.1 of the way and gains two points beyond that.
            beyond = 0.62 - 0.5 * (0.1**0.5 - missed) ** 2 + 0.01 * seed
            results.append({**place, "method": "repair", "seed": seed, "last_test_acc": beyond, **OTHERS})
        figures = {"missed": 0.9 * missed, "missed_by_guessing": 0.9, "accuracy": 0.5, "violated": 0.9}
        if number < 4:
            measured.append({**place, **figures, "val_accuracy": 1 - missed / 2})
    labels = {"images": "few", "teacher_epochs": "labels", "mixing": "cutmix", "seed": 0}
    results += [
        {**labels, "method": "labels_soft", "last_test_acc": 0.4, **OTHERS, "last_agreement": ""},
        {**labels, "method": "labels", "last_test_acc": 1, **OTHERS, "last_agreement": ""},
    ]
    write(Path("docs/evidence/results/map.csv"), results)
    write(Path("docs/evidence/results/map_teachers.csv"), measured)
    return read_regimes(Path("docs/evidence/results/map.csv"), Path("docs/evidence/results/map_teachers.csv"))


def test_regimes_are_means_over_seeds_with_labels_at_the_end(regimes):
    assert [regime.name[1] for regime in regimes] == ["0", "1", "2", "3"], "the fifth has no figures"
    assert regimes[1].figures["missed, over guessing"] == pytest.approx(0.4)
    assert regimes[1].accuracy[0.0] == pytest.approx(100 * (0.605 - 0.5 * 0.4**2))
    assert regimes[1].accuracy[1.0] == 40
    assert regimes[1].best == (0.1, pytest.approx(100 * (0.605 - 0.5 * (0.1**0.5 - 0.4) ** 2)))
    assert regimes[1].accuracy[0.1] > regimes[1].at(0.16) > regimes[1].at(0.2) > regimes[1].accuracy[0.3]


def test_a_rule_that_holds_loses_little_where_it_was_not_fitted(regimes):
    assert 1.5 <= fitted_power(regimes, "missed, over guessing") <= 2.5
    lines = table(regimes)
    assert all(float(line["missed, over guessing: lost"]) < 1 for line in lines)
    assert [line["missed, over guessing: share"] for line in lines] == ["0.04", "0.16", "0.36", "0.64"]
    assert max(float(line["order broken: lost"]) for line in lines) > 3, "it is the same for all"
    assert loss(regimes[0], "missed, over guessing", 2) < loss(regimes[0], "missed, over guessing", 0.5)
    assert lines[0]["share_auto"] == "nan"


@pytest.mark.draws
def test_photographs_are_one_regime_more(regimes):
    results = Path("docs/evidence/results")
    accuracies = {"kd_aug": 0.48, "share_0.1": 0.47, "share_0.3": 0.51, "labels_soft": 0.5, "lr": 0.4}
    rows = [{"method": name, "last_test_acc": accuracy} for name, accuracy in accuracies.items()]
    write(results / "imagenette.csv", rows)
    figures = {"missed": 0.16, "missed_by_guessing": 0.8, "accuracy": 0.7, "violated": 0.7, "val_accuracy": 0.97}
    place = {"images": "imagenette", "teacher_epochs": "imagenet", "mixing": "cutmix"}
    with (results / "map_teachers.csv").open("a", newline="") as file:
        csv.DictWriter(file, [*place, *figures]).writerow(place | figures)
    found = predict_share.all_regimes()[-1]
    assert found.name == ("imagenette", "imagenet", "cutmix")
    assert found.accuracy == pytest.approx({0.0: 48, 0.1: 47, 0.3: 51, 1.0: 50})


def test_what_the_audit_expects_comes_from_the_map(regimes):
    lines = known(regimes)
    assert [line["set_up"] for line in lines] == [f"few {number} cutmix" for number in range(4)]
    second = {name: float(value) for name, value in lines[1].items() if name != "set_up"}
    assert second["missed"] == 0.4
    assert second["share_low"] < 0.16 < second["share_high"]
    assert second["over_answers"] == pytest.approx(regimes[1].at(0.16) - regimes[1].accuracy[0.0], rel=1e-3)
    assert second["over_labels"] == pytest.approx(regimes[1].at(0.16) - 40, rel=1e-3)


def test_the_commands_write_table_and_pictures(regimes, capsys):
    predict_share.KNOWN.parent.mkdir(parents=True)
    rows = [{"method": name, "seed": 0, "last_test_acc": 0.5} for name in ("kd_aug", "share_0.3")]
    write(Path("docs/evidence/results/imagenette.csv"), rows)
    assert predict_share.main() == 0
    assert len(predict_share.KNOWN.read_text().splitlines()) == 5
    assert "missed, over guessing: loses 0." in capsys.readouterr().out
    with Path("docs/evidence/results/prediction.csv").open() as lines:
        assert len(list(csv.DictReader(lines))) == 4
    lines = [{"config": f"configs/{name}", "temperature": 1, "test": 0.4} for name in ("imagenette/kd.yaml", "other")]
    Path("docs/evidence/results/timm.jsonl").write_text("\n".join(map(json.dumps, lines)))
    place = {"images": "few", "teacher_epochs": "2", "mixing": "cutmix"}
    step = {"towards": 0.1, "explained": 0.4, "ties": 0.5}
    write(taught.RESULTS, [{**place, "method": name, **step} for name in ("repair", "share_0.1", "kd_aug", "unknown")])
    evidence, truth = evidence_figures.PAGES
    names = ("map", "rules", "real_case")
    evidence.write_text(
        "before\n" + "".join(f"<!-- {name}:begin -->\nold\n<!-- {name}:end -->\n" for name in names) + "after\n"
    )
    truth.write_text("".join(f"<!-- {name}:begin -->\n<!-- {name}:end -->\n" for name in ("taught", "gains")))
    evidence_figures.main()
    lines = truth.read_text().splitlines()
    assert lines[3] == "| 2 | repair | 0.10 | 0.40 | 0.50 | 58.5 | +2.0 | +0.00 | +0.0 |"
    assert lines[8] == "| few | 0 | cutmix | 2 | 0.1 | – | – | – | – |", "differences that are all the same say nothing"
    assert lines.index("<!-- taught:end -->") == 4, "shares of truth are the line, not points"
    page = evidence.read_text()
    assert "| few | 1 | cutmix | 0.40 | 52.5 |" in page
    assert "| timm, T = 1 | 40.0 |" in page
    assert page.startswith("before\n<!-- map:begin -->\n| images |")
    assert page.endswith("<!-- real_case:end -->\nafter\n")
    assert "old" not in page
    for name in ("map", "prediction", "real_case", "taught"):
        assert Path(f"docs/evidence/{name}.png").stat().st_size > 8_000
    write(Path("docs/evidence/results/map_teachers.csv"), [{"images": "all", "teacher_epochs": "9", "mixing": "none"}])
    assert predict_share.main() == 1
    assert "expected three regimes or more, got 0" in capsys.readouterr().err


def test_runs_stand_beside_those_of_their_teacher_else_seed():
    runs = [_Run(seed, teacher, 0.5, 1, 0.5) for seed, teacher in (("0", "old"), ("1", "new"), ("2", "new"))]
    assert _beside([_Run("0", "new", 0, 0, 0)], runs) == runs[1:]
    assert _beside([_Run("0", "other", 0, 0, 0)], runs) == runs[:1]
    assert _beside([_Run("7", "other", 0, 0, 0)], runs) == runs


def test_gains_are_differences_of_runs_of_one_seed(tmp_path):
    runs = {
        "kd_aug": (0.50, 0.52, 0.90),
        "share_0.3": (0.60, 0.64),
        "share_auto": (0.59, 0.61),
        "share_0.1": (0.50, 0.52),
    }
    place = {"images": "few", "teacher_epochs": "5", "mixing": "cutmix"}
    rows = [
        {**place, "method": name, "seed": seed, "last_test_acc": accuracy}
        for name, each in runs.items()
        for seed, accuracy in enumerate(each)
    ]
    write(tmp_path / "map.csv", rows)
    regime = Regime(("few", "5", "cutmix"), {}, {0.0: 64.0, 0.1: 51.0, 0.3: 70.0, 1.0: 40.0}, 60.0)
    line = gains([regime], tmp_path / "map.csv").splitlines()[2]
    # 10 and 12: 11 and t = 12.7 times 1; 9 and 9; -1 and -3.
    assert line == "| few | 5 | cutmix | 3 | 0.3 | +11.0 [-1.7, +23.7] | – | – | -2.0 [-14.7, +10.7] |"
