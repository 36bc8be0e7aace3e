"""The command line as a person uses it: shipped configs, round trips, and what mistakes look like."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import save_file

from ida_lightning.__main__ import main
from ida_lightning.cli import read_fit_config
from ida_lightning.models import build_model
from tests.helpers.command_line import CONFIGS, QUIET, SHORT, fit, metrics_of

# Two batches make no teacher.
pytestmark = pytest.mark.filterwarnings("ignore:teacher. .* is close to chance")


def test_student_checkpoint_works_without_the_teacher():
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
    assert yaml.safe_load(first)["model"]["init_args"]["loss"]["temperature"] == 4.5


NETWORKS = ["--model=DistillationModule", "--model.teacher=test_resnet", "--model.student=test_resnet"]


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ([], ("KL", {})),
        (["--model.distillation=KL"], ("KL", {})),
        (["--model.distillation=DKD"], ("DKD", {"alpha": 1.0, "beta": 8.0, "whole": False})),
        (["--model.distillation=DIST", "--model.distillation.beta=2"], ("DIST", {"beta": 2.0, "gamma": 1.0})),
        (["--model.loss.distillation=NKD"], ("NKD", {"gamma": 1.5, "whole": False})),
        (
            ["--model.distillation=LogitStandardisation", "--model.distillation.loss=KL"],
            ("LogitStandardisation", {"loss": {"class_path": "ida_lightning.KL"}}),
        ),
    ],
    ids=["default", "KL", "DKD", "options", "in its group", "wrapper"],
)
def test_a_kept_config_names_the_loss_and_all_its_options(more, expected):
    model = read_fit_config([*NETWORKS, "--data=DigitsDataModule", *more])["model"]["init_args"]
    assert (model["distillation"]["class_path"], model["distillation"]["init_args"]) == (
        f"ida_lightning.{expected[0]}",
        expected[1],
    )
    assert "loss" not in model


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")  # the second run's
def test_the_run_keeps_its_whole_config_callbacks_included():
    fit("digits/teacher")
    fit("digits/ida_cutmix", "--trainer.callbacks.space=probabilities")
    kept = yaml.safe_load(Path("outputs/lightning_logs/version_1/config.yaml").read_text())
    (isotonic,) = (c for c in kept["trainer"]["callbacks"] if "Isotonic" in c["class_path"])
    assert isotonic["init_args"]["space"] == "probabilities"
    fit("digits/ida_cutmix", "--config", "outputs/lightning_logs/version_1/config.yaml")


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_weights_are_averaged_from_the_command_line(capsys):
    fit("digits/student", "--trainer.callbacks+=EMACallback", "--trainer.limit_train_batches=8")
    content = torch.load("outputs/digits/student/last.ckpt", weights_only=True)
    pairs = [(value, content["current_model_state"][name]) for name, value in content["state_dict"].items()]
    assert any(not torch.equal(average, trained) for average, trained in pairs)


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
        (["--model.init_args.temprature=3"], "model: no option temprature"),
        (["--trainer.max_epoch=3"], "unrecognized arguments: --trainer.max_epoch=3"),
        (["--model.temperature=warm"], "model.temperature: expected a number, got warm"),
        (["--trainer.max_epochs=many"], "trainer.max_epochs: expected a whole number, got many"),
        (["--model.distillation=DKDD"], "model: no class 'DKDD'"),
        (["--model.distillation=DKD", "--model.distillation.beta=-1"], "beta: expected a number >= 0, got -1.0"),
        (["--model.temperature=-1"], "temperature: expected a number > 0, got -1.0"),
        (["--model.student=test_resnt"], "student: expected a timm name such as test_resnet"),
        (["--model", "DistilationModule"], "model: no class 'DistilationModule'; did you mean DistillationModule?"),
        (
            ["--trainer.callbacks+=IsotonicCallback"],
            "no class 'IsotonicCallback'; did you mean AuthorsIsotonicCallback?",
        ),
        (["--trainer.callbacks.space=softend"], "space: expected one of softened, probabilities, logits, got softend"),
        (["--trainer.precision=12"], "expected one of 64, 32, 16, transformer-engine, transformer-engine-float16, "),
        (
            ["--data.mixing.kind=mixip"],
            "data.mixing.kind: expected one of none, mixup, cutmix, mosaic, both, got mixip",
        ),
        (["--model.loss.nope=7"], "model: no option loss.nope"),
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
            "StepLR, CosineAnnealingLR, PolynomialLR, OneCycleLR or none, got 2 and ExponentialLR",
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
    assert "expected a command: demo, fit, validate, test, predict, export, audit, teach, compare;" in complaint_of(
        [], capsys
    )
    assert "no command 'fitt', did you mean fit?" in complaint_of(["fitt"], capsys)


def test_a_bug_is_not_dressed_up_as_a_mistake(monkeypatch):
    def broken(*args, **kwargs):
        raise ValueError("a bug")

    monkeypatch.setattr("ida_lightning.__main__.AuditCLI", broken)
    with pytest.raises(ValueError, match="a bug"):
        main(["fit"])


@pytest.mark.slow
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
@pytest.mark.filterwarnings("ignore:lr_scheduler. MultiStepLR never reaches")
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
    resolved = read_fit_config(["--config", str(CONFIGS / "digits" / "kd_cutmix.yaml"), *options, "--epoch_factor=1.5"])
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
