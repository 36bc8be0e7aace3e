"""LightningCLI over this package's modules, data modules and callbacks."""

from __future__ import annotations

import json
import sys
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import lightning as L
from jsonargparse import Namespace
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

# Imported so that configs can name their classes without a path.
import ida_lightning.callbacks
import ida_lightning.data
import ida_lightning.methods
import ida_lightning.modules  # noqa: F401
from ida_lightning.callbacks import PredictionsCallback
from ida_lightning.checkpoint_io import write_whole_checkpoints
from ida_lightning.cli.checkpoints import check_checkpoint, model_names, model_values, settle
from ida_lightning.cli.messages import explain, one_line
from ida_lightning.cli.parser import Parser
from ida_lightning.cli.reruns import check_reruns
from ida_lightning.cli.saved_config import SavedConfig
from ida_lightning.cli.values import LINKS, check_links, check_values, refusing_trainers
from ida_lightning.errors import InputError
from ida_lightning.lightning_internals import BuildThenRun
from ida_lightning.models.reading import values_allowed
from ida_lightning.modules.short_names import spell_out
from ida_lightning.run_checks import kept_outputs, require_weights

# What schedulers count, in epochs or in steps; a run of twice the epochs has twice the steps.
_IN_EPOCHS = {
    "MultiStepLR": "milestones",
    "StepLR": "step_size",
    "CosineAnnealingLR": "T_max",
    "PolynomialLR": "total_iters",
    "OneCycleLR": "total_steps",
}


