"""The losses of label revision: other terms where the teacher is wrong than where it is right.

A row is *wrong* where the teacher's own logits break the order of its hard label, and *taught* where its
``soft_weight`` is not 0.
"""

from __future__ import annotations

from torch import Tensor

from ida_lightning.errors import is_a, non_negative
from ida_lightning.losses import logit_loss, mixed_cross_entropy, probability_loss
from ida_lightning.metrics import violated_rows
from ida_lightning.supervision import Supervision


def revision_label_loss(student_logits: Tensor, supervision: Supervision) -> Tensor:
    """Compute ``hard_weight`` times the cross-entropy, on all rows but those that are wrong and taught."""
    revised = _wrong(supervision) & (supervision.soft_weight > 0)
    return supervision.hard_weight * ~revised * mixed_cross_entropy(student_logits, supervision.label_mix)


def revision_logit_loss(student_logits: Tensor, supervision: Supervision, weight: float = 4.0) -> Tensor:
    """Compute ``soft_weight * weight`` times the squared distance to the teacher's logits, where it is right."""
    rows = non_negative("weight", weight) * ~_wrong(supervision) * supervision.soft_weight
    return rows * logit_loss(student_logits, supervision.teacher_logits)


def revision_probability_loss(student_logits: Tensor, supervision: Supervision, weight: float = 1.0) -> Tensor:
    """Compute ``soft_weight * weight`` times the squared distance to the soft label, where the teacher is wrong."""
    rows = non_negative("weight", weight) * _wrong(supervision) * supervision.soft_weight
    return rows * probability_loss(student_logits, supervision.soft_labels, supervision.temperature)


def _wrong(supervision: Supervision) -> Tensor:
    is_a("supervision", supervision, Supervision)
    return violated_rows(supervision.teacher_logits, supervision.label_mix)
