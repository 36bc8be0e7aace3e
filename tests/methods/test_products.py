"""Any method with any loss: finite losses and gradients, and methods in the order of the list."""

import pytest
import torch

from ida_lightning import (
    DistillationModule,
    LabelMix,
    MixedBatch,
    TeacherBlend,
    blend_with_truth,
    isotonic_soft_labels,
)
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
from tests.helpers.networks import TinyNet
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


@pytest.mark.parametrize("methods", METHODS.values(), ids=METHODS)
def test_any_loss_goes_with_any_method(methods):
    step = Step(*methods)
    for name, loss in LOSSES.items():
        step.module.distillation = loss
        parts = step.module.loss_parts(step.logits, step.supervision)
        gradient = step.gradient_of(sum(parts.values()))
        assert all(torch.isfinite(part) for part in parts.values()), name
        assert torch.isfinite(gradient).all(), name
        assert gradient.abs().sum() > 0, name


@pytest.mark.parametrize(
    "blend", [TeacherBlend(weights=[2, 1]), TeacherBlend(average="logits", trust="violation")], ids=["mean", "trust"]
)
def test_any_loss_goes_with_several_teachers(blend):
    teachers = [TinyNet().eval(), TinyNet().eval()]
    module = DistillationModule(teachers, TinyNet().eval(), 4, 1, 8, teacher_blend=blend)
    module.setup("fit")
    module.register_supervision_hook(lambda s: s._replace(soft_labels=isotonic_soft_labels(s.soft_labels, s.label_mix)))
    index, labels = torch.arange(12), torch.randint(4, (2, 12))
    mix = LabelMix.pair(*labels, torch.rand(12)).canonical()
    supervision = module.supervise(MixedBatch(torch.randn(12, 1, 8, 8), mix, index, index[:, None]))
    for name, loss in LOSSES.items():
        module.distillation = loss
        total = sum(module.loss_parts(module.student(supervision.inputs), supervision).values())
        gradients = torch.autograd.grad(total, list(module.student.parameters()))
        assert all(torch.isfinite(gradient).all() for gradient in gradients), name


def test_methods_act_in_the_order_of_the_list():
    blend, repair = TruthBlendCallback(share=0.2), IsotonicSoftLabelCallback()
    one, other = Step(blend, repair).supervision.soft_labels, Step(repair, blend).supervision.soft_labels
    raw, mix = Step().raw, Step().mix
    torch.testing.assert_close(one, isotonic_soft_labels(blend_with_truth(raw, mix, 0.2), mix))
    torch.testing.assert_close(other, blend_with_truth(isotonic_soft_labels(raw, mix), mix, 0.2))
    assert not torch.allclose(one, other)
