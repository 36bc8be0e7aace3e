"""Everything that this package takes from the inside of Lightning: names that another version may not have."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import lightning as L
from torch import Tensor, nn

# --- the command line ---------------------------------------------------------------------------------------------


class BuildThenRun:
    """Mixin before ``LightningCLI``, whose constructor then parses and builds only; :meth:`run` runs the subcommand.

    Attributes:
        commands: functions that become further subcommands, by name. They take ``trainer``, ``model``, ``datamodule``
            and options; a parameter ``config`` is no option, and is there for whoever calls them. The parser class
            keeps what its ``add_subcommands`` returns as ``subcommands_action``.
    """

    commands: Mapping[str, Callable[..., Any]] = {}
    subcommand: str | None
    parser: Any
    config: Any
    trainer: Any

    def setup_parser(self, add_subcommands: bool, *args: Any) -> None:
        """Set the parser up as Lightning does, then add the parsers of :attr:`commands`."""
        super().setup_parser(add_subcommands, *args)  # type: ignore[misc]
        for name, function in self.commands.items() if add_subcommands else ():
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


# --- networks on the device of a trainer that is not fitting ------------------------------------------------------


def move_to_device(trainer: L.Trainer, module: nn.Module) -> None:
    """Move a module to the (first) device of a trainer, in the trainer's precision."""
    device = trainer.strategy.root_device
    trainer.accelerator.setup_device(device)
    trainer.precision_plugin.convert_module(module)
    module.to(device)


def in_precision(trainer: L.Trainer, network: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Wrap a network so that it computes in the precision of a trainer, as a step of its fit would."""

    def forward(images: Tensor) -> Tensor:
        with trainer.precision_plugin.forward_context():
            return network(trainer.precision_plugin.convert_input(images))

    return forward
