"""The command ``ida-lightning``: LightningCLI over this package's modules, data modules and callbacks."""

from __future__ import annotations

import difflib
import json
import pickle
import re
import warnings
from pathlib import Path
from typing import Any, NoReturn, cast

import lightning as L
from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import Logger

# Imported so that configs can name their classes without a path.
import ida_lightning.callbacks
import ida_lightning.data
import ida_lightning.methods
import ida_lightning.modules  # noqa: F401
from ida_lightning.callbacks import PredictionsCallback
from ida_lightning.errors import InputError
from ida_lightning.files import replacing
from ida_lightning.modules.short_names import spell_out
from ida_lightning.studies.audit import AuditTrainer

# What a scheduler that is stepped once an epoch counts in epochs.
_IN_EPOCHS = {"MultiStepLR": "milestones", "StepLR": "step_size", "CosineAnnealingLR": "T_max"}
_LINKS = {"num_classes": "num_classes", "channels": "in_channels", "image_size": "image_size"}


class _Parser(LightningArgumentParser):
    """A parser whose complaint is one line, and that takes no abbreviation for a key."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise what argparse would print and exit with."""
        raise InputError(_explain(message)) from ex


class _ConfigCallback(SaveConfigCallback):
    """Keeps the whole config with every run: beside its logs and in its logger, callbacks included."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "save_to_log_dir": False})

    def save_config(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Write ``config.yaml``; called on one process."""
        logger = trainer.logger
        if logger is None:
            return
        folder = Path(getattr(logger, "log_dir", None) or _run_folder(logger))
        text = self.parser.dump(self.config, skip_none=False)
        with replacing(folder / self.config_filename) as unfinished:
            unfinished.write_text(text)
        logger.log_hyperparams({"config": text})


def _run_folder(logger: Logger) -> Path:
    """A folder of the run's own, for loggers such as W&B that only know a common one."""
    return Path(logger.save_dir or ".") / str(logger.name) / str(logger.version)


class IDACLI(LightningCLI):
    """``fit``, ``validate``, ``test``, ``predict`` and ``audit`` for modules, data and callbacks of this package.

    The data module tells the model its number of classes, channels and image size.
    """

    def __init__(self, args: list[str] | None = None, run: bool = True) -> None:
        # Lightning 2.6 asks torch 2.15's pytrees in a way that torch has deprecated; nothing a user could change.
        warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
        super().__init__(
            L.LightningModule,
            L.LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=_ConfigCallback,
            trainer_class=AuditTrainer,
            trainer_defaults={
                "logger": {
                    "class_path": "lightning.pytorch.loggers.CSVLogger",
                    "init_args": {"save_dir": "outputs"},
                }
            },
            seed_everything_default=0,
            parser_class=_Parser,
            auto_configure_optimizers=False,
            args=args,
            run=run,
        )

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Lightning's and one that trains nothing."""
        return {**LightningCLI.subcommands(), "audit": {"model", "datamodule"}}

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Link what the data know to what the model needs."""
        for source, target in _LINKS.items():
            parser.link_arguments(f"data.{source}", f"model.init_args.{target}", apply_on="instantiate")
        parser.add_lightning_class_args(PredictionsCallback, "predictions")
        parser.add_argument(
            "--epoch_factor",
            type=float,
            default=1.0,
            help="How many times as long to train: multiplies trainer.max_epochs and what the schedule counts in "
            "epochs. The saved config of a run has the products, and 1 here.",
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Read the arguments and apply ``epoch_factor``, once: what a resumed checkpoint adds has it already."""
        super().parse_arguments(parser, args)
        subcommand = self.config.get("subcommand")
        arguments = self.config[subcommand] if subcommand else self.config
        if arguments.get("model.init_args") is not None:
            spell_out(vars(arguments["model.init_args"]))
        factor = arguments.get("epoch_factor", 1.0)
        if factor != 1:
            _prolong(arguments, factor)
            arguments["epoch_factor"] = 1.0

    def before_instantiate_classes(self) -> None:
        """Look for the teacher before anything is built."""
        arguments = self.config[self.subcommand] if self.subcommand else self.config
        if self.subcommand == "audit":
            self._audited = json.loads(self._parser("audit").dump(arguments, format="json", skip_none=False))
            if "model.init_args.student" in arguments and not arguments.get("student_checkpoint"):  # nobody looks at it
                arguments["model.init_args.student"] = Namespace(class_path="torch.nn.Identity")  # type: ignore[no-untyped-call]
        checkpoint = arguments.get("model.init_args.teacher_checkpoint")
        if self.subcommand not in ("fit", "audit") or not checkpoint or Path(checkpoint).is_file():
            return
        advice = ""
        for config in arguments.get("config") or []:
            sibling = Path(str(config)).with_name(f"{Path(checkpoint).stem}.yaml")
            if sibling.is_file():
                advice = f"; train the teacher first: ida-lightning fit --config {sibling}"
        raise InputError(f"teacher_checkpoint: expected a weight file, found nothing at {checkpoint}{advice}")

    def before_audit(self) -> None:
        """Let the report hold the config as it was given."""
        cast(AuditTrainer, self.trainer).audited_config = self._audited

    def instantiate_classes(self) -> None:
        """Build the data, the model and the trainer."""
        try:
            super().instantiate_classes()
        except ValueError as error:
            # jsonargparse reports what a constructor refuses as a mismatch of types, and may lose the cause.
            if isinstance(error, InputError) or "Does not validate against any" not in str(error):
                raise
            raise InputError(_explain(str(error))) from error

    def _parse_ckpt_path(self) -> None:
        path = self.config[self.config.subcommand].get("ckpt_path") if self.config.get("subcommand") else None
        if path and path not in ("best", "last", "hpc", "registry") and not Path(path).is_file():
            raise InputError(f"ckpt_path: expected a checkpoint, found nothing at {path}")
        try:
            super()._parse_ckpt_path()
        except (RuntimeError, EOFError, OSError, pickle.UnpicklingError, AttributeError) as error:
            raise InputError(f"ckpt_path: {path} is damaged or no checkpoint ({one_line(str(error))})") from error


