"""The control moves what the correction moves, in another direction."""

import pytest
import torch

from ida_lightning import InputError, moved_mass, violated_rows
from ida_lightning.methods import AddedTermCallback, IsotonicSoftLabelCallback, SmoothingControlCallback
from tests.helpers.steps import Recorder, Step, T, corrected_by, rows


@pytest.mark.parametrize("space", ["softened", "probabilities", "logits"])
@pytest.mark.parametrize("strength", [1.0, 0.4])
def test_every_row_moves_the_mass_that_the_correction_moves(space, strength):
    logits, mix = rows(batch=500)
    before = (logits / T).softmax(1)
    corrected, by_correction = corrected_by(IsotonicSoftLabelCallback(space=space, strength=strength), logits, mix)
    found, by_control = corrected_by(SmoothingControlCallback(space=space, strength=strength), logits, mix)
    torch.testing.assert_close(moved_mass(before, found), moved_mass(before, corrected), rtol=1e-4, atol=1e-6)
    step, way = found - before, mix.dense(12) - before
    along = (step * way).sum(1, keepdim=True) / way.square().sum(1, keepdim=True)
    torch.testing.assert_close(step, along * way, rtol=1e-3, atol=1e-6)
    assert (along >= 0).all()
    violated = violated_rows(before, mix)
    assert torch.equal(found[~violated], before[~violated])
    assert by_control["train/moved_mass"] == pytest.approx(by_correction["train/moved_mass"], rel=1e-4)
    if strength == 1:
        assert by_control["train/violation_rate_corrected"] > by_correction["train/violation_rate_corrected"] == 0
    torch.testing.assert_close(found.sum(1), torch.ones(500))


def test_no_row_goes_beyond_its_hard_label_and_the_log_says_so(monkeypatch):
    logits, mix = rows(batch=50)
    before = (logits / T).softmax(1)
    far = before.roll(1, 1)  # in place of a correction: further from some rows than their hard label is
    monkeypatch.setattr("ida_lightning.methods.isotonic.correct_soft_labels", lambda *args: 2 * far - before)
    found, logged = corrected_by(SmoothingControlCallback(), logits, mix)
    violated = violated_rows(before, mix)
    beyond = violated & (moved_mass(before, 2 * far - before) > moved_mass(before, mix.dense(12)))
    assert 0 < beyond.float().mean() < violated.float().mean()
    torch.testing.assert_close(found[beyond], mix.dense(12)[beyond])
    assert logged["train/capped_rate"] == pytest.approx(float(beyond.float().mean()))


def test_added_terms_have_the_weights_of_the_correction():
    kinds = (IsotonicSoftLabelCallback, SmoothingControlCallback)
    correction, control = (Step(AddedTermCallback(kind(space="logits"), weight=3.0)) for kind in kinds)
    assert torch.equal(correction.supervision.soft_weight, control.supervision.soft_weight)
    moved = [moved_mass(step.raw, step.supervision.soft_labels) for step in (correction, control)]
    torch.testing.assert_close(*moved, rtol=1e-4, atol=1e-6)


def test_arguments_are_those_of_the_correction_that_apply():
    with pytest.raises(InputError, match="space: expected one of softened, probabilities, logits, got 'odds'"):
        SmoothingControlCallback(space="odds")
    with pytest.raises(TypeError, match="share"):
        SmoothingControlCallback(share=0.5)
    module = Recorder()
    callback = SmoothingControlCallback()
    callback.setup(None, module, "fit")
    callback.teardown(None, module, "fit")
    assert not module.hooks
