"""Settings chosen on validation images, with the same budget for every method, through the real command."""

import json
from pathlib import Path

import lightning as L
import pytest
import torch
import yaml

from ida_lightning.__main__ import main
from ida_lightning.studies.compare.cells import TUNING, Cell, resolve_methods
from ida_lightning.studies.compare.passes import equal_passes
from ida_lightning.studies.compare.settings import read_settings
from ida_lightning.studies.compare.tuning import Trial, choose, make_trials
from tests.helpers.audits import complaint_of
from tests.helpers.cells import FIGURES, RESULT
from tests.helpers.command_line import CONFIGS
from tests.helpers.comparisons import rows_of

pytestmark = [
    pytest.mark.filterwarnings("ignore:teacher. .* is close to chance"),
    pytest.mark.filterwarnings("ignore:The number of training batches"),
]
WEIGHT, RATE = "model.init_args.soft_weight", "model.init_args.optimizer.init_args.lr"
DATA = {"class_path": "DigitsDataModule", "init_args": {"image_size": 8, "batch_size": 16}}
TRAINER = {"max_epochs": 2, "accelerator": "cpu", "log_every_n_steps": 1, "enable_progress_bar": False}
TRAINER |= {"limit_train_batches": 3, "limit_val_batches": 2, "limit_test_batches": 2}
NETWORKS = {"teacher": "test_resnet", "teacher_checkpoint": "teacher.safetensors", "student": "test_resnet"}
LABELS = {"model": {"class_path": "ClassificationModule", "init_args": {"model": "test_resnet"}}}
BLEND = {"trainer": {"callbacks": ["TruthBlendCallback"]}}


@pytest.fixture
def comparison():
    """Writes a comparison on digits, and returns its command."""
    torch.set_num_threads(1)
    export = {"class_path": "ExportCallback", "init_args": {"path": "teacher.safetensors"}}
    teacher = {"trainer": {**TRAINER, "max_epochs": 1, "callbacks": [export]}, **LABELS, "data": DATA}
    fit = {"trainer": TRAINER, "model": {"class_path": "DistillationModule", "init_args": NETWORKS}, "data": DATA}
    Path("teacher.yaml").write_text(yaml.safe_dump(teacher))
    Path("fit.yaml").write_text(yaml.safe_dump(fit))

    def write(**changes):
        content = {"fit": "fit.yaml", "teacher": "teacher.yaml", "seeds": [0], "reference": "kd", "output": "out"}
        content |= {"methods": {"kd": {}}, "tune": {WEIGHT: [0.5, 2]}, "tune_seeds": [7], **changes}
        kept = {key: value for key, value in content.items() if value is not ...}
        Path("compare.yaml").write_text(yaml.safe_dump(kept, sort_keys=False))
        return ["compare", "--config", "compare.yaml"]

    return write


@pytest.mark.slow
def test_a_stopped_tuned_comparison_goes_on(comparison, monkeypatch, capsys):
    twice = {"trainer": {"callbacks": ["TeacherLabelCallback"]}, "data": {"init_args": {"pool": 1}}}
    methods = {"kd": {}, "twin": {}, "twice": twice}
    arguments, fits, fit = comparison(methods=methods), [], L.Trainer.fit

    def interrupted(self, *args, **kwargs):
        fits.append(1)
        if len(fits) == 4:  # the teacher and two runs of the tuning are there
            raise KeyboardInterrupt
        fit(self, *args, **kwargs)

    monkeypatch.setattr(L.Trainer, "fit", interrupted)
    with pytest.raises((SystemExit, KeyboardInterrupt)):
        main(arguments)
    assert len(list(Path("out/cells/tuning").rglob("cell.json"))) == 2
    capsys.readouterr()
    main(arguments)
    assert len(fits) == 1 + 4 + 1 + 3 + 1, "teacher, tuning with kd's shared, the killed one, report, equal passes"
    printed = capsys.readouterr().out
    assert "4 cells, 2 finished, 2 to run" in printed
    assert "twice (soft_weight 2.0), seed 7: validation accuracy" in printed
    rows = rows_of("results")
    purposes = [(row["purpose"], row["method"], row["seed"]) for row in rows]
    assert [purpose for purpose in purposes if purpose[0] == "tuning"] == [
        ("tuning", method, "7") for method in methods for _ in range(2)
    ]
    assert purposes[6:] == [*(("report", method, "0") for method in methods), ("equal_passes", "twice", "0")]
    tried = {row["setting"]: row["config_sha256"] for row in rows if (row["purpose"], row["method"]) == purposes[0][:2]}
    assert {row["config_sha256"] for row in rows if row["method"] == "twin"} > set(tried.values()), "the same cells"
    passes = {(row["purpose"], row["method"]): int(row["student_passes"]) for row in rows}
    assert passes["report", "twice"] == 2 * passes["report", "kd"] == 2 * 2 * 3 * 16
    assert passes["equal_passes", "twice"] == passes["report", "kd"]
    chosen = {row["method"]: row["setting"] for row in rows if row["purpose"] == "report"}
    assert chosen["kd"] == chosen["twin"] in tried
    summary = Path("out/summary.md").read_text()
    assert f"{WEIGHT}: 0.5, 2 | 2 of 2 " in summary
    for sentence in ("## Equal epochs", "## Equal student passes", "over the seeds 7, of which none is reported."):
        assert sentence in summary
    assert {row["view"] for row in rows_of("summary")} == {"equal epochs", "equal student passes"}
    main([*arguments, "--summarise"])
    assert len(fits) == 10
    assert "Not finished" not in capsys.readouterr().out


