"""Values that Lightning, PyTorch and NumPy refuse with a traceback, or misuse, are one line on the command line."""

from pathlib import Path

import pytest

from ida_lightning.__main__ import main
from tests.helpers.command_line import QUIET

FIT = ["fit", "--model=ClassificationModule", "--model.model=test_resnet", "--data=DigitsDataModule", *QUIET]
FIT += ["--trainer.accelerator=cpu", "--trainer.logger=false", "--trainer.enable_checkpointing=false"]
FIT += ["--trainer.max_epochs=1", "--trainer.limit_train_batches=1", "--trainer.limit_val_batches=1"]


def line_of(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("ida-lightning:"))
    return line.removeprefix("ida-lightning: ")


@pytest.mark.parametrize(
    ("argument", "beginning"),
    [
        ("--seed_everything=99999999999", "seed_everything: expected a whole number from 0 to 4294967295, got 999"),
        ("--seed_everything=-1", "seed_everything: expected a whole number"),
        ("--trainer.max_epochs=-5", "trainer.max_epochs: expected at least -1, got -5"),
        ("--trainer.max_steps=-5", "trainer.max_steps: expected at least -1, got -5"),
        ("--trainer.accumulate_grad_batches=0", "trainer.accumulate_grad_batches: expected at least 1, got 0"),
        ("--trainer.check_val_every_n_epoch=0", "trainer.check_val_every_n_epoch: expected at least 1, got 0"),
        ("--trainer.val_check_interval=0", "trainer.val_check_interval: expected a number of batches"),
        ("--trainer.gradient_clip_val=-1", "trainer.gradient_clip_val: expected a number >= 0, got -1"),
        ("--trainer.log_every_n_steps=-1", "trainer.log_every_n_steps: expected at least 0, got -1"),
        ("--trainer.min_epochs=-1", "trainer.min_epochs: expected at least 0, got -1"),
        ("--trainer.fast_dev_run=-1", "trainer.fast_dev_run: expected at least 0, got -1"),
        ("--trainer.limit_train_batches=-1", "trainer: You have passed invalid value -1 for limit_train_batches"),
        ("--trainer.max_time=x", "trainer: `Timer(duration='x')`"),
        ("--trainer.accelerator=tpu", "trainer: "),
        ("--trainer.accelerator=foo", "trainer: You selected an invalid accelerator name"),
        ("--trainer.strategy=foo", "trainer: You selected an invalid strategy name"),
        ("--trainer.devices=0", "trainer: "),
        ("--trainer.num_nodes=0", "trainer: `num_nodes` must be a positive integer"),
        ("--trainer.profiler=foo", "trainer: When passing string value for the `profiler`"),
        ("--model.optimizer.lr=-1", "optimizer: expected values that it can be built with, got an error: Invalid lear"),
        ("--model.optimizer.lr=nan", "model.optimizer.lr: expected a number, got nan"),
        ("--model.optimizer.momentum=-1", "optimizer: expected values that it can be built with"),
        (
            "--data.batch_size=1",
            "model: expected a network for images (1, 32, 32), it fails on one: Expected more than",
        ),
        ("--model.num_classes=7", "model.num_classes: expected 10, as the data say, or nothing, got 7"),
        ("--model.in_channels=3", "model.in_channels: expected 1, as the data say, or nothing, got 3"),
    ],
)
def test_a_value_that_cannot_be_is_one_line(argument, beginning, capsys):
    assert line_of([*FIT, argument], capsys).startswith(beginning)


@pytest.mark.parametrize(
    ("content", "beginning"),
    [
        ("model: {}".encode("utf-16"), "config: expected a text file in UTF-8, got odd.yaml"),
        (bytes(range(256)), "config: expected a text file in UTF-8, got odd.yaml"),
        (b"", "config: expected keys and their values, got an empty file"),
        (b"- a", "config: expected keys and their values, got - a"),
        (b"a: [1", "Problems parsing config"),
    ],
    ids=["utf-16", "binary", "empty", "list", "yaml"],
)
def test_a_config_that_is_none_is_one_line(content, beginning, capsys):
    Path("odd.yaml").write_bytes(content)
    assert line_of([*FIT, "--config=odd.yaml"], capsys).startswith(beginning)
    Path("odd.yaml").write_bytes(content)
    assert line_of(["compare", "--config=odd.yaml"], capsys).startswith("config: ")
