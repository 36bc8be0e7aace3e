"""Any method with any loss: finite losses and gradients, and methods in the order of the list."""

import pytest
import torch

from ida_lightning import TeacherBlend, blend_with_truth, isotonic_soft_labels
from ida_lightning.methods import (
    AddedTermCallback,
    AuthorsIsotonicCallback,
    IsotonicSoftLabelCallback,
    LabelRevisionCallback,
    OrderPenaltyCallback,
    RevisionLossCallback,
    SmoothingControlCallback,
    TeacherLabelCallback,
    TruthBlendCallback,
    ValueExchangeCallback,
)
from tests.helpers.losses import LOSSES
from tests.helpers.steps import Step

METHODS = {
    "none": (),
    "isotonic": (IsotonicSoftLabelCallback(),),
    "isotonic logits": (IsotonicSoftLabelCallback(space="logits"),),
    "authors": (AuthorsIsotonicCallback(),),
    "added": (AddedTermCallback(IsotonicSoftLabelCallback()),),
    "revision": (LabelRevisionCallback(),),
    "revision loss": (RevisionLossCallback("kl"),),
    "truth": (TruthBlendCallback(share=1.0),),  # soft labels with zeros
    "exchange": (ValueExchangeCallback(),),
    "control": (SmoothingControlCallback(),),
    "teacher labels": (TeacherLabelCallback(),),
    "penalty": (OrderPenaltyCallback(),),
    "several": (
        TeacherLabelCallback(),
        TruthBlendCallback(share=0.3),
        IsotonicSoftLabelCallback(),
        OrderPenaltyCallback(),
    ),
}


TEACHERS = {
    "one": {},
    "two, probabilities": {"teachers": 2, "teacher_blend": TeacherBlend(weights=[2, 1])},
    "two, logits": {"teachers": 2, "teacher_blend": TeacherBlend(average="logits", trust="violation")},
    "two, corrected before": {"teachers": 2, "teacher_blend": TeacherBlend(correct="before")},
    "plain": {"teacher_view": "plain"},
    "plain logits, two": {"teacher_view": "plain_logits", "teachers": 2},
    "mirrored": {"teacher_view": "mirrored"},
}


@pytest.mark.parametrize("methods", METHODS.values(), ids=METHODS)
def test_any_loss_goes_with_any_method_and_any_teacher(methods):
    for teacher, options in TEACHERS.items():
        step = Step(*methods, **options)
        for name, loss in LOSSES.items():
            step.module.distillation = loss
            parts = step.module.loss_parts(step.logits, step.supervision)
            gradient = step.gradient_of(sum(parts.values()))
            assert all(torch.isfinite(part) for part in parts.values()), (teacher, name)
            assert torch.isfinite(gradient).all(), (teacher, name)
            assert gradient.abs().sum() > 0, (teacher, name)


def test_methods_act_in_the_order_of_the_list():
    blend, repair = TruthBlendCallback(share=0.2), IsotonicSoftLabelCallback()
    one, other = Step(blend, repair).supervision.soft_labels, Step(repair, blend).supervision.soft_labels
    raw, mix = Step().raw, Step().mix
    torch.testing.assert_close(one, isotonic_soft_labels(blend_with_truth(raw, mix, 0.2), mix))
    torch.testing.assert_close(other, blend_with_truth(isotonic_soft_labels(raw, mix), mix, 0.2))
    assert not torch.allclose(one, other)
