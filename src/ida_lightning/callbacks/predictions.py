"""Write predictions as a table."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import lightning as L
import torch.distributed as dist
from lightning.pytorch.callbacks import BasePredictionWriter
from torch import Tensor

from ida_lightning.data_facts import facts_of
from ida_lightning.files import replacing, writable_file
from ida_lightning.mixing import MixedBatch


class PredictionsCallback(BasePredictionWriter):
    """Writes the predicted class of every image and its probability to a CSV file.

    Args:
        path: the CSV file, with the columns ``index`` (in the predicted split), ``class`` (its number), ``name``
            (if the data set names its classes) and ``probability``; sorted by index, each image once.
    """

    def __init__(self, path: str = "outputs/predictions.csv") -> None:
        super().__init__(write_interval="batch")
        self.path = Path(path)
        self._rows: list[tuple[int, int, float]] = []

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Try the place before anything is predicted."""
        super().setup(trainer, pl_module, stage)
        if stage == "predict" and trainer.is_global_zero:
            writable_file("predictions.path", self.path)

    def write_on_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        prediction: Tensor,
        batch_indices: Any,
        batch: MixedBatch,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Keep the batch's top class."""
        probability, top = prediction.max(1)
        self._rows += zip(batch.index.tolist(), top.tolist(), probability.tolist(), strict=True)

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Gather the rows of all processes and write the file."""
        gathered = [self._rows]
        if trainer.world_size > 1:
            gathered = [[] for _ in range(trainer.world_size)]
            dist.all_gather_object(gathered, self._rows)
        self._rows = []
        if not trainer.is_global_zero:
            return
        names = facts_of(trainer).class_names
        # A distributed sampler repeats images to make the shares equal.
        rows = sorted({row[0]: row for rows in gathered for row in rows}.values())
        with replacing(self.path) as unfinished, unfinished.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(("index", "class", "name", "probability"))
            for index, top, probability in rows:
                writer.writerow((index, top, names[top] if names else "", f"{probability:.6f}"))
