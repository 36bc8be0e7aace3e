"""Groups of arguments and their short names: from Python, YAML and the command line, and back from a checkpoint."""

from argparse import Namespace
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import nn

from ida_lightning import DKD, InputError, LogitStandardisation
from ida_lightning.__main__ import main
from ida_lightning.models import build_model
from ida_lightning.modules import ClassificationModule, DistillationModule
from ida_lightning.modules.options import Loss, Optimisation, Student, Teacher, TeacherOutputs
from ida_lightning.modules.short_names import SHORT_NAMES, DistillationFields, plain_fields, spell_out
from tests.helpers.networks import TinyNet
from tests.helpers.trainers import trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:teacher. .* is close to chance"),
    pytest.mark.filterwarnings("ignore:lr_scheduler. .*, the run has 1 epoch"),  # too short for the schedule
    pytest.mark.filterwarnings("ignore:warmup. belongs to the default schedule"),
]


def constant(optimizer):
    return torch.optim.lr_scheduler.ConstantLR(optimizer)


SEEN = {"mean": [0.5], "std": [0.25], "size": 32}
GROUPS = {
    "teacher": Teacher(
        *("test_resnet", "teacher.pt", {"stem": "small"}, "bf16", True, TeacherOutputs("answers"), "plain"),
        image_input=SEEN,
        classes=[3, 1, 2, 0],
        strategy="shard",
    ),
    "student": Student("test_vit", {"depth": 1}),
    "loss": Loss(3.0, 0.8, 0.3, "skip", 2.0, LogitStandardisation(DKD(beta=2.0))),
    "optimisation": Optimisation(constant, 64, {"backend": "eager"}, 0.1, "step", "train/loss", "contiguous", True),
}
SHORT = {
    "teacher_checkpoint": "teacher.pt",
    "teacher_args": {"stem": "small"},
    "teacher_precision": "bf16",
    "allow_other_teacher": True,
    "teacher_outputs": TeacherOutputs("answers"),
    "teacher_view": "plain",
    "teacher_blend": None,
    "teacher_image_input": SEEN,
    "teacher_classes": [3, 1, 2, 0],
    "teacher_strategy": "shard",
    "student_args": {"depth": 1},
    "temperature": 3.0,
    "soft_weight": 0.8,
    "hard_weight": 0.3,
    "nonfinite": "skip",
    "hard_temperature": 2.0,
    "distillation": LogitStandardisation(DKD(beta=2.0)),
    "lr_scheduler": constant,
    "lr_reference_batch": 64,
    "compile_args": {"backend": "eager"},
    "warmup": 0.1,
    "lr_interval": "step",
    "lr_monitor": "train/loss",
    "layout": "contiguous",
    "allow_inexact_resume": True,
}


def options_of(module):
    teacher = module.teacher
    return {
        "teacher": (teacher.source, teacher.checkpoint, teacher.args, teacher.precision, module.allow_other_teacher),
        "outputs": (module.answers.options, module.answers.view, teacher.image_input, teacher.classes),
        "loss": (module.temperature, module.soft_weight, module.hard_weight, module.finite_rows.policy),
        "hard_temperature": module.hard_temperature,
        "distillation": module.distillation,
        "optimisation": module.optimisation,
        "compile_args": (module.compile_args, teacher.compile_args),
        "student": sum(parameter.numel() for parameter in module.student.parameters()),
    }


def test_every_field_has_one_short_name():
    fields = {(argument, field) for argument, group in GROUPS.items() for field in vars(group)}
    assert set(SHORT_NAMES.values()) == fields - {("teacher", "network"), ("student", "network")}
    # Their types say the same; a TypedDict's annotations hold those it inherits.
    assert SHORT.keys() == SHORT_NAMES.keys() == DistillationFields.__annotations__.keys()


def test_groups_and_short_names_say_the_same():
    grouped = DistillationModule(num_classes=4, in_channels=1, image_size=32, **GROUPS)
    short = DistillationModule("test_resnet", "test_vit", 4, 1, 32, **SHORT)
    both = DistillationModule(GROUPS["teacher"], GROUPS["student"], 4, 1, 32, loss=GROUPS["loss"], **SHORT)
    assert options_of(grouped) == options_of(short) == options_of(both)
    assert options_of(grouped)["loss"] == (3.0, 0.8, 0.3, "skip")
    assert dict(grouped.hparams) == dict(short.hparams)


