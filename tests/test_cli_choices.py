"""What the command line chooses between is said, and what it reads is named for what it is."""

import argparse
from pathlib import Path

import pytest
import torch

from ida_lightning.__main__ import main
from ida_lightning.cli import IDACLI, checkpoints, read_fit_config
from ida_lightning.models import build_model
from tests.helpers.command_line import QUIET

BARE = ["--model=ClassificationModule", "--data=DigitsDataModule", "--trainer.logger=false"]
BARE += ["--trainer.enable_checkpointing=false", *QUIET]


@pytest.fixture
def checkpoint():
    """A checkpoint of a run of test_resnet with a learning rate of its own, and arguments of some script in it."""
    lines = ["--model.model=test_resnet", "--model.optimizer.lr=0.01", "--trainer.limit_train_batches=1"]
    last = ["--trainer.callbacks=ModelCheckpoint", "--trainer.callbacks.dirpath=.", "--trainer.callbacks.filename=run"]
    bare = [line for line in BARE if "enable_checkpointing" not in line]
    main(["fit", *bare, *lines, *last, "--trainer.max_epochs=1", "--trainer.limit_val_batches=1"])
    content = torch.load("run.ckpt", weights_only=True)
    assert content["global_step"] == 1  # limit_train_batches=1 is one batch
    torch.save({**content, "args": argparse.Namespace(lr=0.1)}, "run.ckpt")
    return "run.ckpt"


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_what_a_checkpoint_decides_is_said(checkpoint, monkeypatch):
    lines = []
    monkeypatch.setattr(checkpoints, "rank_zero_info", lines.append)
    Path("other.yaml").write_text("model: {class_path: ClassificationModule, init_args: {model: resnet10t}}")
    tested = ["--trainer.limit_test_batches=1", "--ckpt_path", checkpoint]
    main(["test", "--config=other.yaml", *BARE[1:], *tested])
    (line,) = lines
    assert line.startswith("ckpt_path: taken from run.ckpt, not from the config: model 'test_resnet' (config: 'resnet")
    lines.clear()
    main(["test", *BARE, "--model.model=test_resnet", "--model.optimizer.lr=0.01", *tested])
    assert not lines


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--model.model=resnet10t", "model.model: expected what run.ckpt was made with, 'test_resnet', or nothing"),
        ("--model.optimizer.lr=0.3", "model.optimizer: expected what run.ckpt was made with"),
        ("--model.warmup=0.3", "model.warmup: expected what run.ckpt was made with, 0.05, or nothing, got 0.3"),
    ],
)
def test_what_a_checkpoint_has_decided_is_not_overruled(argument, message, checkpoint, capsys):
    with pytest.raises(SystemExit):
        main(["fit", *BARE, "--model.model=test_resnet", argument, "--ckpt_path", checkpoint])
    assert message in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_what_stands_on_the_command_line_holds(checkpoint):
    arguments = ["test", *BARE, "--model.model=test_resnet", "--model.compile_args={mode: default}"]
    cli = IDACLI([*arguments, "--ckpt_path", checkpoint])
    assert cli.model.compile_args == {"mode": "default"}
    assert cli.model.hparams["compile_args"] == {"mode": "default"}


@pytest.mark.parametrize(("name", "message"), [("best", "expected a file, got best"), ("no", "found nothing")])
def test_a_checkpoint_that_is_none_is_one_line(name, message, capsys):
    with pytest.raises(SystemExit):
        main(["test", *BARE, "--model.model=test_resnet", "--ckpt_path", name])
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("missing", ["state_dict", "pytorch-lightning_version", "loops", "optimizer_states"])
def test_a_checkpoint_that_lacks_something_is_one_line(missing, checkpoint, capsys):
    content = torch.load(checkpoint, weights_only=False)
    del content[missing]
    torch.save(content, checkpoint)
    with pytest.raises(SystemExit):
        main(["fit", *BARE, "--model.model=test_resnet", "--ckpt_path", checkpoint])
    wanted = "got weights alone" if "version" in missing else f"run.ckpt has no {missing} to fit with"
    assert wanted in capsys.readouterr().err


