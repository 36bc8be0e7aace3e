"""Everything of Lightning that its documentation does not promise: one named function for each use.

A new release of Lightning may change what stands here; ``tests/test_lightning_internals.py`` has a test for each
function that fails then. Nothing else in the package may use the names that ``tests/test_layers.py`` lists.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar, cast

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint, RichProgressBar, TQDMProgressBar
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm
from lightning.pytorch.core.mixins.hparams_mixin import _given_hyperparameters
from lightning.pytorch.loggers import CSVLogger, Logger
from lightning.pytorch.tuner.lr_finder import _LRCallback
from lightning.pytorch.utilities.data import extract_batch_size
from lightning.pytorch.utilities.exceptions import SIGTERMException
from torch import Tensor, nn

from ida_lightning.files import replacing
from ida_lightning.remote import is_address

_Item = TypeVar("_Item")

# --- what belongs to a module or a Trainer


def attached_trainer(module: L.LightningModule) -> L.Trainer | None:
    """Return the Trainer that runs ``module``, or None; the documented property raises without one."""
    return module._trainer


def attached_datamodule(trainer: L.Trainer) -> L.LightningDataModule | None:
    """Return the data module that ``trainer`` was given, or None if it was given loaders."""
    return cast("L.LightningDataModule | None", trainer.datamodule)  # type: ignore[attr-defined]


def configured_by_cli() -> bool:
    """Say whether LightningCLI is building a module, so that its config is what ``save_hyperparameters`` keeps."""
    return _given_hyperparameters.get() is not None


# --- where a fit is


def epoch_in_progress(trainer: L.Trainer) -> int:
    """Return the number of the epoch as samplers are told it, also in a fit that goes on from a checkpoint."""
    return cast(int, trainer.fit_loop.epoch_progress.current.processed)  # type: ignore[attr-defined]


def batches_begun(trainer: L.Trainer) -> int:
    """Return how many training batches of the epoch this process has begun, the present one included."""
    return trainer.fit_loop.epoch_loop.batch_progress.current.ready


def tell_loaders_where_they_were(trainer: L.Trainer) -> None:
    """Load the states of stateful loaders that a checkpoint has; called when training starts.

    Lightning loads them when it sets the loaders up. A schedule that asks for the number of steps makes that happen
    before the checkpoint is read, and then they would never be loaded.
    """
    loop = trainer.fit_loop
    if loop._combined_loader_states_to_load:
        loop._load_combined_loader_states()
        iter(loop._data_fetcher)  # type: ignore[arg-type]


def set_max_epochs(trainer: L.Trainer, epochs: int) -> None:
    """Change how many epochs the next fit has."""
    trainer.fit_loop.max_epochs = epochs


@contextmanager
def validation_stage(trainer: L.Trainer) -> Iterator[None]:
    """Make ``trainer.validating`` true inside, so that a data module mixes nothing."""
    before = trainer.state.stage
    trainer.validating = True
    try:
        yield
    finally:
        trainer.state.stage = before


def searches_learning_rate(trainer: L.Trainer) -> bool:
    """Say whether the learning rate finder runs its trial steps, for which it takes all other callbacks away."""
    return any(isinstance(callback, _LRCallback) for callback in trainer.callbacks)  # type: ignore[attr-defined]


# What a Trainer raises where it ends because of SIGTERM: a SystemExit without a code, which would count as success.
Terminated = SIGTERMException

# --- what is logged and shown


def logs_this_step(trainer: L.Trainer) -> bool:
    """Say whether loggers get the values of the training step in progress.

    The answer is the same from ``on_train_batch_start`` to ``on_train_batch_end``. It is False in all steps with
    ``log_every_n_steps=0`` and with ``barebones=True``.
    """
    return trainer._logger_connector.should_update_logs


def shows_progress_bar(trainer: L.Trainer) -> bool:
    """Say whether this process has a progress bar that is switched on."""
    bar = trainer.progress_bar_callback
    return bar.is_enabled if isinstance(bar, (RichProgressBar, TQDMProgressBar)) else bar is not None


def with_progress_bar(trainer: L.Trainer, items: Iterable[_Item], title: str) -> Iterable[_Item]:
    """Iterate over batches with a progress bar of their own, if the Trainer shows one."""
    quiet = not shows_progress_bar(trainer)
    return cast(Iterable[_Item], Tqdm(items, desc=title, unit="batch", disable=quiet, file=sys.stderr))


# --- device and precision


def to_device(trainer: L.Trainer, batch: Any) -> Any:
    """Move a batch to the Trainer's device, with all hooks that its loader's batches go through."""
    return trainer.strategy.batch_to_device(batch)


def to_precision(trainer: L.Trainer, inputs: _Item) -> _Item:
    """Convert inputs to the floating point type of the Trainer's precision, such as bfloat16 for ``bf16-true``.

    Of a mapping all that is floating point; token ids stay.
    """
    return cast(_Item, trainer.precision_plugin.convert_input(inputs))


def convert_network(trainer: L.Trainer, network: nn.Module) -> nn.Module:
    """Convert weights to the floating point type of the Trainer's precision, in place."""
    return trainer.precision_plugin.convert_module(network)