def test_a_short_name_changes_one_field_of_a_group():
    module = DistillationModule(TinyNet(), TinyNet(), 4, 1, 8, loss=Loss(soft_weight=0.5), temperature=2.0)
    assert (module.temperature, module.soft_weight, module.hard_weight) == (2.0, 0.5, 0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"loss": Loss(2.0), "temperature": 3.0}, "temperature: expected one value, got 3.0 and, in loss, 2.0"),
        (
            {"teacher": Teacher("test_resnet", "a.pt"), "teacher_checkpoint": "b.pt"},
            "teacher_checkpoint: expected one value, got 'b.pt' and, in teacher, 'a.pt'",
        ),
        ({"teacher": 3}, "teacher: expected a timm name or a module, got int 3"),
        ({"student": None}, "student: expected a timm name or a module, got NoneType None"),
        ({"teacher_precision": "8"}, "teacher_precision: expected one of 32, bf16, 16, got '8'"),
        ({"lr_reference_batch": 0}, "lr_reference_batch: expected at least 1, got 0"),
        ({"distillation": "DKD"}, "distillation: expected a DistillationLoss, got str 'DKD'"),
        ({"distillation": {"class_path": "os.system"}}, "distillation: expected a loss whose class is imported, got"),
        ({"hard_temperature": 0.0}, "hard_temperature: expected a number > 0, got 0"),
        ({"hard_weight": float("nan")}, "hard_weight: expected a number >= 0, got nan"),
    ],
)
def test_values_that_cannot_be_used_are_named(options, message):
    with pytest.raises(InputError, match=message):
        DistillationModule(**{"teacher": TinyNet(), "student": TinyNet(), "num_classes": 4, **options})


def test_an_unknown_name_is_refused_as_python_does():
    with pytest.raises(TypeError, match="DistillationModule has no argument 'temprature'; did you mean temperature"):
        DistillationModule(TinyNet(), TinyNet(), 4, temprature=3.0)
    with pytest.raises(TypeError, match="ClassificationModule has no argument 'temperature'"):
        ClassificationModule(TinyNet(), 4, temperature=3.0)


def test_a_checkpoint_holds_plain_values_and_rebuilds_it(tmp_path, blobs):
    class Own(DistillationModule):
        def __init__(self, extra, **kwargs):
            super().__init__(**kwargs)
            self.extra = extra

    loss = Loss(3.0, nonfinite="skip", distillation=LogitStandardisation(DKD(beta=2.0)))
    groups = {"loss": loss, "optimisation": Optimisation(constant, lr_reference_batch=16)}
    networks = {"teacher": Teacher(TinyNet(), precision="32"), "student": Student("test_resnet", {"stem": "small"})}
    module = Own(extra=7, num_classes=4, in_channels=1, image_size=8, **networks, **groups)
    run = trainer(tmp_path)
    run.fit(module, blobs)
    run.save_checkpoint(tmp_path / "run.ckpt")
    kept = torch.load(tmp_path / "run.ckpt", weights_only=True)["hyper_parameters"]
    options = {"alpha": 1.0, "beta": 2.0, "whole": False}
    assert kept == {
        **{"extra": 7, "num_classes": 4, "in_channels": 1, "image_size": 8, "student": "test_resnet"},
        **{"teacher_checkpoint": None, "teacher_args": None, "teacher_precision": "32", "allow_other_teacher": False},
        **{"teacher_outputs": None, "teacher_view": "mixed", "teacher_blend": None},
        **{"teacher_image_input": None, "teacher_classes": None, "teacher_strategy": "replicate"},
        **{"student_args": {"stem": "small"}, "temperature": 3.0, "soft_weight": 0.95, "hard_weight": 0.05},
        "hard_temperature": 1.0,
        "distillation": {
            "class_path": "ida_lightning.losses.standardised.LogitStandardisation",
            "init_args": {"loss": {"class_path": "ida_lightning.losses.dkd.DKD", "init_args": options}},
        },
        **{
            "nonfinite": "skip",
            "lr_reference_batch": 16,
            "compile_args": None,
            "warmup": 0.05,
            "lr_interval": None,
            "lr_monitor": None,
            "layout": "auto",
            "allow_inexact_resume": False,
        },
    }
    loaded = Own.load_from_checkpoint(tmp_path / "run.ckpt", teacher=nn.Identity(), hard_weight=0.5, weights_only=True)
    assert (loaded.temperature, loaded.hard_weight, loaded.extra) == (3.0, 0.5, 7)
    assert loaded.distillation == loss.distillation
    assert loaded.optimisation == Optimisation(lr_reference_batch=16), "a schedule is code and not kept"
    images = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(loaded.eval()(images), module.eval()(images))


