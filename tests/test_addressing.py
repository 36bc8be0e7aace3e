"""Labels out of range where nobody looks at them: no gather goes outside, and their rows are NaN."""

import pytest
import torch

import ida_lightning.addressing as addressing_module
import ida_lightning.label_mix as label_mix_module
import ida_lightning.losses.base as losses_base_module
from ida_lightning import (
    LabelMix,
    blend_with_truth,
    exchange_values,
    isotonic_soft_labels,
    mixed_cross_entropy,
    order_penalty,
    order_statistics,
    revise_soft_labels,
    violated_rows,
)
from ida_lightning.losses import dkd_loss

CLASSES = 6
FUNCTIONS = {
    "isotonic_soft_labels": lambda p, mix: isotonic_soft_labels(p, mix, validate=False),
    "dense": lambda p, mix: mix.dense(CLASSES),
    "mixed_cross_entropy": mixed_cross_entropy,
    "order_penalty": order_penalty,
    "order_penalty, worst": lambda p, mix: order_penalty(p, mix, form="worst"),
    "order_statistics": lambda p, mix: order_statistics(p, mix).tau,
    "revise_soft_labels": revise_soft_labels,
    "revise_soft_labels, wrong": lambda p, mix: revise_soft_labels(p, mix, which="wrong"),
    "blend_with_truth": lambda p, mix: blend_with_truth(p, mix, 0.3),
    "exchange_values": exchange_values,
}


@pytest.fixture
def rows():
    """Soft labels, their mix, and the same mix with a label out of range in the second and third row."""
    probs = torch.randn(4, CLASSES).softmax(1)
    mix = LabelMix.pair(torch.tensor([0, 1, 2, 3]), torch.tensor([5, 4, 3, 2]), 0.7)
    wrong = LabelMix(mix.labels.clone(), mix.weights)
    wrong.labels[1, 0], wrong.labels[2, 1] = CLASSES, -1
    return probs, mix, wrong


@pytest.fixture
def unseen(monkeypatch):
    """An accelerator: gathering outside would end the process's use of it, so nothing may try to."""
    monkeypatch.setattr(addressing_module, "_GATHER_CHECKS", ())
    for module in (label_mix_module, losses_base_module):
        monkeypatch.setattr(module, "can_look", lambda *_: False)


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_no_gather_goes_outside_and_such_rows_are_nan(function, rows, unseen):
    probs, mix, wrong = rows
    found, right = function(probs, wrong), function(probs, mix)
    nan = found.isnan().all(1) if found.ndim == 2 else found.isnan()
    assert nan.tolist() == [False, True, True, False]
    assert torch.equal(found[[0, 3]], right[[0, 3]])
    assert not right.isnan().any()


def test_rows_with_labels_outside_are_violated_and_rank_nothing(rows, unseen):
    probs, mix, wrong = rows
    assert violated_rows(probs, wrong)[1:3].all()
    assert order_statistics(probs, wrong).violated.tolist() == violated_rows(probs, wrong).tolist()
    levels = wrong.order().levels(CLASSES)
    assert not levels[1:3].any()
    assert torch.equal(levels[[0, 3]], mix.order().levels(CLASSES)[[0, 3]])


def test_a_loss_over_the_classes_of_the_mix_is_nan_too(rows, unseen):
    probs, _, wrong = rows
    found = dkd_loss(torch.randn(4, CLASSES), probs, wrong, temperature=2.0)
    assert found.isnan().tolist() == [False, True, True, False]
