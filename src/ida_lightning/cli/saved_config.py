"""Keeps the whole config of a run with what the run leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import yaml  # type: ignore[import-untyped]
from lightning.pytorch.cli import SaveConfigCallback

from ida_lightning.files import clear_unfinished, replacing
from ida_lightning.lightning_internals import write_whole_tables
from ida_lightning.modules.base import ClassifierBase
from ida_lightning.remote import is_address
from ida_lightning.trackers import describe_run, run_folder


class SavedConfig(SaveConfigCallback):
    """Saves the whole config of every run, callbacks included, beside its logs and in its logger."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "save_to_log_dir": False})
        self._text = ""

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Tell the module the config of its run, for what it says in files, and save it."""
        self._text = self.parser.dump(self.config, skip_none=False)
        if isinstance(pl_module, ClassifierBase):
            pl_module.run_config = self._text
        super().setup(trainer, pl_module, stage)

    def save_config(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Write ``config.yaml``, and see to it that tables are whole; called on one process."""
        logger = trainer.logger
        if logger is None:
            return
        for each in trainer.loggers:
            write_whole_tables(each)
        folder = run_folder(logger)
        if not is_address(folder):
            for earlier in Path(folder).parent.glob("*/"):
                clear_unfinished(earlier)
        with replacing(f"{folder}/{self.config_filename}") as unfinished:
            unfinished.write_text(self._text)
        logger.log_hyperparams({"config": self._text})
        owner = pl_module.owner if isinstance(pl_module, ClassifierBase) else "model"
        describe_run(trainer.loggers, yaml.safe_load(self._text), (owner, "teacher"))
