"""What ``--help`` prints: what people set first, in their words; ``--help_all`` has everything."""

from __future__ import annotations

import argparse
import difflib
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextvars import ContextVar

import lightning as L

COMMANDS: Mapping[str, str] = {
    "demo": "Train a teacher on embedded digits and distil students, in a minute; leaves a table and a picture.",
    "fit": "Train a network: a teacher or a student alone (ClassificationModule), or a student by a teacher.",
    "validate": "Evaluate a checkpoint on the validation images.",
    "test": "Evaluate a checkpoint on the test images.",
    "predict": "Write classes and probabilities of images, labelled or not, into a table.",
    "export": "Write a network as safetensors, ONNX, torch.export or a hub folder, and check that it answers the same.",
    "audit": "Say whether the teacher breaks orders on mixed images, and what a correction would change.",
    "teach": "Store the teacher's answers to a run's images, so that training needs no teacher.",
    "compare": "Run methods x seeds on one set-up and compare them, with intervals.",
}

show_everything: ContextVar[bool] = ContextVar("show_everything", default=False)
"""Whether help is to be complete."""

_TRAINER = ("max_epochs", "accelerator", "devices", "precision", "callbacks", "logger", "limit_train_batches")
_FROM_THE_DATA = ("num_classes", "in_channels", "image_size")
_FOR = {"allow_untrained": ("validate", "test", "predict"), "predictions": ("predict",), "epoch_factor": ("fit",)}
_BETTER = {
    "config": "A YAML file; further ones replace keys of those before.",
    "print_config": "Print the whole config that would run, every default included, and exit.",
    "seed_everything": "The seed of weights, order and augmentation.",
    "model": "The module's class; its options are --model.OPTION, see --model.help CLASS.",
    "data": "The data module's class; its options are --data.OPTION, see --data.help CLASS.",
    "trainer.max_epochs": "How many epochs to train.",
    "trainer.limit_train_batches": "Batches of an epoch: a number, or a share of them such as 0.1.",
    "trainer.accelerator": "cpu, gpu, mps, ...",
    "trainer.devices": "How many devices, or auto.",
    "trainer.precision": "32-true, bf16-mixed, 16-mixed, ...",
    "trainer.callbacks": "Methods and callbacks; += adds one, see --trainer.callbacks.help CLASS.",
    "trainer.logger": "Where metrics go: CSVLogger, WandbLogger, TensorBoardLogger, ...",
    "ckpt_path": "The checkpoint to go on from, or to evaluate.",
    "weights_only": "",
    "return_predictions": "",
    "help": "",
}
_SHORT = {
    "teacher_checkpoint": ("the teacher's weights", None),
    "teacher_args": ("further arguments of its network, such as {stem: small}", None),
    "teacher_precision": ("of the teacher's forward pass; that of the Trainer if not given", None),
    "allow_other_teacher": ("resume although the teacher's weights are not those the run was started with", False),
    "distillation": ("KL, DKD, NKD, DIST, MLKD, CorrelationDistance or LogitStandardisation", None),
    "teacher_outputs": ("where its answers are stored and replayed from, such as {folder: answers}", None),
    "teacher_view": ("what it looks at: mixed images, plain (unmixed) ones, or mirrored too", "mixed"),
    "teacher_blend": ("how a list of teachers answers as one, such as {weights: [2, 1], trust: violation}", None),
    "teacher_image_input": ("{mean, std, size} of the images it was trained on, if its file does not say", None),
    "teacher_classes": ("which of its outputs are the classes: numbers, names, or by_name", None),
    "teacher_strategy": ("whole in every process, or its weights shared out", "replicate"),
    "student_args": ("further arguments of the student's network", None),
}
_METAVAR = {"config": "FILE", "model": "CLASS", "data": "CLASS", "print_config": "", "seed_everything": "SEED"}
_METAVAR |= {"trainer.limit_train_batches": "BATCHES", "ckpt_path": "FILE", "trainer.max_epochs": "EPOCHS"}
_MORE = {
    "predict": "From a weight file alone: ida-lightning predict --weights FILE --images FOLDER (--weights --help)",
}
_BASES = ("ClassifierBase", "SupervisionHooks", "MixingDataModule", "CIFARDataModule", "ImagesDataModule", "StepGuard")
LISTED: Mapping[str, type] = {
    "--model": L.LightningModule,
    "--data": L.LightningDataModule,
    "--trainer.callbacks": L.Callback,
}
_WIDTH, _COLUMN = 110, 30