def forward_precision(trainer: L.Trainer) -> AbstractContextManager[None]:
    """Return the context of a forward pass in the Trainer's precision: autocast for ``bf16-mixed``, say."""
    return cast("AbstractContextManager[None]", trainer.precision_plugin.forward_context())


def rows_of(batch: Any) -> int:
    """Return the number of rows of a batch of any structure."""
    return extract_batch_size(batch)


def move_to_device(trainer: L.Trainer, module: nn.Module) -> None:
    """Move a module to the (first) device of a trainer, in the trainer's precision."""
    device = trainer.strategy.root_device
    trainer.accelerator.setup_device(device)
    convert_network(trainer, module)
    module.to(device)


def in_precision(trainer: L.Trainer, network: Callable[[Any], Tensor]) -> Callable[[Any], Tensor]:
    """Wrap a network so that it computes in the precision of a trainer, as a step of its fit would."""

    def forward(inputs: Any) -> Tensor:
        with forward_precision(trainer):
            return network(to_precision(trainer, inputs))

    return forward


# --- files


def write_whole_tables(logger: Logger) -> None:
    """Have a CSVLogger write its table whole or not at all where a new column comes; its own way truncates it first.

    Args:
        logger: of any kind, on the process that writes; only a CSVLogger of this machine's folders is changed.
    """
    if not isinstance(logger, CSVLogger) or is_address(logger.log_dir):
        return
    writer = logger.experiment

    def rewrite(columns: list[str]) -> None:
        with open(writer.metrics_file_path, newline="") as file:
            rows = list(csv.DictReader(file))
        with replacing(writer.metrics_file_path) as unfinished, unfinished.open("w", newline="") as file:
            table = csv.DictWriter(file, fieldnames=columns)
            table.writeheader()
            table.writerows(rows)

    writer._rewrite_with_new_header = rewrite


def numbers_further_files(checkpoint: ModelCheckpoint) -> bool:
    """Say whether a checkpoint whose name is taken is written as ``best-v1.ckpt`` and so on."""
    return checkpoint._enable_version_counter


# --- the command line


class BuildThenRun:
    """Mixin before ``LightningCLI``, whose constructor then parses and builds only; :meth:`run` runs the subcommand.

    Attributes:
        commands: functions that become further subcommands, by name. They take ``trainer``, ``model``, ``datamodule``
            and options; a parameter ``config`` is no option, and is there for whoever calls them. The parser class
            keeps what its ``add_subcommands`` returns as ``subcommands_action``.
        asked: the only subcommand whose parser is built, since each takes a fifth of a second; None for all.
    """

    commands: Mapping[str, Callable[..., Any]] = {}
    asked: str | None = None
    subcommand: str | None
    parser: Any
    config: Any
    trainer: Any

    def subcommands(self) -> dict[str, set[str]]:
        """Return Lightning's subcommands, by name, with the arguments that they do not take."""
        known: dict[str, set[str]] = super().subcommands()  # type: ignore[misc]
        return {name: skipped for name, skipped in known.items() if self.asked in (None, name)}

    def setup_parser(self, add_subcommands: bool, *args: Any) -> None:
        """Set the parser up as Lightning does, then add the parsers of :attr:`commands`."""
        super().setup_parser(add_subcommands, *args)  # type: ignore[misc]
        added_here = {name: function for name, function in self.commands.items() if self.asked in (None, name)}
        for name, function in added_here.items() if add_subcommands else ():
            summary = " ".join((function.__doc__ or "").partition("\n\n")[0].split())
            parser = self.init_parser(description=summary)  # type: ignore[attr-defined]
            self._add_arguments(parser)  # type: ignore[attr-defined]
            added = parser.add_function_arguments(function, skip={"trainer", "model", "datamodule", "config"})
            self._subcommand_method_arguments[name] = added  # type: ignore[attr-defined]
            self._subcommand_parsers[name] = parser  # type: ignore[attr-defined]
            self.parser.subcommands_action.add_subcommand(name, parser, help=summary)

    def subcommand_parser(self) -> Any:
        """Return the parser of the subcommand, or the only parser if there are no subcommands."""
        return self._parser(self.subcommand)  # type: ignore[attr-defined]

    def run(self) -> None:
        """Run the subcommand on what was built."""
        name = self.subcommand
        if name is None:
            return
        if name in self.commands:
            options = self._prepare_subcommand_kwargs(name)  # type: ignore[attr-defined]
            self.commands[name](trainer=self.trainer, **options)
        else:
            super()._run_subcommand(name)  # type: ignore[misc]

    def _run_subcommand(self, subcommand: str) -> None:
        """Do nothing: the constructor of ``LightningCLI`` ends with this call."""

    def read_checkpoint_config(self) -> None:
        """Take the hyperparameters of the checkpoint at ``ckpt_path`` into the config."""
        super()._parse_ckpt_path()  # type: ignore[misc]

    def _parse_ckpt_path(self) -> None:
        self.read_checkpoint_config()
