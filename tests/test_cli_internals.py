"""What the command line takes from the inside of Lightning; fails when a version of Lightning moves it."""

import lightning as L
import pytest
import torch
from lightning.pytorch.cli import LightningCLI

from ida_lightning.cli import IDACLI
from ida_lightning.lightning_internals import BuildThenRun, in_precision, move_to_device

ARGUMENTS = ["--model=ClassificationModule", "--model.model=test_resnet", "--data=DigitsDataModule"]
QUIET = ["--trainer.accelerator=cpu", "--trainer.logger=false", "--trainer.enable_checkpointing=false"]


def describe(trainer, model, datamodule, words: int = 1, config=None):
    """Describe what was built."""
    describe.seen = (trainer, model, datamodule, words, config)


class DescribingCLI(IDACLI):
    commands = {"describe": describe}  # noqa: RUF012


def test_lightning_still_has_the_names_that_are_overridden():
    for name in ("_run_subcommand", "_parse_ckpt_path", "_parser", "_prepare_subcommand_kwargs", "_add_arguments"):
        assert hasattr(LightningCLI, name), name
    assert issubclass(IDACLI, BuildThenRun)


def test_the_constructor_builds_and_run_fits(monkeypatch):
    fits = []
    monkeypatch.setattr(L.Trainer, "fit", lambda self, **kwargs: fits.append(kwargs))
    cli = IDACLI(["fit", *ARGUMENTS, *QUIET])
    assert fits == []
    assert cli.subcommand_parser() is not cli.parser
    cli.run()
    (given,) = fits
    assert given["model"] is cli.model
    assert given["datamodule"] is cli.datamodule


def test_a_function_becomes_a_subcommand(capsys):
    cli = DescribingCLI(["describe", *ARGUMENTS, *QUIET, "--words=3"])
    cli.run()
    assert describe.seen == (cli.trainer, cli.model, cli.datamodule, 3, None)
    with pytest.raises(SystemExit):
        DescribingCLI(["--help"])
    assert "Describe what was built." in capsys.readouterr().out


def test_without_a_subcommand_there_is_nothing_to_run():
    cli = IDACLI([*ARGUMENTS, *QUIET], run=False)
    assert cli.subcommand_parser() is cli.parser
    cli.run()
    assert cli.trainer.global_step == 0


@pytest.mark.parametrize(("precision", "dtype"), [("32-true", torch.float32), ("bf16-true", torch.bfloat16)])
def test_a_network_runs_in_the_precision_of_the_trainer(precision, dtype):
    trainer = L.Trainer(accelerator="cpu", precision=precision, logger=False, enable_checkpointing=False)
    network = torch.nn.Linear(2, 3)
    move_to_device(trainer, network)
    assert network.weight.dtype == dtype
    assert in_precision(trainer, network)(torch.ones(1, 2)).dtype == dtype


def test_mixed_precision_is_autocast():
    trainer = L.Trainer(accelerator="cpu", precision="bf16-mixed", logger=False, enable_checkpointing=False)
    network = torch.nn.Linear(2, 3)
    move_to_device(trainer, network)
    assert network.weight.dtype == torch.float32
    assert in_precision(trainer, network)(torch.ones(1, 2)).dtype == torch.bfloat16