def top_help(further: Mapping[str, str] | None = None) -> str:
    """Return the help of ``ida-lightning`` itself: every command with one line.

    Args:
        further: commands that are not shipped, by name.
    """
    lines = ["usage: ida-lightning COMMAND [--config FILE] [--OPTION VALUE ...]", "", "commands:"]
    lines += [_entry(name, line) for name, line in {**(further or {}), **COMMANDS}.items()]
    lines += ["", "options:", _entry("-h, --help", "this text; COMMAND --help has what people set first of a command,")]
    lines += [_entry("", "COMMAND --help_all every option"), _entry("--version", "the version of ida-lightning")]
    return "\n".join(lines) + "\n"


def unknown_command(given: Sequence[str]) -> str | None:
    """Say what is wrong with arguments that do not begin with a command or an option; None for those that do."""
    known = ", ".join(COMMANDS)
    if not given:
        return f"expected a command: {known}; see ida-lightning --help"
    if given[0] in COMMANDS or given[0].startswith("-"):
        return None
    near = difflib.get_close_matches(given[0], COMMANDS, n=1)
    return f"no command {given[0]!r}{f', did you mean {near[0]}?' if near else ''}; there are {known}"


def short_help(parser: argparse.ArgumentParser) -> str:
    """Return the help of one command, or of one class, with one entry for each option that people set.

    Left out are most options of the Trainer, what the data module tells the model, options that have a short name
    beside their long one, and lists of all classes that could be named.

    Args:
        parser: of a command, or the one that jsonargparse makes for ``--model.help CLASS`` and the like.
    """
    asked = re.match(r"Help for --(\S+?)\.help=(\S+)$", parser.description or "")
    if asked:
        return _class_help(parser, asked[1], asked[2])
    command = parser.prog.split()[-1]
    lines = [f"usage: ida-lightning {command} [--config FILE] [--OPTION VALUE ...]", ""]
    lines += textwrap.wrap(COMMANDS.get(command, parser.description or ""), _WIDTH)
    lines += ["", "options:"]
    for action in _options(parser):
        dest = action.dest
        if dest.startswith("trainer") and dest.removeprefix("trainer.") not in _TRAINER:
            continue
        if command not in _FOR.get(dest.partition(".")[0], (command,)):
            continue
        text = _BETTER.get(dest, _first_sentence(action.help))
        if text or dest not in _BETTER:
            lines.append(_entry(_invocation(action), text, action.default))
    lines.append("")
    full = any(action.dest == "model" for action in parser._actions)
    if full:
        lines.append(_entry("--model.help CLASS", "Options of a class; so --data.help, --trainer.callbacks.help, ..."))
    lines += [_entry("-h, --help", "This text."), _entry("--help_all", "Every option, with types.")]
    lines += ["", _MORE[command]] if full and command in _MORE else []
    return "\n".join(lines) + "\n"


def class_list(option: str, classes: Iterable[type]) -> str:
    """Return what ``--model.help`` without a class prints: which there are.

    Args:
        option: such as ``--model``.
        classes: to list.
    """
    lines = [f"{option}.help CLASS shows the options of one of these, or of a class of your own (module.Class):", ""]
    lines += [_entry(kind.__name__, _first_sentence((kind.__doc__ or "").partition("\n\n")[0])) for kind in classes]
    return "\n".join(lines) + "\n"