def test_modules_and_schedules_are_no_plain_fields():
    plain = plain_fields(teacher=Teacher(nn.Identity()), optimisation=Optimisation(constant))
    assert not {"teacher", "lr_scheduler"} & plain.keys()
    assert plain_fields(student=Student("test_resnet")) == {"student": "test_resnet", "student_args": None}


YAML = """
trainer: {max_epochs: 1, limit_train_batches: 1, limit_val_batches: 1, enable_progress_bar: false,
  enable_model_summary: false, log_every_n_steps: 1}
model:
  class_path: DistillationModule
  init_args:
    teacher: {network: test_resnet, checkpoint: teacher.safetensors}
    student: {network: test_resnet, args: {stem: small}}
    loss: {temperature: 3, soft_weight: 0.8}
    optimisation: {lr_scheduler: {class_path: torch.optim.lr_scheduler.StepLR, init_args: {step_size: 3}}}
data: {class_path: DigitsDataModule, init_args: {image_size: 8}}
"""


def kept(run):
    content = yaml.safe_load(Path(f"outputs/lightning_logs/version_{run}/config.yaml").read_text())
    return content["model"]["init_args"]


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_groups_and_short_names_work_from_the_command_line():
    save_file(build_model("test_resnet", num_classes=10, in_channels=1).state_dict(), "teacher.safetensors")
    Path("fit.yaml").write_text(YAML)
    main(["fit", "--config", "fit.yaml", "--model.loss.hard_weight=0.3", "--model.optimizer.lr=0.01"])
    loss = {"temperature": 3.0, "soft_weight": 0.8, "hard_weight": 0.3, "nonfinite": "raise"}
    assert loss.items() <= kept(0).items(), "every value once, by its short name"
    assert not {"loss", "optimisation"} & kept(0).keys()
    assert (kept(0)["teacher"], kept(0)["teacher_checkpoint"]) == ("test_resnet", "teacher.safetensors")
    assert kept(0)["optimizer"]["init_args"]["lr"] == 0.01
    assert kept(0)["lr_scheduler"]["init_args"]["step_size"] == 3
    main(["fit", "--config", "outputs/lightning_logs/version_0/config.yaml", "--model.temperature=5"])
    assert kept(1) == {**kept(0), "temperature": 5.0}
    short = ["--model.hard_weight=0.4", "--model.student_args={stem: small}", "--model.lr_reference_batch=64"]
    main(["fit", "--config", "fit.yaml", *short])
    (checkpoint,) = Path("outputs/lightning_logs/version_2/checkpoints").glob("*.ckpt")
    module = DistillationModule.load_from_checkpoint(checkpoint, weights_only=True)
    assert (module.temperature, module.soft_weight, module.hard_weight) == (3.0, 0.8, 0.4)
    assert module.optimisation.lr_reference_batch == 64
    assert module.optimisation.lr_scheduler is not None, "a config says how to build it"


def test_two_values_for_one_field_are_one_line(capsys):
    Path("fit.yaml").write_text(YAML)
    Path("teacher.safetensors").touch()
    with pytest.raises(SystemExit):
        main(["fit", "--config", "fit.yaml", "--model.temperature=4"])
    assert "temperature: expected one value, got 4.0 and, in loss, 3.0" in capsys.readouterr().err


@pytest.mark.parametrize("kind", [dict, lambda fields: Namespace(**fields)])
def test_a_parsed_config_is_spelled_out(kind):
    groups = {name: kind(dict(vars(group))) for name, group in GROUPS.items()}
    given = {"num_classes": 4, **groups}
    spell_out(given)
    assert given == {"num_classes": 4, "teacher": "test_resnet", "student": "test_vit", **SHORT}
    again = dict(given)
    spell_out(again)
    assert again == given
    partly = {"teacher": kind({"class_path": "torch.nn.Flatten"}), "student": "test_vit", "loss": groups["loss"]}
    spell_out(partly)
    assert partly["teacher"] == kind({"class_path": "torch.nn.Flatten"})
    assert (partly["teacher_checkpoint"], partly["student_args"]) == (None, None)
    foreign = {"teacher": "theirs", "loss": "mse", "student": 3}
    spell_out(foreign)
    assert foreign == {"teacher": "theirs", "loss": "mse", "student": 3}
    with pytest.raises(InputError, match="temperature: expected one value, got 4.0 and, in loss, 3.0"):
        spell_out({"loss": groups["loss"], "temperature": 4.0})


def test_paths_are_kept_as_text_that_a_checkpoint_can_hold():
    assert Teacher("resnet18", checkpoint=Path("teacher.safetensors")).checkpoint == "teacher.safetensors"
    outputs = Teacher("resnet18", outputs={"folder": Path("answers")}).outputs
    assert outputs == TeacherOutputs("answers")
