"""The parser of the command line, and how its complaints become one line."""

from __future__ import annotations

from typing import Any, NoReturn

from lightning.pytorch.cli import LightningArgumentParser

from ida_lightning.cli.messages import explain
from ida_lightning.errors import InputError


class Parser(LightningArgumentParser):
    """A parser that raises one-line :class:`InputError` and accepts no abbreviation of a key."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def add_subcommands(self, *args: Any, **kwargs: Any) -> Any:
        """Keep the action that subcommands are added to, for further ones."""
        self.subcommands_action = super().add_subcommands(*args, **kwargs)
        return self.subcommands_action

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise the message that argparse would print before it exits."""
        raise InputError(explain(message, ex)) from ex
