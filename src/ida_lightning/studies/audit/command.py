"""The command ``ida-lightning audit``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from jsonargparse import Namespace

from ida_lightning.cli import IDACLI
from ida_lightning.studies.audit.run import audit


class AuditCLI(IDACLI):
    """:class:`~ida_lightning.cli.IDACLI` with one more subcommand, ``audit``.

    Example:
        >>> arguments = ["--model=ClassificationModule", "--model.model=test_resnet", "--data=DigitsDataModule"]
        >>> AuditCLI(["audit", *arguments, "--trainer.accelerator=cpu"]).run()
        Traceback (most recent call last):
        ...
        ida_lightning.errors.InputError: model: expected a DistillationModule, got ClassificationModule
    """

    commands: Mapping[str, Callable[..., Any]] = {"audit": audit}

    def before_instantiate_classes(self) -> None:
        """Note the config for the report, then leave out the student unless its weights are given."""
        arguments = self.arguments
        if self.subcommand == "audit":
            self.commands = {"audit": partial(audit, config=self.plain_config())}
            if "model.init_args.student" in arguments and not arguments.get("student_checkpoint"):
                arguments["model.init_args.student"] = Namespace(class_path="torch.nn.Identity")  # type: ignore[no-untyped-call]
        super().before_instantiate_classes()
