"""Keeps labelled texts as numbers in memory and fetches them by the batch, padded to the longest of it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ida_lightning.data.in_memory import InMemoryRows


class Texts(InMemoryRows):
    """Holds the tokens of texts, and the texts themselves to show.

    Batches have the inputs ``input_ids`` and ``attention_mask``, int64 ``(batch, longest)``.

    Args:
        texts: as they were read.
        ids: the numbers of their tokens.
        labels: int64 ``(texts,)``.
        pad_id: fills a batch up.
    """

    def __init__(self, texts: Sequence[str], ids: Sequence[Sequence[int]], labels: Tensor, pad_id: int) -> None:
        lengths = np.array([len(row) for row in ids], np.int64)
        self.texts = list(texts)
        self.labels = labels
        self.pad_id = pad_id
        # One tensor, not a list of lists: a million texts are then no million objects to every loader process.
        self.ids = torch.tensor([number for row in ids for number in row], dtype=torch.int32)
        self.ends = torch.from_numpy(lengths.cumsum())

    def fetch(self, index: Tensor) -> dict[str, Tensor]:
        """Return the tokens of rows and their mask."""
        ends = self.ends[index]
        starts = torch.where(index > 0, self.ends[index - 1], 0)
        place = torch.arange(int((ends - starts).max()))
        there = place < (ends - starts)[:, None]
        ids = self.ids[(starts[:, None] + place).clamp(max=len(self.ids) - 1)].long()
        return {"input_ids": torch.where(there, ids, self.pad_id), "attention_mask": there.long()}