def trial(number, *seeds, method="kd"):
    """A trial whose cells have these figures of the last epoch."""
    cells = []
    for seed, (accuracy, nll, test) in enumerate(seeds):
        folder = Path(method, str(number), str(seed))
        folder.mkdir(parents=True)
        last = {**FIGURES, "val_acc": accuracy, "val_nll": nll, "test_acc": test}
        result = {**RESULT, "method": TUNING, "seed": seed, "last": last, "config_sha256": f"{number}-{seed}"}
        (folder / "cell.json").write_text(json.dumps(result))
        cells.append(Cell(TUNING, seed, folder, {"trainer": {}}, f"{number}-{seed}", None))
    return Trial(method, {WEIGHT: number}, {}, cells)


def settings_of(comparison, **changes):
    comparison(**changes)
    return read_settings(["compare.yaml"])


def test_validation_chooses_and_test_figures_do_not(comparison):
    settings = settings_of(comparison, tune={WEIGHT: [1, 2, 3]}, tune_seeds=[7, 8])
    worst = trial(1, (0.5, 0.5, 1.0), (0.5, 0.5, 1.0))
    tied = trial(2, (0.5, 0.9, 0.0), (0.7, 0.9, 0.0))
    best = trial(3, (0.7, 0.8, 0.0), (0.5, 0.8, 0.0))
    choice = choose([worst, tied, best], settings)["kd"]
    assert (choice.trial, choice.tried, choice.grid, choice.failed) == (best, 3, 3, 0), "a tie goes by NLL"
    assert choice.accuracy == pytest.approx(0.6)
    assert choice.edges == [WEIGHT]
    assert choose([worst, tied], settings)["kd"].edges == []
    (best.cells[0].folder / "cell.json").unlink()
    assert choose([worst, tied, best], settings)["kd"] is None, "not finished"
    (best.cells[0].folder / "error.txt").touch()
    choice = choose([worst, tied, best], settings)["kd"]
    assert (choice.trial, choice.failed) == (tied, 1), "a setting that fails is none"


@pytest.mark.slow
def test_a_budget_is_drawn_alike_for_the_same_grid(comparison):
    own = {"TruthBlendCallback.share": [0.1, 0.3, 0.6], WEIGHT: [0.5, 2, 4]}
    student = {**LABELS, "tune": {WEIGHT: None, RATE: [0.01, 0.1]}}
    methods = {"kd": {}, "twin": {}, "blend": {**BLEND, "tune": own}, "student": student, "untuned": {}}
    methods["untuned"] = {"tune": {WEIGHT: None, RATE: None}}
    changes = {"methods": methods, "tune": {WEIGHT: [0.5, 2], RATE: [0.01, 0.03, 0.1]}, "budget": 4}
    settings = settings_of(comparison, **changes)
    trials = make_trials(settings, resolve_methods(settings))
    tried = {name: [t.setting for t in trials if t.method == name] for name in methods}
    assert {name: len(settings) for name, settings in tried.items()} == {
        **{"kd": 4, "twin": 4, "blend": 4, "student": 2, "untuned": 0}
    }
    assert tried["kd"] == tried["twin"]
    assert all(setting.keys() == {WEIGHT, RATE, "TruthBlendCallback.share"} for setting in tried["blend"])
    assert len({str(setting) for setting in tried["blend"]}) == 4
    assert make_trials(settings, resolve_methods(settings)) == trials
    other = make_trials(settings._replace(budget_seed=1), resolve_methods(settings))
    assert [t.setting for t in other] != [t.setting for t in trials]
    shared = {t.method: [cell.folder for cell in t.cells] for t in trials}
    assert shared["kd"] == shared["twin"] != shared["blend"]
    for each in trials:
        init_args = each.config["model"]["init_args"]
        assert each.setting[RATE] == init_args["optimizer"]["init_args"]["lr"]
        if each.method == "blend":
            (callback,) = each.config["trainer"]["callbacks"]
            assert callback["init_args"]["share"] == each.setting["TruthBlendCallback.share"]
            assert init_args["soft_weight"] == each.setting[WEIGHT]