@pytest.mark.parametrize("content", [None, [1], torch.ones(2), {"a": torch.ones(2)}, b""], ids=str)
def test_a_file_that_is_no_checkpoint_is_one_line(content, capsys):
    torch.save(content, "odd.ckpt")
    with pytest.raises(SystemExit):
        main(["test", *BARE, "--model.model=test_resnet", "--ckpt_path=odd.ckpt"])
    assert "ida-lightning: ckpt_path: expected a checkpoint of a run" in capsys.readouterr().err


def makes(num_classes, what="ran"):
    Path(what).touch()
    return build_model("test_resnet", num_classes)


def test_a_checkpoints_own_function_is_never_called(checkpoint, capsys):
    content = torch.load(checkpoint, weights_only=False)
    content["hyper_parameters"]["model"] = "tests.test_cli_choices.makes"
    torch.save(content, checkpoint)
    with pytest.raises(SystemExit):
        main(["test", *BARE, "--model.model=test_resnet", "--ckpt_path", checkpoint])
    assert "run.ckpt names a function, tests.test_cli_choices.makes, to build its model with" in capsys.readouterr().err
    assert not Path("ran").exists()


def test_weights_that_do_not_fit_are_one_line(checkpoint, capsys):
    content = torch.load(checkpoint, weights_only=False)
    del content["hyper_parameters"]
    torch.save(content, checkpoint)
    with pytest.raises(SystemExit):
        main(["test", *BARE, "--model.model=resnet10t", "--ckpt_path", checkpoint])
    assert "ckpt_path: run.ckpt does not fit the model: Error(s) in loading" in capsys.readouterr().err


def test_a_checkpoint_of_another_class_is_refused(checkpoint, capsys):
    other = [line.replace("ClassificationModule", "DistillationModule") for line in BARE]
    model = ["--model.teacher=test_resnet", "--model.student=test_resnet"]
    with pytest.raises(SystemExit):
        main(["test", *other, *model, "--ckpt_path", checkpoint])
    assert "ckpt_path: expected a checkpoint of DistillationModule, as asked for, got one of ClassificationModule" in (
        capsys.readouterr().err
    )


class Code:
    pass


def test_what_a_checkpoint_holds_is_named(capsys):
    Path("w.safetensors").touch()
    torch.save({"state_dict": {}, "hyper_parameters": {"a": Code()}}, "code.ckpt")
    for path, message in (
        ("w.safetensors", "ckpt_path: expected a checkpoint of a run, got weights alone, w.safetensors"),
        ("code.ckpt", "ckpt_path: code.ckpt holds code, tests.test_cli_choices.Code, which is never run"),
    ):
        with pytest.raises(SystemExit):
            main(["test", *BARE, "--model.model=test_resnet", "--ckpt_path", path])
        (line,) = capsys.readouterr().err.splitlines()[-1:]
        assert message in line
        assert "\x1b" not in line


@pytest.mark.parametrize(("text", "value"), [("1", 1), ("1.0", 1.0), ("0.5", 0.5), ("3", 3)])
def test_limits_keep_their_type(text, value):
    for name in ("limit_train_batches", "limit_val_batches", "limit_test_batches", "limit_predict_batches"):
        config = read_fit_config([*BARE, "--model.model=test_resnet", f"--trainer.{name}={text}"])
        assert type(config["trainer"][name]) is type(value)
        assert config["trainer"][name] == value


@pytest.mark.parametrize("name", ["timm/test_resnet", "hf-hub:timm/test_resnet.r160_in1k", "hf_hub:timm/test_resnet"])
def test_names_of_the_hub_are_timms_own(name):
    assert [*build_model(name, 5).state_dict()] == [*build_model("test_resnet", 5).state_dict()]
