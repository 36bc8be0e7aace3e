"""Write predictions as a table."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol, runtime_checkable

import lightning as L
import torch.distributed as dist
from lightning.pytorch.callbacks import BasePredictionWriter
from torch import Tensor

from ida_lightning.adapters import as_mixed_batch
from ida_lightning.checks import path_or_address
from ida_lightning.data_facts import DataFacts, facts_of
from ida_lightning.errors import at_least
from ida_lightning.files import replacing, writable_file
from ida_lightning.remote import is_address
from ida_lightning.texts import csv_text


@runtime_checkable
class _HasFiles(Protocol):
    """A data set that knows the files of its rows."""

    def file_of(self, row: int) -> str | None: ...


class _Row(NamedTuple):
    number: int  # in the predicted images
    label: int  # -1 if unknown
    classes: list[int]  # most probable first
    probabilities: list[float]


class PredictionsCallback(BasePredictionWriter):
    """Writes the most probable classes of every image to a CSV file.

    The columns are ``index`` (in the predicted images), ``class`` (its number), ``name`` (if the data set names its
    classes) and ``probability`` of the most probable class; ``file`` (if the images are files); ``true_class`` and
    ``true_name``, empty where the label is not known; then ``class_2``, ``name_2``, ``probability_2`` and so on. Rows
    are sorted by index, each image once. A name that a spreadsheet would run as a formula has an apostrophe before it.

    Args:
        path: the CSV file.
        top_k: how many classes; no more than there are.

    Raises:
        InputError: for a number below 1.
    """

    def __init__(self, path: str = "outputs/predictions.csv", top_k: int = 5) -> None:
        super().__init__(write_interval="batch")
        self.path = path_or_address("path", path)
        self.top_k = at_least("top_k", top_k, 1)
        self._rows: list[_Row] = []

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Try the place before anything is predicted."""
        super().setup(trainer, pl_module, stage)
        if stage == "predict" and trainer.is_global_zero and not is_address(self.path):
            writable_file("predictions.path", self.path)

    def write_on_batch_end(
        self,
        trainer: L.Trainer,
        pl_module: L.LightningModule,
        prediction: Tensor,
        batch_indices: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Keep the most probable classes of the batch."""
        batch = as_mixed_batch(batch)
        probabilities, classes = prediction.topk(min(self.top_k, prediction.shape[1]), 1)
        index: list[int] = batch.index.tolist()
        if -1 in index:  # a loader of somebody else's, in order: processes take turns
            first = len(self._rows)
            index = [(first + row) * trainer.world_size + trainer.global_rank for row in range(len(index))]
        labels = batch.label_mix.labels[:, 0].tolist()
        self._rows += map(_Row, index, labels, classes.tolist(), probabilities.tolist())

    def on_predict_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Gather the rows of all processes and write the file."""
        gathered = [self._rows]
        if trainer.world_size > 1:
            gathered = [[] for _ in range(trainer.world_size)]
            dist.all_gather_object(gathered, self._rows)
        self._rows = []
        if not trainer.is_global_zero:
            return
        # A distributed sampler repeats images to make the shares equal.
        rows = sorted({row[0]: row for rows in gathered for row in rows}.values())
        with (
            replacing(self.path) as unfinished,
            unfinished.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
        ):
            csv.writer(file).writerows(_table(rows, facts_of(trainer)))


def _table(rows: list[_Row], facts: DataFacts) -> Iterator[list[Any]]:
    """Yield the header, then one line for each row."""
    names, splits = facts.class_names, facts.splits or {}
    source = splits.get("predict", splits.get("test"))

    def name_of(label: int) -> str:
        return csv_text(names[label]) if names and label >= 0 else ""

    further = range(2, 1 + max((len(row.classes) for row in rows), default=1))
    more = [f"{what}_{rank}" for rank in further for what in ("class", "name", "probability")]
    yield ["index", "class", "name", "probability", "file", "true_class", "true_name", *more]
    for row in rows:
        file = source.file_of(row.number) if isinstance(source, _HasFiles) else None
        first, *others = (
            [label, name_of(label), f"{probability:.6f}"]
            for label, probability in zip(row.classes, row.probabilities, strict=True)
        )
        true = [row.label if row.label >= 0 else "", name_of(row.label)]
        yield [row.number, *first, csv_text(file or ""), *true, *(value for other in others for value in other)]
