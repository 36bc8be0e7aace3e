"""Export the trained network's weights when training has finished."""

from __future__ import annotations

import json
from pathlib import Path

import lightning as L
from lightning.pytorch.utilities import rank_zero_info
from safetensors.torch import save_file

from ida_lightning.errors import InputError
from ida_lightning.files import replacing
from ida_lightning.models import exportable
from ida_lightning.models.recipe import KEY as RECIPE_KEY
from ida_lightning.modules.base import ClassifierBase


class ExportCallback(L.Callback):
    """Writes the network that was trained as safetensors when ``fit`` comes to its end.

    A run that was interrupted or crashed writes nothing and leaves an older file as it was; the file appears
    whole or not at all. So what is there is a finished network: use it as ``teacher_checkpoint``. With weight
    averaging it holds the averaged weights. It says how its network is built, if that has a name: then the file alone
    is enough for ``ida-lightning predict --weights FILE --images FOLDER``.

    Args:
        path: file name, ending in ``.safetensors``; folders are made.

    Raises:
        InputError: for another ending and, when a fit starts, for weights that such a file cannot hold.
    """

    def __init__(self, path: str) -> None:
        self.path = Path(path)
        if self.path.suffix != ".safetensors":
            raise InputError(f"path: expected a name that ends in .safetensors, got {path!r}")

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Check before the work that the network can be exported after it."""
        if isinstance(pl_module, ClassifierBase):
            exportable(pl_module.network)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the file on one process, if the fit was no trial."""
        if not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        assert isinstance(pl_module, ClassifierBase)
        tensors = exportable(pl_module.network)
        facts = {
            "class_names": pl_module.class_names(),
            "image_input": pl_module.image_input(),
            RECIPE_KEY: pl_module.recipe(),
        }
        metadata = {key: json.dumps(value) for key, value in facts.items()}
        with replacing(self.path) as unfinished:
            save_file(tensors, unfinished, metadata)
        rank_zero_info(f"exported: {self.path}")
