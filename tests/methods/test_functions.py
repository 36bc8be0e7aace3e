"""Every method is a function too: for a loop of one's own, without Lightning, with the same result."""

import subprocess
import sys

import pytest
import torch

from ida_lightning import (
    InputError,
    LabelMix,
    Supervision,
    add_soft_labels,
    blend_soft_labels,
    correct_soft_labels,
    distillation_loss,
    label_by_teacher,
    pick_rows,
    prediction_entropy,
    teach_trusted_rows,
)
from ida_lightning.methods import (
    AddedTermCallback,
    CutMixPickCallback,
    IsotonicSoftLabelCallback,
    TeacherLabelCallback,
)

T = 4.5


@pytest.fixture
def supervision():
    """Eight clean rows and sixteen mixes of them."""
    rows, logits = 24, 3 * torch.randn(24, 6)
    labels = torch.randint(6, (2, rows))
    weight = torch.where(torch.arange(rows) < 8, 1.0, 0.5 + torch.rand(rows) / 2)
    weights = torch.rand(2, rows)
    mixed = torch.arange(rows) >= 8
    mix = LabelMix.pair(*labels, weight)
    inputs, index = torch.randn(rows, 1, 2, 2), torch.arange(rows)
    return Supervision(inputs, mix, index, logits, (logits / T).softmax(1), *weights, T, mixed)


def same(one, other):
    for name in ("inputs", "index", "soft_labels", "soft_weight", "hard_weight", "mixed"):
        torch.testing.assert_close(one._asdict()[name], other._asdict()[name], rtol=0, atol=0)


def test_correction_and_added_term(supervision):
    corrected = correct_soft_labels(supervision.soft_labels, supervision.label_mix, T, "logits")
    half = blend_soft_labels(supervision.soft_labels, corrected, 0.5)
    by_method = IsotonicSoftLabelCallback(space="logits", strength=0.5).transform(supervision)
    torch.testing.assert_close(by_method.soft_labels, half, rtol=1e-5, atol=1e-7)  # rows in order: bit for bit there
    added = add_soft_labels(supervision, corrected, 3.0)
    by_method = AddedTermCallback(IsotonicSoftLabelCallback(space="logits"), 3.0).transform(supervision)
    torch.testing.assert_close(by_method.soft_labels, added.soft_labels, rtol=1e-5, atol=1e-7)
    assert torch.equal(by_method.soft_weight, added.soft_weight)


def test_an_added_term_has_the_gradient_of_two(supervision):
    logits = torch.randn(24, 6, requires_grad=True)
    other = supervision.soft_labels.flip(1)
    two = supervision.soft_weight * distillation_loss(logits, supervision.soft_labels, T)
    two = two + 1.5 * distillation_loss(logits, other, T)
    merged = add_soft_labels(supervision, other, 1.5)
    one = merged.soft_weight * distillation_loss(logits, merged.soft_labels, T)
    expected, found = (torch.autograd.grad(loss.sum(), logits)[0] for loss in (two, one))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_teacher_labels_and_picking(supervision):
    same(label_by_teacher(supervision), TeacherLabelCallback().transform(supervision))
    same(label_by_teacher(supervision, True), TeacherLabelCallback(hard_label=True).transform(supervision))
    scores = prediction_entropy(supervision.teacher_logits)
    picked = pick_rows(supervision, scores, 0.25)
    same(picked, CutMixPickCallback("teacher_entropy", 0.25).transform(supervision))
    assert len(picked.index) == 8 + 4
    torch.testing.assert_close(picked.weight[8:].sum() / 12, supervision.weight[8:].sum() / 24)


def test_untrusted_rows_go_to_the_ground_truth(supervision):
    trusted = supervision.index % 3 == 0
    taught = teach_trusted_rows(supervision, trusted, transfer=0.5)
    assert torch.equal(taught.soft_weight > 0, trusted)
    expected = supervision.hard_weight + 0.5 * supervision.soft_weight * ~trusted
    assert torch.equal(taught.hard_weight, expected)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: blend_soft_labels(s.soft_labels, s.soft_labels, 1.5), "strength: expected a number from 0 to 1"),
        (
            lambda s: blend_soft_labels(s.soft_labels, s.soft_labels[:2], 0.5),
            "corrected: expected the shape of soft_la",
        ),
        (lambda s: add_soft_labels(s, s.soft_labels, -1), "weight: expected a number >= 0, got -1"),
        (lambda s: add_soft_labels(s, None, 1), "soft_labels: expected a tensor, got NoneType None"),
        (lambda s: label_by_teacher(s._replace(mixed=None)), "supervision: expected one that says which rows were mix"),
        (lambda s: pick_rows(s, s.soft_weight, 0), "ratio: expected a number above 0 and up to 1, got 0"),
        (lambda s: pick_rows(s, s.soft_weight[:4]), "scores: expected the shape of supervision.soft_weight"),
        (lambda s: teach_trusted_rows(s, s.soft_weight), r"trusted: expected bool \(24,\), got float32 \(24,\)"),
        (lambda s: teach_trusted_rows(s, s.mixed, 2), "transfer: expected a number from 0 to 1, got 2"),
    ],
)
def test_wrong_arguments_are_named(call, message, supervision):
    with pytest.raises(InputError, match=message):
        call(supervision)


def test_no_function_loads_lightning():
    code = (
        "import sys; from ida_lightning import pick_rows, revise_soft_labels, teach_trusted_rows; print(*sys.modules)"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"lightning", "timm", "torchmetrics"} & set(loaded)