def test_passes_become_equal_as_far_as_whole_epochs_can():
    configs = {name: {"trainer": {"max_epochs": 10}, "epoch_factor": 1.0} for name in ("kd", "twice", "near", "new")}
    passes = {"kd": 1000, "twice": 2000, "near": 1010, "other": 7}
    results = [{"method": name, "student_passes": count} for name, count in passes.items()]
    assert equal_passes(configs, results, "kd") == {"twice": {**configs["twice"], "epoch_factor": 0.5}}
    many = [{"method": "twice", "student_passes": 40_000}, *results[:1]]
    assert equal_passes(configs, many, "kd")["twice"]["epoch_factor"] == 0.1, "one epoch at least"
    assert equal_passes(configs, results[1:], "kd") == {}


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"tune": {"model.init_args.soft_weigth": [1]}}, f"has no model.init_args.soft_weigth; did you mean {WEIGHT}?"),
        ({"methods": {"kd": LABELS}}, f"methods.kd has no {WEIGHT}"),
        ({"tune": {"TruthBlendCallback.share": [0.5]}}, "methods.kd has no TruthBlendCallback.share"),
        ({"methods": {"kd": {"model": {"init_args": {"soft_weight": 1.0}}}}}, f"methods.kd sets {WEIGHT} itself"),
        (
            {"tune": {WEIGHT: ["much"]}},
            f"tune: {WEIGHT}: expected a number, got much",
        ),
        ({"tune": {"seed_everything": [1, 2]}}, "got seed_everything, which seeds and tune_seeds set"),
        ({"tune": {WEIGHT: []}}, f"tune: expected a list of different values for {WEIGHT}, got []"),
        ({"tune": {WEIGHT: 3}}, f"tune: expected a list of different values for {WEIGHT}, got 3"),
        ({"methods": {"kd": {"tune": [1]}}}, "methods.kd.tune: expected keys of the fit config"),
        ({"budget": 0}, "budget: "),
        ({"tune": ...}, "tune_seeds: expected tune with it, which names what is tried, got none"),
        ({"tune": ..., "tune_seeds": ..., "budget": 3}, "budget: expected tune with it"),
        ({"tune_seeds": ...}, "tune_seeds: expected seeds of the runs that choose between the settings of tune, got"),
        ({"tune_seeds": [7, 7]}, "tune_seeds: expected different numbers, got [7, 7]"),
        ({"tune_seeds": [7, 0]}, "tune_seeds: expected none of seeds, got 0 in both"),
        (
            {"methods": {"kd": {}, "blend": {**BLEND, "tune": {"TruthBlendCallback.share": [0.1, 0.2]}}}},
            "budget: expected a number of settings for every method, as grids differ (kd 2, blend 4), got none",
        ),
        (
            {"common": {"trainer": {"limit_val_batches": 0}}},
            "tune: expected a validation split to choose on, methods.kd",
        ),
    ],
)
def test_mistakes_in_tuning_are_one_line(comparison, monkeypatch, changes, complaint, capsys):
    monkeypatch.setattr(L.Trainer, "fit", lambda *args, **kwargs: pytest.fail("something ran"))
    assert complaint in complaint_of(comparison(**changes), capsys)


def test_data_without_a_validation_split_cannot_choose(comparison, monkeypatch, capsys):
    monkeypatch.setattr(L.Trainer, "fit", lambda *args, **kwargs: pytest.fail("something ran"))
    monkeypatch.setattr("ida_lightning.data.MixingDataModule.val_dataloader", lambda self: [])
    assert "tune: expected a validation split to choose on, methods.kd has none" in complaint_of(comparison(), capsys)


@pytest.mark.slow
def test_the_shipped_tuned_comparison_has_equal_budgets(monkeypatch):
    monkeypatch.chdir(CONFIGS.parent)
    settings = read_settings(["configs/evidence/compare_tuned.yaml"])
    trials = make_trials(settings, resolve_methods(settings))
    assert [sum(t.method == name for t in trials) for name in settings.methods] == [6] * len(settings.methods)
