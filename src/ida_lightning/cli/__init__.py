"""The command line: what ``fit``, ``validate``, ``test`` and ``predict`` take, build and run."""

from ida_lightning.cli.commands import IDACLI, read_fit_config
from ida_lightning.cli.messages import one_line
from ida_lightning.cli.parser import Parser
from ida_lightning.cli.values import refusing_trainers

__all__ = ["IDACLI", "Parser", "one_line", "read_fit_config", "refusing_trainers"]
