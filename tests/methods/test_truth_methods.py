"""The family between the teacher's answer and the truth, as methods of a run."""

import pytest
import torch

from ida_lightning import InputError, Mixing, blend_with_truth, exchange_values, isotonic_with_margin, truth_needed
from ida_lightning.methods import (
    IsotonicSoftLabelCallback,
    Ramp,
    SupervisionMethod,
    TruthBlendCallback,
    ValueExchangeCallback,
)
from ida_lightning.modules import DistillationModule
from tests.helpers.data import BlobsDataModule
from tests.helpers.networks import TinyNet
from tests.helpers.trainers import trainer

pytestmark = pytest.mark.filterwarnings("ignore:teacher. .* is close to chance")  # a random teacher is enough here


class Keeps(SupervisionMethod):
    """Keeps what passes by."""

    def __init__(self, name):
        super().__init__(name)
        self.seen = []

    def transform(self, supervision):
        self.seen.append(supervision)
        return supervision


def fit(tmp_path, method, epochs=1):
    before, after = Keeps("before"), Keeps("after")
    run = trainer(tmp_path, callbacks=[before, method, after], max_epochs=epochs)
    run.fit(DistillationModule(TinyNet(), TinyNet(), 4, 1, 8), BlobsDataModule(batch_size=16, mixing=Mixing("cutmix")))
    return list(zip(before.seen, after.seen, strict=True)), run


@pytest.mark.parametrize(
    ("method", "function"),
    [
        (TruthBlendCallback(0.3), lambda p, mix: blend_with_truth(p, mix, 0.3)),
        (TruthBlendCallback("auto"), lambda p, mix: blend_with_truth(p, mix, "auto")),
        (TruthBlendCallback(0.6, "missed"), lambda p, mix: blend_with_truth(p, mix, 0.6, "missed")),
        (ValueExchangeCallback(), exchange_values),
        (IsotonicSoftLabelCallback(margin=0.4), lambda p, mix: isotonic_with_margin(p, mix, 0.4)),
    ],
)
def test_a_method_is_its_function_on_every_batch(method, function, tmp_path):
    pairs, run = fit(tmp_path, method)
    assert len(pairs) == 4
    for before, after in pairs:
        expected = function(before.soft_labels, before.label_mix)
        assert torch.equal(after.soft_labels, expected)
        assert not torch.equal(expected, before.soft_labels)
    assert 0 < run.callback_metrics[f"train/{method.log_prefix}moved_mass"] < 1


def test_the_share_that_was_found_is_logged(tmp_path):
    pairs, run = fit(tmp_path, TruthBlendCallback("auto"))
    shares = torch.stack([truth_needed(before.soft_labels, before.label_mix) for before, _ in pairs])
    assert run.callback_metrics["train/blend_share"] == pytest.approx(float(shares.mean()), rel=1e-6)
    assert "train/blend_share" not in fit(tmp_path, TruthBlendCallback(0.3))[1].callback_metrics


def test_share_and_margin_follow_a_ramp_over_the_epochs(tmp_path):
    pairs, _ = fit(tmp_path, TruthBlendCallback(Ramp(1.0, 0.0)), epochs=3)
    for epoch, share in enumerate((1.0, 0.5, 0.0)):
        for before, after in pairs[4 * epoch : 4 * epoch + 4]:
            expected = blend_with_truth(before.soft_labels, before.label_mix, share)
            torch.testing.assert_close(after.soft_labels, expected)
    pairs, _ = fit(tmp_path, IsotonicSoftLabelCallback(margin=Ramp(0.0, 1.0, until=0.5)), epochs=3)
    for epoch, margin in enumerate((0.0, 1.0, 1.0)):
        for before, after in pairs[4 * epoch : 4 * epoch + 4]:
            expected = isotonic_with_margin(before.soft_labels, before.label_mix, margin)
            torch.testing.assert_close(after.soft_labels, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TruthBlendCallback(-0.1), "share: expected a number from 0 to 1, got -0.1"),
        (lambda: TruthBlendCallback("some"), "share: expected a number from 0 to 1 or \"auto\", got 'some'"),
        (lambda: TruthBlendCallback(rows="some"), "rows: expected one of all, wrong, missed, got 'some'"),
        (lambda: IsotonicSoftLabelCallback(margin=2), "margin: expected a number from 0 to 1, got 2"),
        (lambda: IsotonicSoftLabelCallback(space="logits", margin=0.5), "margin: expected 0 in logits space"),
        (lambda: Ramp(0.5, 1.5), "end: expected a number from 0 to 1, got 1.5"),
        (lambda: Ramp(0.5, 1, shape="square"), "shape: expected one of linear, cosine, got 'square'"),
    ],
)
def test_values_out_of_range_are_named(make, message):
    with pytest.raises(InputError, match=message):
        make()
