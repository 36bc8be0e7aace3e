"""The parser of the command line: its complaints become one line, its help becomes short."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import lightning as L
from lightning.pytorch.cli import LightningArgumentParser

from ida_lightning.cli.help import LISTED, class_list, shipped_classes, short_help, show_everything, top_help
from ida_lightning.cli.messages import explain
from ida_lightning.errors import InputError

_LIMITS = {f"limit_{kind}_batches": unit for kind, unit in (("train", "training"), ("val", "validation"))}
_LIMITS |= {f"limit_{unit}_batches": unit for unit in ("test", "predict")}


class Parser(LightningArgumentParser):
    """A parser that raises one-line :class:`InputError`, accepts no abbreviation of a key and prints short help.

    ``--help_all`` prints the help that jsonargparse would; before ``--model.help CLASS`` and the like it prints
    theirs.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.subcommands_action: Any = None
        super().__init__(*args, **{"allow_abbrev": False, **kwargs})

    def add_subcommands(self, *args: Any, **kwargs: Any) -> Any:
        """Keep the action that subcommands are added to, for further ones."""
        self.subcommands_action = super().add_subcommands(*args, **kwargs)
        return self.subcommands_action

    def add_class_arguments(
        self, theclass: type, nested_key: str | None = None, *args: Any, **kwargs: Any
    ) -> list[str]:
        """Add the arguments of a class; those of the Trainer that count batches keep their type.

        Python remembers ``Union[int, float]`` in whatever order it met it first, and the parser takes the first type
        that fits: 1, one batch, would become 1.0, all of them.
        """
        if theclass is not L.Trainer:
            return list(super().add_class_arguments(theclass, nested_key, *args, **kwargs))
        kwargs["skip"] = {*(kwargs.get("skip") or ()), *_LIMITS}
        added = list(super().add_class_arguments(theclass, nested_key, *args, **kwargs))
        for name, unit in _LIMITS.items():
            text = f"How many {unit} batches: an int counts them, a float is a share of all."
            self.add_argument(f"--{nested_key}.{name}", type=int | float | None, default=None, help=text)
        return [*added, *(f"{nested_key}.{name}" for name in _LIMITS)]

    def parse_args(self, args: Sequence[str] | None = None, *more: Any, **options: Any) -> Any:  # type: ignore[override]
        """Parse; ``--help_all``, and the help of a class that is not named, are dealt with here."""
        given = list(sys.argv[1:] if args is None else args)
        for option, base in LISTED.items():
            named = f"{option}.help" in given and given[given.index(f"{option}.help") + 1 :]
            if named == []:
                print(class_list(option, shipped_classes(base)), end="")  # noqa: T201
                self.exit()
        if "--help_all" not in given:
            return self._parse(given, *more, **options)
        given.remove("--help_all")
        if not any(argument.partition("=")[0].endswith(".help") for argument in given):
            given.append("--help")
        token = show_everything.set(True)
        try:
            return self._parse(given, *more, **options)
        finally:
            show_everything.reset(token)

    def _parse(self, given: list[Any], *more: Any, **options: Any) -> Any:
        """Parse a command line; a config that is no text in UTF-8 is named."""
        try:
            return super().parse_args(given, *more, **options)
        except UnicodeDecodeError as error:
            names = [name for argument in given if _is_no_text(name := str(argument).rpartition("=")[2])]
            raise InputError(f"config: expected a text file in UTF-8, got {', '.join(names) or error}") from error

    def format_help(self, *args: Any) -> str:
        """Return the short help, or all of it."""
        if show_everything.get():
            return super().format_help(*args)
        if self.subcommands_action is None:
            return short_help(self)
        return top_help({name: parser.description or "" for name, parser in self.subcommands_action.choices.items()})

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise the message that argparse would print before it exits."""
        raise InputError(explain(message, ex)) from ex


def _is_no_text(name: str) -> bool:
    """Say whether a name is that of a file that is not in UTF-8."""
    try:
        Path(name).read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return True
    except (OSError, ValueError):
        return False
    return False
