"""The command ``ida-lightning audit``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from jsonargparse import Namespace

from ida_lightning.cli import IDACLI
from ida_lightning.studies.audit.run import audit
from ida_lightning.studies.teach import teach


class AuditCLI(IDACLI):
    """:class:`~ida_lightning.cli.IDACLI` with two more subcommands, ``audit`` and ``teach``.

    Example:
        >>> arguments = ["--model=ClassificationModule", "--model.model=test_resnet", "--data=DigitsDataModule"]
        >>> AuditCLI(["audit", *arguments, "--trainer.accelerator=cpu"]).run()
        Traceback (most recent call last):
        ...
        ida_lightning.errors.InputError: model: expected a DistillationModule, got ClassificationModule
    """

    commands: Mapping[str, Callable[..., Any]] = {"audit": audit, "teach": teach}

    def before_instantiate_classes(self) -> None:
        """Note the config for the audit's report, and leave out a student that is not used."""
        arguments = self.arguments
        if self.subcommand == "audit":
            self.commands = {**self.commands, "audit": partial(audit, config=self.plain_config())}
        unused = self.subcommand in self.commands and not arguments.get("student_checkpoint")
        if unused and "model.init_args.student" in arguments:
            arguments["model.init_args.student"] = Namespace(class_path="torch.nn.Identity")  # type: ignore[no-untyped-call]
        super().before_instantiate_classes()
