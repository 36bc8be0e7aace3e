"""What the student is taught on one batch, row by row, and the functions that change it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from ida_lightning.errors import InputError, float_matrix, floats_like, is_a, kind_of, non_negative, positive, share
from ida_lightning.inputs import Inputs, take_rows
from ida_lightning.label_mix import LabelMix
from ida_lightning.losses import KL, DistillationLoss, mixed_cross_entropy
from ida_lightning.mixing import InnerPlan, MixedBatch


class Supervision(NamedTuple):
    """The teaching of one batch: targets and how much each row's targets count.

    A :class:`DistillationModule` builds it from the teacher, passes it through its supervision hooks in order,
    and computes the student's loss from what comes out. A method that changes what the student is taught
    (isotonic correction, label revision, picking, selection) is one function ``Supervision -> Supervision``.
    Immutable: use ``_replace`` or :meth:`select`.

    Attributes:
        inputs: what the student will see: ``(batch, ...)``, or a mapping of such.
        label_mix: the hard label of every row.
        index: int64 ``(batch,)``, dataset positions.
        teacher_logits: float32 ``(batch, classes)``, as the teacher gave them.
        soft_labels: float32 ``(batch, classes)``, the student's soft target; rows sum to 1.
        soft_weight: float32 ``(batch,)``, weight of the row's distillation loss.
        hard_weight: float32 ``(batch,)``, weight of the row's cross-entropy with its hard label.
        temperature: at which ``soft_labels`` were softened, and at which the student will be compared.
        mixed: bool ``(batch,)``, which rows were mixed (:meth:`MixedBatch.mixed`); None if unknown.
        kept_from: ``(batch,)``, where only the largest logits were stored, the smallest that is the teacher's own; None
            where all are.
        rows: int64 ``(batch,)``, which rows of the batch that the teacher saw are left; None where all are, in order.
        inner: as in :class:`MixedBatch`: how the networks mix the rows of unmixed inputs. All rows stay then.
    """

    inputs: Inputs
    label_mix: LabelMix
    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which nobody needs here
    teacher_logits: Tensor
    soft_labels: Tensor
    soft_weight: Tensor
    hard_weight: Tensor
    temperature: float
    mixed: Tensor | None = None
    kept_from: Tensor | None = None
    rows: Tensor | None = None
    inner: tuple[InnerPlan, ...] = ()

    @classmethod
    def from_teacher(
        cls,
        batch: MixedBatch,
        teacher_logits: Tensor,
        temperature: float = 4.5,
        soft_weight: float = 0.95,
        hard_weight: float = 0.05,
    ) -> Supervision:
        """Return what a teacher's answer teaches, before any method: the same weights in every row.

        Args:
            batch: that the teacher has seen; see :func:`ida_lightning.mix_batch` and ``as_mixed_batch``.
            teacher_logits: ``(batch, classes)``, finite.
            temperature: of the soft labels, > 0.
            soft_weight: of the distillation loss.
            hard_weight: of the cross-entropy with the hard label.

        Raises:
            InputError: for logits of another kind, and numbers out of range.

        Example:
            >>> batch = MixedBatch(torch.zeros(1, 3, 8, 8), LabelMix.unmixed(torch.tensor([1])), *torch.zeros(2, 1, 1))
            >>> Supervision.from_teacher(batch, torch.tensor([[0.0, 2.0]]), temperature=2.0).soft_labels
            tensor([[0.2689, 0.7311]])
        """
        is_a("batch", batch, MixedBatch)
        logits = float_matrix("teacher_logits", teacher_logits)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        rows = torch.ones(len(logits), device=logits.device)
        return cls(
            batch.inputs,
            batch.label_mix,
            batch.index,
            logits,
            (logits / positive("temperature", temperature)).softmax(1),
            non_negative("soft_weight", soft_weight) * rows,
            non_negative("hard_weight", hard_weight) * rows,
            temperature,
            batch.mixed(),
            inner=batch.inner,
        )

    def select(self, rows: Tensor) -> Supervision:
        """Keep only the rows named by an index or boolean mask ``(batch,)``.

        Raises:
            InputError: as :meth:`LabelMix.select`, and where the networks mix all rows (``inner``).
        """
        if self.inner:
            raise InputError("rows: expected all, as rows that are left out are mixed into others inside the network")
        label_mix = self.label_mix.select(rows)
        return Supervision(
            take_rows(self.inputs, rows),
            label_mix,
            self.index[rows],
            self.teacher_logits[rows],
            self.soft_labels[rows],
            self.soft_weight[rows],
            self.hard_weight[rows],
            self.temperature,
            None if self.mixed is None else self.mixed[rows],
            None if self.kept_from is None else self.kept_from[rows],
            (torch.arange(len(self.index), device=self.index.device) if self.rows is None else self.rows)[rows],
        )

    @property
    def weight(self) -> Tensor:
        """How much every row counts in the loss, ``(batch,)``: soft and hard weight together."""
        return self.soft_weight + self.hard_weight


SupervisionHook = Callable[[Supervision], Supervision]
LossTerm = Callable[[Tensor, Supervision], Tensor]
"""From student logits and supervision to one loss per row, ``(batch,)``."""


def check_supervision(value: object, before: Supervision, source: str) -> Supervision:
    """Return ``value``, which must be a whole :class:`Supervision` on the device of the one before. Free of cost.

    Args:
        value: what a hook returned.
        before: what it was given.
        source: which hook it was, for the message.

    Raises:
        InputError: naming ``source`` and what is wrong: another type, fields of different lengths, another device.
    """
    if not isinstance(value, Supervision):
        raise InputError(f"{source}: expected a Supervision to be returned, got {kind_of(value)}")
    rows = len(value.soft_labels) if isinstance(value.soft_labels, Tensor) and value.soft_labels.ndim == 2 else -1
    if rows < 0 or value.soft_labels.shape[1] != before.soft_labels.shape[1]:
        wanted = f"(batch, {before.soft_labels.shape[1]})"
        raise InputError(f"{source}: expected soft_labels {wanted}, got {kind_of(value.soft_labels)}")
    apart = ("label_mix", "temperature", "inner")
    fields = {name: field for name, field in value._asdict().items() if name not in apart}
    fields |= {f"label_mix.{name}": field for name, field in zip(LabelMix._fields, value.label_mix, strict=True)}
    if isinstance(value.inputs, Mapping):
        del fields["inputs"]
        fields |= {f"inputs[{name!r}]": tensor for name, tensor in value.inputs.items()}
    for name, field in fields.items():
        if name in ("mixed", "kept_from", "rows") and field is None:  # unknown
            continue
        if not isinstance(field, Tensor) or not field.ndim or len(field) != rows:
            raise InputError(f"{source}: expected {name} with the {rows} rows of soft_labels, got {kind_of(field)}")
        if field.device != before.soft_labels.device:
            raise InputError(f"{source}: expected {name} on {before.soft_labels.device}, got it on {field.device}")
    for name in ("soft_weight", "hard_weight"):
        if fields[name].ndim != 1 or not fields[name].is_floating_point():
            raise InputError(f"{source}: expected {name} floating point ({rows},), got {kind_of(fields[name])}")
    return value


def blend_soft_labels(soft_labels: Tensor, corrected: Tensor, strength: float) -> Tensor:
    """Blend soft labels with corrected ones: ``(1 - strength) * soft_labels + strength * corrected``.

    Cross-entropy is linear in its target, so this has the gradient of two loss terms with these weights. Strength 0
    and 1 return one of the two bit for bit.

    Args:
        soft_labels: ``(batch, classes)``.
        corrected: likewise.
        strength: from 0 to 1.

    Raises:
        InputError: for a strength out of range and shapes that differ.

    Example:
        >>> blend_soft_labels(torch.tensor([[0.2, 0.8]]), torch.tensor([[0.6, 0.4]]), 0.25)
        tensor([[0.3000, 0.7000]])
    """
    share("strength", strength)
    floats_like("corrected", corrected, "soft_labels", float_matrix("soft_labels", soft_labels))
    if strength in (0, 1):
        return corrected if strength else soft_labels
    return torch.lerp(soft_labels, corrected, strength)


def add_soft_labels(supervision: Supervision, soft_labels: Tensor, weight: float) -> Supervision:
    """Add a second distillation term, with soft labels of its own, to the one that is there.

    Both go through one soft label, ``(soft_weight * own + weight * soft_labels) / (soft_weight + weight)``, which has
    the gradient of the two terms, and a row's ``soft_weight`` grows by ``weight``. Rows that are not distilled
    (``soft_weight`` 0) stay so.

    Args:
        supervision: with the first term's soft labels.
        soft_labels: of the second term, ``(batch, classes)``.
        weight: of the second term, >= 0.

    Raises:
        InputError: for a negative weight and shapes that differ.

    References:
        Cui and Yan, IJCAI 2021, arXiv 2107.01412: the form in which the paper adds KD-i's corrected term.
    """
    non_negative("weight", weight)
    is_a("supervision", supervision, Supervision)
    floats_like("soft_labels", soft_labels, "supervision.soft_labels", supervision.soft_labels)
    added = weight * (supervision.soft_weight > 0)
    total = supervision.soft_weight + added
    ratio = added / total.clamp_min(torch.finfo(total.dtype).tiny)
    merged = torch.lerp(supervision.soft_labels, soft_labels, ratio[:, None])
    return supervision._replace(soft_labels=merged, soft_weight=total)


def weighted_losses(
    student_logits: Tensor,
    supervision: Supervision,
    hard_temperature: float = 1.0,
    distillation: DistillationLoss = KL(),  # noqa: B008 (frozen)
) -> tuple[Tensor, Tensor]:
    """Return the means of distillation loss and cross-entropy over rows, each times its weights.

    Their sum is the loss of a step. A function of tensors alone, so that it compiles to one graph.

    Args:
        student_logits: ``(batch, classes)``.
        supervision: what the student is taught on these rows.
        hard_temperature: of the cross-entropy.
        distillation: the distillation loss, such as ``DKD()``.

    Raises:
        InputError: for logits and supervision of another kind, and a distillation loss that gives anything but one
            floating point number per row.
    """
    is_a("supervision", supervision, Supervision)
    kd = distillation(student_logits, supervision)
    if not isinstance(kd, Tensor) or kd.shape != student_logits.shape[:1] or not kd.is_floating_point():
        wanted = f"one loss per row, floating point ({len(student_logits)},)"
        raise InputError(f"distillation: expected {wanted}, got {kind_of(kd)} from {type(distillation).__name__}")
    hard = mixed_cross_entropy(student_logits, supervision.label_mix, hard_temperature)
    return (supervision.soft_weight * kd).mean(), (supervision.hard_weight * hard).mean()