def _prolong(arguments: Namespace, factor: float) -> None:
    """Multiply all that is counted in epochs, so that the schedule keeps its shape."""
    if not 0 < factor < float("inf"):
        raise InputError(f"epoch_factor: expected a number > 0, got {factor:g}")
    keys = ["trainer.max_epochs"]
    scheduler = "model.init_args.lr_scheduler"
    if arguments.get(scheduler) is not None:  # none is warm-up and cosine over the whole run, however long
        name = arguments[f"{scheduler}.class_path"].rpartition(".")[2]
        if name not in _IN_EPOCHS:
            known = ", ".join(_IN_EPOCHS)
            raise InputError(
                f"epoch_factor: expected 1 with a schedule other than {known} or none, got {factor:g} and {name}"
            )
        keys.append(f"{scheduler}.init_args.{_IN_EPOCHS[name]}")
    for key in keys:
        epochs = arguments.get(key)
        counts = epochs if isinstance(epochs, list) else [epochs]
        products = [None if count is None or count < 1 else round(factor * count) for count in counts]
        if not all(products):
            raise InputError(
                f"epoch_factor: expected a number of epochs to multiply in {key}, got {epochs} times {factor:g}"
            )
        arguments[key] = products if isinstance(epochs, list) else products[0]


def one_line(message: str) -> str:
    """A message with every run of white space made one blank."""
    return " ".join(message.split())


def _explain(message: str) -> str:
    """The informative part of jsonargparse's report on a union of types: the key and what is wrong with it."""
    key = re.match(r'Parser key "(.+?)":', message)
    errors = re.search(r"Errors:\n(.*?)(?:\n\s*Given value|$)", message, re.DOTALL)
    if not errors:
        return one_line(message)
    reasons = dict.fromkeys(one_line(part) for part in re.split(r"(?:^|\n)\s*- ", errors[1]) if part.strip())
    unknown = re.search(r"Expected a dot import path string: (\S+)", message)
    if unknown:
        near = difflib.get_close_matches(unknown[1], _class_names(L.LightningModule, L.LightningDataModule, L.Callback))
        reasons = {f"no class {unknown[1]!r}" + (f"; did you mean {near[0]}?" if near else ""): None}
    useful = [reason for reason in reasons if "NoneType" not in reason] or list(reasons)
    value = re.search(r"Given value: (.*)", message)
    if value and not unknown and all(reason.startswith("Expected a <class") for reason in useful):
        useful[-1] += f", got {value[1]}"
    return (f"{key[1]}: " if key else "") + "; ".join(useful)


def _class_names(*bases: type) -> list[str]:
    found: list[type] = []
    for base in bases:
        found += type.__subclasses__(base)
    return [kind.__name__ for kind in found] + (_class_names(*found) if found else [])