class IDACLI(BuildThenRun, LightningCLI):
    """``fit``, ``validate``, ``test`` and ``predict`` for modules, data and callbacks of this package.

    The constructor reads the arguments and builds the data module, the model and the trainer; ``run()`` runs the
    subcommand. The data module tells the model its number of classes, channels and image size.

    Args:
        args: of the command line, the subcommand first; None takes them from ``sys.argv``.
        run: whether the first argument is a subcommand; without one there is nothing to run.

    Raises:
        InputError: for arguments and configs that cannot be used.

    Example:
        >>> model = ["--model=ClassificationModule", "--model.model=test_resnet"]
        >>> cli = IDACLI(["fit", *model, "--data=DigitsDataModule", "--trainer.accelerator=cpu"])
        >>> cli.model.num_classes, cli.trainer.global_step
        (10, 0)
    """

    def __init__(self, args: list[str] | None = None, run: bool = True) -> None:
        # Lightning 2.6 asks torch 2.15's pytrees in a way that torch has deprecated; nothing a user could change.
        warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
        first = next(iter(sys.argv[1:] if args is None else args), None)
        self.asked = first if first in {*LightningCLI.subcommands(), *self.commands} else None
        super().__init__(
            L.LightningModule,
            L.LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=SavedConfig,
            trainer_defaults={
                "logger": {
                    "class_path": "lightning.pytorch.loggers.CSVLogger",
                    "init_args": {"save_dir": "outputs"},
                }
            },
            seed_everything_default=0,
            parser_class=Parser,
            auto_configure_optimizers=False,
            args=args,
            run=run,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Link the number of classes, channels and image size of the data to the model's arguments."""
        for source, target in LINKS.items():
            parser.link_arguments(f"data.{source}", f"model.init_args.{target}", apply_on="instantiate")
        parser.add_lightning_class_args(PredictionsCallback, "predictions")
        parser.add_argument(
            "--epoch_factor",
            type=float,
            default=1.0,
            help="How many times as long to train: multiplies trainer.max_epochs and what the schedule counts in "
            "epochs. The saved config of a run has the products, and 1 here.",
        )
        parser.add_argument(
            "--allow_untrained",
            type=bool,
            default=False,
            help="Let validate, test and predict use a network whose weights are as they were drawn.",
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Read the arguments and apply ``epoch_factor``, once: what a resumed checkpoint adds has it already."""
        self._explicit = model_names(sys.argv[1:] if args is None else args if isinstance(args, list) else [])
        super().parse_arguments(parser, args)
        arguments = self.arguments
        if arguments.get("model.init_args") is not None:
            spell_out(vars(arguments["model.init_args"]))
        check_values(arguments)
        factor = arguments.get("epoch_factor", 1.0)
        if factor != 1:
            _prolong(arguments, factor)
            arguments["epoch_factor"] = 1.0

    @property
    def arguments(self) -> Namespace:
        """The arguments with their defaults; those of the subcommand, if there is one."""
        subcommand = self.config.get("subcommand")
        arguments: Namespace = self.config[subcommand] if subcommand else self.config
        return arguments

    def plain_config(self) -> dict[str, Any]:
        """Return the whole config as dictionaries, lists, numbers and texts, every default included."""
        return dict(json.loads(self.subcommand_parser().dump(self.arguments, format="json", skip_none=False)))

    def before_instantiate_classes(self) -> None:
        """Check that the teacher's weight file exists before anything is built."""
        arguments = self.arguments
        teacher = arguments.get("model.init_args.teacher")
        entries = teacher if isinstance(teacher, list) else []
        checkpoints = [entry.get("checkpoint") for entry in entries if isinstance(entry, Namespace)]
        checkpoints.append(arguments.get("model.init_args.teacher_checkpoint"))
        checkpoint = next((path for path in checkpoints if path and not Path(path).is_file()), None)
        outputs = arguments.get("model.init_args.teacher_outputs")
        if outputs is not None and outputs.mode == "replay" and self.subcommand == "fit":
            return  # the teacher's answers are there in its place
        if self.subcommand not in ("fit", *self.commands) or checkpoint is None:
            return
        advice = ""
        for config in arguments.get("config") or []:
            sibling = Path(str(config)).with_name(f"{Path(checkpoint).stem}.yaml")
            if sibling.is_file():
                advice = f"; train the teacher first: ida-lightning fit --config {sibling}"
        raise InputError(f"teacher_checkpoint: expected a weight file, found nothing at {checkpoint}{advice}")

    def instantiate_classes(self) -> None:
        """Build the data, the model and the trainer."""
        try:
            super().instantiate_classes()
        except ValueError as error:
            # jsonargparse reports what a constructor refuses as a mismatch of types, and may lose the cause.
            if isinstance(error, InputError) or "Does not validate against any" not in str(error):
                raise
            raise InputError(explain(str(error))) from error
        values = self.arguments.get("model.init_args")
        if values is not None:
            check_links(values, self.model, self.datamodule, self._explicit)

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """Build the trainer; its checkpoints are whole or not there, unless a plugin for them was chosen."""
        with refusing_trainers():
            trainer = super().instantiate_trainer(**kwargs)
        write_whole_checkpoints(trainer)
        return trainer

    def __deepcopy__(self, memo: dict[int, Any]) -> IDACLI:
        """Return itself: copies of a module, whose optimiser is made by this command line, are no second run."""
        return self

    def run(self) -> None:
        """Run the subcommand on what was built; what can be known beforehand to fail does so before any work.

        Raises:
            InputError: for places that cannot be written to, checkpoints that another run writes, and a network to
                evaluate whose weights come from nowhere.
        """
        evaluates = self.subcommand in ("validate", "test", "predict")
        if evaluates:
            require_weights(self.model, self.arguments.get("ckpt_path"), self.arguments.get("allow_untrained", False))
        fits = self.subcommand == "fit"
        if fits:
            check_reruns(self.trainer, bool(self.arguments.get("ckpt_path")))
        with kept_outputs(self.trainer, fits) if evaluates or fits else nullcontext(), values_allowed():
            try:
                super().run()
            except RuntimeError as error:
                if "Error(s) in loading state_dict" not in str(error):
                    raise
                path = self.arguments.get("ckpt_path")
                raise InputError(f"ckpt_path: {path} does not fit the model: {one_line(str(error))[:400]}") from error

    def read_checkpoint_config(self) -> None:
        """Check the checkpoint that is to be resumed or evaluated while reading it."""
        path = self.arguments.get("ckpt_path")
        subcommand = self.config.get("subcommand")
        if not subcommand or not path or (path in ("last", "hpc") and subcommand == "fit"):
            return
        check_checkpoint(path, subcommand)
        asked = model_values(self.arguments)
        with values_allowed():
            super().read_checkpoint_config()
        if asked:
            values = self.arguments["model.init_args"]
            kept = settle(asked, model_values(self.arguments), self._explicit, path, subcommand == "fit")
            for name, value in kept.items():
                values[name] = value


class _ConfigReader(IDACLI):
    """Reads a config as ``fit`` does, and builds nothing."""

    def before_instantiate_classes(self) -> None:
        pass

    def instantiate_classes(self) -> None:
        pass


def read_fit_config(args: list[str]) -> dict[str, Any]:
    """Return the whole config that ``fit`` would run with, every default included; nothing is built.

    Args:
        args: of the command line, after ``fit``.

    Raises:
        InputError: for keys and values that ``fit`` would refuse.

    Example:
        >>> model = ["--model=ClassificationModule", "--model.model=test_resnet"]
        >>> config = read_fit_config([*model, "--data=DigitsDataModule"])
        >>> config["trainer"]["devices"], config["seed_everything"]
        ('auto', 0)
    """
    return _ConfigReader(["fit", *args]).plain_config()


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
