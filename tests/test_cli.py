"""The command line as a person uses it: shipped configs, round trips, and what mistakes look like."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import save_file

from ida_lightning.cli import main
from ida_lightning.compare.cells import _Resolver, resolve
from ida_lightning.models import build_model
from tests.data.test_cifar import make_cifar
from tests.data.test_decoded import write_folder
from tests.data.test_tiny_imagenet import make_tiny_imagenet

CONFIGS = Path(__file__).parents[1] / "configs"
SHORT = [
    "--trainer.max_epochs=1",
    "--trainer.limit_train_batches=2",
    "--trainer.limit_val_batches=2",
    "--trainer.log_every_n_steps=1",
    "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
]
PARTS = ["kd_loss", "hard_loss", "order_penalty", "label_loss", "logit_loss", "probability_loss"]
QUIET = ["--trainer.enable_progress_bar=false"]
# Two batches make no teacher.
pytestmark = pytest.mark.filterwarnings("ignore:teacher. .* is close to chance")


def fit(config, *more):
    main(["fit", "--config", str(CONFIGS / f"{config}.yaml"), *SHORT, *more])


def metrics_of(run=0):
    with Path(f"outputs/lightning_logs/version_{run}/metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    return {name: [float(row[name]) for row in rows if row[name]] for name in rows[0]}


def test_every_shipped_config_is_short_and_says_how_to_run_it():
    files = sorted(CONFIGS.rglob("*.yaml"))
    assert len(files) >= 8
    for file in files:
        lines = file.read_text().splitlines()
        name = file.relative_to(CONFIGS.parent)
        compares = "seeds: [" in file.read_text()
        command = "compare" if compares else "audit" if name.stem.startswith("fig") else "fit"
        said = re.fullmatch(rf"# ida-lightning {command}(?: --config (\S+))? --config {name}", lines[0])
        assert said, name
        assert said[1] is None or (CONFIGS.parent / said[1]).is_file()
        assert lines[1].startswith("# ")
        assert 10 <= len(lines) <= (30 if compares else 25), name


def smaller(data, tmp_path, monkeypatch):
    """What makes a shipped config one for a test, beside SHORT."""
    if data == "digits":
        return {}
    common = {"data.batch_size": 4, "trainer.precision": "32-true"}
    if data == "tiny_imagenet":
        return {"data.root": str(make_tiny_imagenet(tmp_path).parent), "data.val_images": 6, **common}
    val_images = 20 if data == "evidence" else 100
    return {"data.root": str(make_cifar(tmp_path / "cifar", monkeypatch)), "data.val_images": val_images, **common}


@pytest.mark.parametrize("data", ["digits", "cifar100", "tiny_imagenet", "evidence"])
def test_shipped_configs_train_and_find_the_teacher_where_it_was_left(data, tmp_path, monkeypatch):
    more = [f"--{key}={value}" for key, value in smaller(data, tmp_path, monkeypatch).items()]
    names = {file.stem for file in (CONFIGS / data).glob("*.yaml")}
    names = sorted(name for name in names if not name.startswith("compare"))
    teachers = [name for name in names if name.endswith("teacher")]
    for name in teachers:
        fit(f"{data}/{name}", *more)
    for run, name in enumerate((name for name in names if name not in teachers), start=len(teachers)):
        # Looking at 400 images takes a network of this size long; digits are looked at.
        quick = ["--trainer.callbacks.score=random"] if (data, name) == ("cifar100", "lr_ds") else []
        fit(f"{data}/{name}", *more, *quick)
        logged = metrics_of(run)
        assert Path(f"outputs/{data}/{name}.safetensors").is_file()
        assert Path(f"outputs/{data}/{name}/best.ckpt").is_file()
        if name == "student":
            assert {"train/loss", "model/val_acc", "model/val_nll"} <= logged.keys()
            continue
        parts = [logged[f"train/{part}"] for part in PARTS if f"train/{part}" in logged]
        assert len(parts) == (3 if name.startswith(("kdp", "lr_ds")) else 2)
        assert logged["train/loss"] == pytest.approx([sum(step) for step in zip(*parts, strict=True)], rel=1e-5)
        assert {"student/val_acc", "student/val_nll", "teacher/val_acc", "teacher/val_nll"} <= logged.keys()
        assert logged["train/violation_rate"][-1] > 0
        after = logged["train/violation_rate_corrected"][-1]
        assert after == (0 if name.startswith("ida") else logged["train/violation_rate"][-1])


def test_every_method_of_a_shipped_comparison_is_a_fit_config():
    shipped = [yaml.safe_load((CONFIGS / data / "compare_lr_ds.yaml").read_text()) for data in ("digits", "cifar100")]
    assert shipped[0]["methods"] == shipped[1]["methods"]
    for name, part in shipped[0]["methods"].items():
        resolve(name, str(CONFIGS.parent / shipped[0]["fit"]), part)


@pytest.mark.parametrize(
    "name",
    [
        *(f"{data}/compare" for data in ("digits", "evidence")),
        "cifar100/compare_kda",
        pytest.param("cifar100/compare", marks=pytest.mark.slow),
        *(pytest.param(f"{data}/compare_lr_ds", marks=pytest.mark.slow) for data in ("digits", "cifar100")),
    ],
)
def test_shipped_comparisons_run_every_method(name, tmp_path, monkeypatch):
    data = name.split("/")[0]
    shipped = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    common = shortened_comparison(data, tmp_path, monkeypatch, Path(shipped["teacher"]).stem)
    assert len(shipped["seeds"]) >= 3
    assert shipped["output"] == f"outputs/{name}"
    for key in ("fit", "teacher"):
        shipped[key] = str(CONFIGS.parent / shipped[key])
    Path("compare.yaml").write_text(yaml.safe_dump({**shipped, "seeds": [0], "common": common, "output": "out"}))
    main(["compare", "--config", "compare.yaml"])
    with Path("out/results.csv").open() as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    assert rows.keys() == shipped["methods"].keys()
    assert all(float(row["last_test_nll"]) > 0 for row in rows.values())
    assert all(row["steps"] == ("4" if method == "kd_twice" else "2") for method, row in rows.items())
    if name.endswith("lr_ds"):
        assert float(rows["lr"]["revision_violation_rate_corrected"]) == 0 < float(rows["lr"]["revision_moved_mass"])
        assert all(0 < float(rows[method]["trusted_rate"]) < 1 for method in rows if "ds" in method)
        return
    if name.endswith("kda"):
        assert float(rows["cutmixpick_corrected"]["violation_rate_corrected"]) == 0
        return
    assert rows["kd_p"]["order_penalty"]
    assert float(rows["kd_i_softened"]["violation_rate_corrected"]) == 0


def shortened_comparison(data, tmp_path, monkeypatch, teacher="teacher"):
    """Train a teacher; what makes a shipped comparison on the data one for a test, its key common."""
    changes = smaller(data, tmp_path, monkeypatch)
    fit(f"{data}/{teacher}", *(f"--{key}={value}" for key, value in changes.items()))
    short = dict(option.removeprefix("--").split("=") for option in SHORT)
    common = {"trainer": {"limit_test_batches": 2}, "data": {"init_args": {}}}
    for key, value in {**{key: yaml.safe_load(value) for key, value in short.items()}, **changes}.items():
        owner, name = key.split(".")
        (common["data"]["init_args"] if owner == "data" else common["trainer"])[name] = value
    return common


WHOLE = [(name, data, None) for name in ("fig4", "fig5", "table3") for data in ("digits", "cifar100")]


@pytest.mark.parametrize(
    ("name", "data", "methods"),
    [
        ("fig4", "digits", ("kd_aug", "strength_50", "share_50")),
        ("fig5", "cifar100", ("sigma_0", "sigma_5")),
        ("table3", "digits", ("kd_aug", "kd_i_weak_order", "kd_i_tree")),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in WHOLE),
    ],
)
def test_comparisons_of_the_paper_run(name, data, methods, tmp_path, monkeypatch):
    common = shortened_comparison(data, tmp_path, monkeypatch)
    Path("configs").symlink_to(CONFIGS)
    file = Path("configs", "paper", f"{name}.yaml")
    shipped = yaml.safe_load(file.read_text())
    curves = shipped.get("curves", {})
    if methods is not None:  # fewer of them
        for part in (shipped["methods"], *curves.values()):
            for method in part.keys() - set(methods):
                del part[method]
        file = Path(f"{name}.yaml")
        file.write_text(yaml.safe_dump(shipped))
    overlays = ["configs/paper/on_cifar100.yaml", "short.yaml"][data == "digits" :]
    Path("short.yaml").write_text(yaml.safe_dump({"seeds": [0], "common": common}))
    main(["compare", "--config", str(file), *(part for overlay in overlays for part in ("--config", overlay))])
    out = Path("outputs/compare", "-".join(Path(path).stem for path in (file, *overlays)))
    with (out / "results.csv").open() as results:
        rows = {row["method"]: row for row in csv.DictReader(results)}
    assert rows.keys() == shipped["methods"].keys()
    assert all(row["steps"] == "2" and float(row["seconds_per_step"]) > 0 for row in rows.values())
    assert (out / "curves.png").is_file() == bool(curves)
    if name == "fig4":
        left = [float(rows[method]["violation_rate_corrected"]) for method in ("kd_aug", "share_50")]
        assert 0 < left[1] < left[0]
    for method in ("kd_i_weak_order", "kd_i_tree") if name == "table3" else ():
        assert float(rows[method]["violation_rate_corrected"]) == 0
    if name == "fig5":
        assert float(rows["sigma_5"]["order_penalty"]) > 0
        assert rows["sigma_0"]["order_penalty"] == ""


@pytest.mark.parametrize("data", ["digits", "cifar100"])
def test_the_audit_of_the_paper_runs(data, tmp_path, monkeypatch):
    changes = smaller(data, tmp_path, monkeypatch)
    more = [f"--{key}={value}" for key, value in changes.items()]
    fit(f"{data}/teacher", *more)
    paper = CONFIGS / "paper"
    configs = [paper / "fig1.yaml", paper / "fig1_on_cifar100.yaml"][: 1 + (data == "cifar100")]
    main(["audit", *(part for config in configs for part in ("--config", str(config))), *more, *QUIET, "--batches=2"])
    out = Path("outputs/paper/fig1" + ("-on_cifar100" if data == "cifar100" else ""))
    audited = json.loads((out / "audit.json").read_text())
    assert audited["data"]["classes"] == (10 if data == "digits" else 100)
    assert {"tau", "covers_any"} <= {found["metric"] for found in audited["measurements"]}
    assert (out / "audit.png").is_file()


def test_imagenet_config_starts_on_a_folder_of_images(tmp_path):
    # Its pretrained teacher would have to be fetched, so a small network of our own stands in for it.
    root = write_folder(tmp_path / "images")
    teacher = build_model("test_resnet", num_classes=3)
    save_file(teacher.state_dict(), tmp_path / "teacher.safetensors")
    fit(
        "imagenet/ida_cutmix",
        f"--data.root={root}",
        *("--data.image_size=32", "--data.batch_size=4", "--data.num_workers=1", "--data.val_share=0.2"),
        *("--model.teacher=test_resnet", "--model.teacher_args={}", "--model.student=test_resnet"),
        *(f"--model.teacher_checkpoint={tmp_path}/teacher.safetensors", "--trainer.precision=32-true"),
    )
    logged = metrics_of()
    assert logged["train/violation_rate_corrected"][-1] == 0
    with safe_open("outputs/imagenet/ida_cutmix.safetensors", "pt") as file:
        assert json.loads(file.metadata()["class_names"]) == ["cat", "dog", "eel"]


def test_student_checkpoint_validates_tests_and_predicts_without_the_teacher():
    config = ["--config", str(CONFIGS / "digits" / "ida_cutmix.yaml")]
    fit("digits/teacher")
    fit("digits/ida_cutmix")
    Path("outputs/digits/teacher.safetensors").unlink()
    checkpoint = "outputs/digits/ida_cutmix/best.ckpt"
    content = torch.load(checkpoint, weights_only=True)
    assert all(name.startswith("student.") for name in content["state_dict"])
    with safe_open("outputs/digits/ida_cutmix.safetensors", "pt") as file:
        assert {f"student.{key}" for key in file.keys()} == content["state_dict"].keys()  # noqa: SIM118 (no mapping)
    main(["validate", *config, *QUIET, "--ckpt_path", checkpoint])
    main(["test", *config, *QUIET, "--ckpt_path", checkpoint])
    main(["predict", *config, *QUIET, "--ckpt_path", checkpoint, "--predictions.path=p.csv"])
    with Path("p.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 360
    assert {row["name"] for row in rows} <= set("0123456789")


def test_printed_config_gives_itself_again(capsys):
    def printed(config):
        with pytest.raises(SystemExit) as stop:
            main(["fit", "--config", str(config), "--print_config"])
        assert stop.value.code == 0
        return capsys.readouterr().out

    first = printed(CONFIGS / "digits" / "ida_cutmix.yaml")
    Path("again.yaml").write_text(first)
    assert printed("again.yaml") == first
    assert yaml.safe_load(first)["model"]["init_args"]["temperature"] == 4.5


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")  # the second run's
def test_the_run_keeps_its_whole_config_callbacks_included():
    fit("digits/teacher")
    fit("digits/ida_cutmix", "--trainer.callbacks.space=probabilities")
    kept = yaml.safe_load(Path("outputs/lightning_logs/version_1/config.yaml").read_text())
    (isotonic,) = (c for c in kept["trainer"]["callbacks"] if "Isotonic" in c["class_path"])
    assert isotonic["init_args"]["space"] == "probabilities"
    fit("digits/ida_cutmix", "--config", "outputs/lightning_logs/version_1/config.yaml")


def complaint_of(args, capsys):
    """What a person sees on stderr; it must be one line and exit code 2."""
    with pytest.raises(SystemExit) as stop:
        main(args)
    assert stop.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("ida-lightning: ")]
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (["--model.init_args.temprature=3"], "model: Option 'temprature' is not accepted"),
        (["--trainer.max_epoch=3"], "unrecognized arguments: --trainer.max_epoch=3"),
        (["--model.temperature=warm"], "Got value: warm"),
        (["--trainer.max_epochs=many"], "trainer.max_epochs: Expected a <class 'int'>, got many"),
        (["--model.temperature=-1"], "temperature: expected a number > 0, got -1.0"),
        (["--model.student=test_resnt"], "model: expected a timm name such as test_resnet"),
        (["--model", "DistilationModule"], "model: no class 'DistilationModule'; did you mean DistillationModule?"),
        (
            ["--trainer.callbacks+=IsotonicCallback"],
            "no class 'IsotonicCallback'; did you mean IsotonicSoftLabelCallback?",
        ),
        (["--trainer.callbacks.space=softend"], "'softened', 'probabilities', 'logits']. Got value: softend"),
        (["--data.mixing.alpha=0"], "alpha: expected a number > 0, got 0.0"),
        (["--data", "CIFAR100DataModule", "--data.root=nowhere"], "root: no CIFAR-100 at "),
        (["--config", "nowhere.yaml"], "File does not exist"),
        (["--epoch_factor=0"], "epoch_factor: expected a number > 0, got 0"),
        (["--epoch_factor=0.01"], "a number of epochs to multiply in trainer.max_epochs, got 12 times 0.01"),
        (
            ["--epoch_factor=2", "--trainer.max_epochs=null"],
            "epochs to multiply in trainer.max_epochs, got None times 2",
        ),
        (
            ["--epoch_factor=2", "--model.lr_scheduler=ExponentialLR", "--model.lr_scheduler.gamma=0.9"],
            "other than MultiStepLR, StepLR, CosineAnnealingLR or none, got 2 and ExponentialLR",
        ),
        (["--ckpt_path", "nowhere.ckpt"], "ckpt_path: expected a checkpoint, found nothing at nowhere.ckpt"),
        (["--model.teacher_checkpoint=damaged.ckpt"], "teacher_checkpoint: damaged.ckpt is damaged or no weight file"),
        (["--ckpt_path=damaged.ckpt"], "ckpt_path: damaged.ckpt is damaged or no checkpoint"),
    ],
)
@pytest.mark.filterwarnings("ignore:Discarding init_args")  # jsonargparse, when the class of the data is exchanged
def test_mistakes_are_one_line(more, complaint, capsys):
    torch.save({"weights": torch.ones(1000)}, "damaged.ckpt")
    Path("damaged.ckpt").write_bytes(Path("damaged.ckpt").read_bytes()[:-300])
    Path("outputs/digits").mkdir(parents=True)
    Path("outputs/digits/teacher.safetensors").touch()
    assert complaint in complaint_of(["fit", "--config", str(CONFIGS / "digits" / "ida_cutmix.yaml"), *more], capsys)


def test_missing_teacher_says_what_to_run(capsys):
    line = complaint_of(["fit", "--config", str(CONFIGS / "digits" / "ida_cutmix.yaml")], capsys)
    assert "teacher_checkpoint: expected a weight file, found nothing at outputs/digits/teacher.safetensors" in line
    assert line.endswith(f"train the teacher first: ida-lightning fit --config {CONFIGS / 'digits' / 'teacher.yaml'}")
    line = complaint_of(["fit", "--config", str(CONFIGS / "cifar100" / "tlcutmix.yaml")], capsys)
    assert line.endswith(f"ida-lightning fit --config {CONFIGS / 'cifar100' / 'kda_teacher.yaml'}")


def test_missing_and_unknown_subcommands_are_one_line(capsys):
    assert "{fit,validate,test,predict,audit}" in complaint_of([], capsys)
    assert "invalid choice: 'fitt'" in complaint_of(["fitt"], capsys)


def test_a_bug_is_not_dressed_up_as_a_mistake(monkeypatch):
    def broken(*args, **kwargs):
        raise ValueError("a bug")

    monkeypatch.setattr("ida_lightning.cli.IDACLI", broken)
    with pytest.raises(ValueError, match="a bug"):
        main(["fit"])


def test_two_processes_train_through_the_console():
    fit("digits/teacher")
    config = str(CONFIGS / "digits" / "ida_cutmix.yaml")
    ddp = ["--trainer.devices=2", "--trainer.accelerator=cpu", "--trainer.strategy=ddp"]
    command = [sys.executable, "-m", "ida_lightning", "fit", "--config", config, *SHORT, *ddp]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Starting with 2 processes" in done.stderr
    assert metrics_of(1)["train/violation_rate_corrected"] == [0.0]
    assert Path("outputs/digits/ida_cutmix.safetensors").is_file()
    assert len(list(Path("outputs/lightning_logs").iterdir())) == 2, "only one process logs"


MILESTONES = ["--model.lr_scheduler=MultiStepLR", "--model.lr_scheduler.milestones=[1, 3]"]


def kept_config(run):
    kept = yaml.safe_load(Path(f"outputs/lightning_logs/version_{run}/config.yaml").read_text())
    kept.pop("ckpt_path")
    return kept


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")  # the second run's
def test_one_number_prolongs_epochs_and_schedule_once():
    save_file(build_model("test_resnet", num_classes=10, in_channels=1).state_dict(), "teacher.safetensors")
    recipe = [
        *(*MILESTONES, "--trainer.callbacks+=LearningRateMonitor", "--trainer.limit_train_batches=1"),
        *("--model.teacher=test_resnet", "--model.teacher_checkpoint=teacher.safetensors", "--data.image_size=8"),
    ]
    fit("digits/kd_cutmix", *recipe, "--epoch_factor=2")
    kept = kept_config(0)
    assert kept["trainer"]["max_epochs"] == 2
    assert kept["model"]["init_args"]["lr_scheduler"]["init_args"]["milestones"] == [2, 6]
    assert kept["epoch_factor"] == 1
    assert len(metrics_of(0)["student/val_acc"]) == 2
    assert metrics_of(0)["lr-SGD"] == pytest.approx([0.05, 0.05]), "the first milestone is behind the second epoch"
    main(["fit", "--config", "outputs/lightning_logs/version_0/config.yaml"])
    assert kept_config(1) == kept
    fit("digits/kd_cutmix", *recipe, "--epoch_factor=2", "--ckpt_path=outputs/digits/kd_cutmix/last.ckpt")
    resumed = kept_config(2)
    assert resumed["trainer"]["max_epochs"] == 2
    assert resumed["model"]["init_args"]["lr_scheduler"]["init_args"]["milestones"] == [2, 6], "not once more"


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ([], {}),
        (["StepLR", "step_size=4"], {"step_size": 6}),
        (["CosineAnnealingLR", "T_max=12"], {"T_max": 18}),
        (["MultiStepLR", "milestones=[4, 8, 10]"], {"milestones": [6, 12, 15]}),
    ],
)
def test_epoch_factor_knows_what_schedules_count_in_epochs(schedule, expected):
    options = [f"--model.lr_scheduler{'.' if '=' in each else '='}{each}" for each in schedule]
    resolved = _Resolver(
        ["fit", "--config", str(CONFIGS / "digits" / "kd_cutmix.yaml"), *options, "--epoch_factor=1.5"]
    ).resolved()
    assert resolved["trainer"]["max_epochs"] == 18
    scheduler = resolved["model"]["init_args"]["lr_scheduler"]
    assert scheduler is None if not schedule else expected.items() <= scheduler["init_args"].items()


RECIPE = """
trainer:
  max_epochs: 3
  limit_train_batches: 4
  accumulate_grad_batches: 2
  gradient_clip_val: 1.0
  callbacks:
    - {class_path: EMAWeightAveraging, init_args: {decay: 0.9}}
    - {class_path: EarlyStopping, init_args: {monitor: student/val_nll, patience: 1, min_delta: 100.0}}
    - {class_path: LearningRateMonitor, init_args: {logging_interval: step}}
    - {class_path: IsotonicSoftLabelCallback, init_args: {space: probabilities}}
