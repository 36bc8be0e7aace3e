"""Help: every command with a line, what people set first, and nothing of a library's inside."""

from contextlib import suppress

import pytest
from lightning.pytorch.cli import LightningCLI

from ida_lightning.__main__ import main
from ida_lightning.cli.help import COMMANDS
from ida_lightning.modules.short_names import SHORT_NAMES
from ida_lightning.studies.audit.command import AuditCLI


@pytest.fixture
def printed(capsys):
    """Return what arguments print that end with exit code 0."""

    def run(*args):
        with suppress(SystemExit):  # argparse ends so; a complaint would be on stderr
            main(list(args))
        out, complaint = capsys.readouterr()
        assert "ida-lightning: " not in complaint
        return out

    return run


def test_the_top_help_lists_every_command(printed):
    text = printed("--help")
    assert text == printed("-h") == printed("--help_all")
    for name, line in COMMANDS.items():
        assert f"\n  {name} " in text
        assert line.split()[0] in text
    assert {*LightningCLI.subcommands(), *AuditCLI.commands, "compare", "demo", "export"} == set(COMMANDS)


@pytest.mark.parametrize("command", ["fit", "audit"])
def test_only_the_parser_of_the_command_is_built(command):
    networks = ["--model=DistillationModule", "--model.teacher=test_resnet", "--model.student=test_resnet"]
    cli = AuditCLI([command, *networks, "--data=DigitsDataModule"])
    assert list(cli.parser.subcommands_action.choices) == [command]


def test_the_version_is_that_of_the_package(printed):
    assert printed("--version").startswith("ida-lightning 0.")


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_is_short(command, printed):
    text = printed(command, "--help")
    assert text.startswith(f"usage: ida-lightning {command} ")
    assert COMMANDS[command] in " ".join(text.split())
    assert "--config" in text
    assert len(text.splitlines()) <= 50
    for inside in ("linked_targets", "known subclasses", "lightning.pytorch", "Union[", "__main__"):
        assert inside not in text


def test_everything_is_behind_a_flag(printed):
    assert "--trainer.detect_anomaly" not in printed("fit", "--help")
    assert "--trainer.detect_anomaly" in printed("fit", "--help_all")
    assert "--model.num_classes" not in printed("fit", "--model.help", "ClassificationModule")
    assert "--model.num_classes" in printed("fit", "--help_all", "--model.help", "ClassificationModule")


@pytest.mark.parametrize(
    ("option", "name", "bound"),
    [
        ("--model.help", "DistillationModule", 50),
        ("--model.help", "ClassificationModule", 35),
        ("--data.help", "ImageFolderDataModule", 95),
        ("--trainer.callbacks.help", "IsotonicSoftLabelCallback", 30),
    ],
)
def test_the_help_of_a_class_is_short(option, name, bound, printed):
    text = printed("fit", option, name)
    assert text.startswith(f"usage: {option.removesuffix('.help')} {name} ")
    assert len(text.splitlines()) <= bound
    for inside in ("linked_targets", "known subclasses", ":class:", "``", "Union["):
        assert inside not in text
    assert f"  {name} " in printed("fit", option)


def test_every_option_of_the_module_says_what_it_is(printed):
    words = printed("fit", "--model.help", "DistillationModule").split("--model.")
    assert set(SHORT_NAMES) <= {part.split()[0] for part in words}
    for part in words[2:]:
        assert len(part.split()) >= 4, part
