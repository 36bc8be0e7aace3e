"""How a batch of logits becomes an array record and comes back: exactly, in half precision, or the largest few."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ida_lightning.errors import at_least, one_of, positive
from ida_lightning.label_mix import LabelMix

_LOWEST_HALF = -65504.0


class Answers(NamedTuple):
    """What a teacher said to a batch, as far as it was stored.

    Attributes:
        logits: float32 (float64 of a teacher in float64) ``(batch, classes)``.
        kept_from: ``(batch,)``, the smallest logit that is the teacher's own among those outside the mix; what is
            below it is an even share of what was not stored. None where everything was stored.
    """

    logits: Tensor
    kept_from: Tensor | None = None

    def to(self, device: torch.device) -> Answers:
        """Move to a device, without waiting for it."""
        kept_from = None if self.kept_from is None else self.kept_from.to(device, non_blocking=True)
        return Answers(self.logits.to(device, non_blocking=True), kept_from)


@dataclass(frozen=True)
class Encoding:
    """Turns logits into fields of an array record, and back.

    Args:
        precision: ``exact`` keeps every bit; ``half`` keeps the largest logit of a row in float32 and the distances of
            the others from it in float16.
        top_k: how many classes of a row are kept: those of its mix and the largest of the rest. The others are known
            by the log of the sum of their exponentials at ``temperature`` and get even shares of it, so that every
            kept entry of ``softmax(logits / temperature)`` is right. None keeps all.
        temperature: see ``top_k``.

    Raises:
        InputError: for values out of range.

    Example:
        >>> logits, mix = torch.tensor([[4.0, 1.0, 0.0, 0.0]]), LabelMix.unmixed(torch.tensor([1]))
        >>> encoding = Encoding(top_k=2)
        >>> answers = encoding.decode(encoding.encode(logits, mix), rows=1, classes=4, mix=mix)
        >>> answers.logits, answers.kept_from
        (tensor([[4., 1., 0., 0.]]), tensor([4.]))
    """

    precision: Literal["exact", "half"] = "exact"
    top_k: int | None = None
    temperature: float = 1.0

    def __post_init__(self) -> None:
        one_of("precision", self.precision, ("exact", "half"))
        positive("temperature", self.temperature)
        if self.top_k is not None:
            at_least("top_k", self.top_k, 2)

    def fields(self, rows: int, classes: int, exact: str = "<f4") -> list[tuple[Any, ...]]:
        """Return name, type and shape of every field of the record of a batch.

        Args:
            rows: of the batch.
            classes: of the logits.
            exact: the type of a logit that keeps every bit.
        """
        width = classes if self.top_k is None else min(self.top_k, classes)
        fields: list[tuple[Any, ...]] = []
        if self.top_k is not None:
            small = "<u2" if classes <= np.iinfo(np.uint16).max + 1 else "<u4"
            fields = [("classes", small, (rows, width)), ("rest", "<f4", (rows,))]
        if self.precision == "exact":
            return [*fields, ("logits", exact, (rows, width))]
        return [*fields, ("highest", "<f4", (rows,)), ("below", "<f2", (rows, width))]

    def encode(self, logits: Tensor, mix: LabelMix) -> dict[str, np.ndarray]:
        """Return the fields of a batch's record.

        Args:
            logits: float32 or float64 ``(batch, classes)``.
            mix: the hard labels, whose classes are kept.
        """
        content: dict[str, np.ndarray] = {}
        values = logits
        if self.top_k is not None:
            kept = self._kept(logits, mix)
            values = logits.gather(1, kept)
            others = (logits.float() / self.temperature).scatter(1, kept, -torch.inf)
            content = {"classes": kept.cpu().numpy(), "rest": others.logsumexp(1).cpu().numpy()}
        if self.precision == "exact":
            return {**content, "logits": values.cpu().numpy()}
        highest = values.amax(1).float()
        below = values.float() - highest[:, None]
        below = torch.where(below.isfinite(), below.clamp_min(_LOWEST_HALF), below)
        return {**content, "highest": highest.cpu().numpy(), "below": below.half().cpu().numpy()}

    def _kept(self, logits: Tensor, mix: LabelMix) -> Tensor:
        """Choose the classes to keep, ``(batch, top_k)``: those of the mix, whatever their logits, first."""
        assert self.top_k is not None
        ranked = logits.nan_to_num(-torch.inf).scatter(
            1,
            torch.where(mix.weights > 0, mix.labels, mix.labels[:, :1]),
            torch.inf,
        )
        return ranked.topk(min(self.top_k, logits.shape[1]), 1).indices

    def decode(self, record: Any, rows: int, classes: int, mix: LabelMix | None = None) -> Answers:
        """Return the logits that the fields of a record stand for.

        Args:
            record: as :meth:`encode` made it, or read from an array with :meth:`fields`.
            rows: of the batch.
            classes: of the logits.
            mix: the hard labels, whose classes do not count for ``kept_from``; None if there are none.
        """
        if self.precision == "exact":
            values = torch.from_numpy(np.array(record["logits"]))
        else:
            highest = torch.from_numpy(np.array(record["highest"]))
            values = torch.from_numpy(np.array(record["below"])).float() + highest[:, None]
        if self.top_k is None:
            return Answers(values)
        kept = torch.from_numpy(record["classes"].astype(np.int64))
        rest = torch.from_numpy(np.array(record["rest"]))
        even = self.temperature * (rest - math.log(max(1, classes - kept.shape[1])))
        logits = even[:, None].to(values.dtype).expand(rows, classes).scatter(1, kept, values)
        if kept.shape[1] == classes:
            return Answers(logits, torch.full((rows,), -torch.inf, dtype=values.dtype))
        in_mix = torch.zeros_like(values, dtype=torch.bool)
        if mix is not None:
            weighted = torch.where(mix.weights > 0, mix.labels, -1).cpu()
            in_mix = (kept[:, :, None] == weighted[:, None]).any(2)
        return Answers(logits, values.masked_fill(in_mix, torch.inf).amin(1))