model:
  class_path: DistillationModule
  init_args:
    lr_reference_batch: 64
    teacher_precision: bf16
    compile_args: {backend: aot_eager}
    optimizer: {class_path: torch.optim.SGD, init_args: {lr: 0.1, momentum: 0.9}}
    lr_scheduler: {class_path: torch.optim.lr_scheduler.MultiStepLR, init_args: {milestones: [1, 2], gamma: 0.2}}
data:
  class_path: DigitsDataModule
  init_args:
    augmentation: {crop_padding: 2, randaugment: 1}
    mixing: {kind: mosaic, distinct: true}
"""


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # Dynamo looks at it
def test_a_whole_recipe_from_yaml_alone():
    fit("digits/teacher")
    Path("recipe.yaml").write_text(RECIPE)
    main(["fit", "--config", str(CONFIGS / "digits" / "ida_cutmix.yaml"), "--config", "recipe.yaml", *SHORT[2:]])
    logged = metrics_of(1)
    assert len(logged["student/val_acc"]) == 2, "the second validation was no better by 100, so the third never came"
    # 64 rows, two batches a step: twice the rate; a fifth of it from the first milestone on.
    rates = logged["lr-SGD"]
    assert rates == pytest.approx([0.2] * (len(rates) // 2) + [0.04] * (len(rates) // 2))
    assert logged["train/violation_rate_corrected"] == [0.0, 0.0]
