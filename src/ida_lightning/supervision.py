"""What the student is taught on one batch, row by row."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from ida_lightning.label_mix import LabelMix


class Supervision(NamedTuple):
    """The teaching of one batch: targets and how much each row's targets count.

    A :class:`DistillationModule` builds it from the teacher, passes it through its supervision hooks in order,
    and computes the student's loss from what comes out. A system that changes what the student is taught
    (isotonic correction, label revision, picking, selection) is one function ``Supervision -> Supervision``.
    Immutable: use ``_replace`` or :meth:`select`.

    Attributes:
        inputs: ``(batch, channels, height, width)``, what the student will see.
        label_mix: the hard label of every row.
        index: int64 ``(batch,)``, dataset positions.
        teacher_logits: float32 ``(batch, classes)``, as the teacher gave them.
        soft_labels: float32 ``(batch, classes)``, the student's soft target; rows sum to 1.
        soft_weight: float32 ``(batch,)``, weight of the row's distillation loss.
        hard_weight: float32 ``(batch,)``, weight of the row's cross-entropy with its hard label.
        temperature: at which ``soft_labels`` were softened, and at which the student will be compared.
        mixed: bool ``(batch,)``, which rows were mixed (:meth:`MixedBatch.mixed`); None where nobody said.
    """

    inputs: Tensor
    label_mix: LabelMix
    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which nobody needs here
    teacher_logits: Tensor
    soft_labels: Tensor
    soft_weight: Tensor
    hard_weight: Tensor
    temperature: float
    mixed: Tensor | None = None

    def select(self, rows: Tensor) -> Supervision:
        """Only the rows named by an index or boolean mask ``(batch,)``."""
        return Supervision(
            self.inputs[rows],
            self.label_mix.select(rows),
            self.index[rows],
            self.teacher_logits[rows],
            self.soft_labels[rows],
            self.soft_weight[rows],
            self.hard_weight[rows],
            self.temperature,
            None if self.mixed is None else self.mixed[rows],
        )


SupervisionHook = Callable[[Supervision], Supervision]