def shipped_classes(base: type) -> list[type]:
    """Return the public classes of this package below ``base`` that can be made, in the order of their names."""
    found: dict[str, type] = {}
    below: list[type] = list(type.__subclasses__(base))
    while below:
        kind = below.pop()
        below += type.__subclasses__(kind)
        abstract = bool(getattr(kind, "__abstractmethods__", None)) or kind.__name__ in _BASES
        if kind.__module__.startswith("ida_lightning.") and not kind.__name__.startswith("_") and not abstract:
            found[kind.__name__] = kind
    return [found[name] for name in sorted(found)]


def _class_help(parser: argparse.ArgumentParser, option: str, path: str) -> str:
    """Return the options of one class, short names instead of the fields of groups that they stand for."""
    name = path.rpartition(".")[2]
    lines = [f"usage: --{option} {name} [--{option}.OPTION VALUE ...]", ""]
    actions = list(_options(parser))
    lines += [*textwrap.wrap(_summary(parser), _WIDTH), ""]
    short = {action.dest for action in actions if action.dest.count(".") == option.count(".") + 1}
    longer = {action.dest.rpartition(".")[2]: (action.help, action.default) for action in actions if action.help}
    for action in actions:
        last = action.dest.rpartition(".")[2]
        doubled = action.dest not in short and f"{option}.{last}" in short
        if doubled or (option == "model" and last in _FROM_THE_DATA):
            continue
        text, default = action.help, action.default
        if not text:
            text, default = _SHORT.get(last) or longer.get(last, ("", None))
        lines.append(_entry(_invocation(action), _first_sentence(text), default, action.required))
    return (
        "\n".join((*lines, "", _entry("--help_all", f"put before --{option}.help for whole texts and types."))) + "\n"
    )


def _summary(parser: argparse.ArgumentParser) -> str:
    titles = [group.title for group in parser._action_groups if group.title]
    given = [title for title in titles if title not in ("options", "positional arguments", "optional arguments")]
    return _plain(given[0]).rstrip(":") + "." if given else ""


def _options(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """Yield the options that set something."""
    for action in parser._actions:
        if action.option_strings and action.help != argparse.SUPPRESS and action.dest != "help":
            dest = action.option_strings[-1].lstrip("-")
            if not dest.endswith(".help") and action.metavar != "CONFIG":
                yield action


def _invocation(action: argparse.Action) -> str:
    """Return an option's name and what it takes, where that says more than the name."""
    name = action.option_strings[0] if action.dest != "config" else "-c, --config"
    wanted = _METAVAR.get(action.dest, "")
    choices = str(action.metavar or "") if str(action.metavar or "").startswith("{") else ""
    if action.choices:
        choices = f"{{{','.join(map(str, action.choices))}}}"
    return f"{name} {wanted or choices}".rstrip()


def _first_sentence(text: str | None) -> str:
    """Return the first sentence, without the markup of docstrings."""
    plain = _plain(text or "")
    return re.split(r"(?<=[a-z0-9)\]'\"])(?<! al)(?:\.(?=\s+[A-Z\"'])|;(?=\s))", plain, maxsplit=1)[0].rstrip(".")


def _plain(text: str) -> str:
    text = re.sub(r":\w+:`~?(?:[\w.]*\.)?(\w+)(?:\(\))?`", r"\1", text)
    return " ".join(text.replace("``", "").split())


def _entry(name: str, text: str, default: object = None, required: bool = False) -> str:
    """Return the lines of one option."""
    simple = isinstance(default, (bool, int, float, str)) and default not in ("", argparse.SUPPRESS)
    shown = str(default).lower() if isinstance(default, bool) else str(default)
    note = "required" if required else f"default: {shown}" if simple and len(shown) < 40 else ""
    text = f"{text} ({note})".strip() if note else text
    lines = textwrap.wrap(text, _WIDTH - _COLUMN) or [""]
    if len(name) > _COLUMN - 4:
        return "\n".join([f"  {name}", *(" " * _COLUMN + line for line in lines if line)])
    return "\n".join([f"  {name:<{_COLUMN - 2}}{lines[0]}".rstrip(), *(" " * _COLUMN + line for line in lines[1:])])
