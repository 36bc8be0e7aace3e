"""Label revision in the training step, its losses, and how it goes together with the other systems."""

import pytest
import torch
from torch.nn import functional as F

from ida_lightning import InputError, distillation_loss, moved_mass, revise_soft_labels, violated_rows
from ida_lightning.methods import IsotonicSoftLabelCallback, LabelRevisionCallback, RevisionLossCallback
from ida_lightning.modules import ClassificationModule, DistillationModule
from tests.helpers.networks import TinyNet
from tests.helpers.steps import Recorder, Step, T, Weights, corrected_by, rows
from tests.helpers.trainers import OneProcess, trainer


def test_soft_labels_are_revised_and_the_effect_is_logged():
    logits, mix = rows()
    before = (logits / T).softmax(1)
    found, logged = corrected_by(LabelRevisionCallback(eta=0.7), logits, mix)
    assert torch.equal(found, revise_soft_labels(before, mix, 0.7))
    assert logged.keys() == {
        f"train/revision_{name}" for name in ("violation_rate", "violation_rate_corrected", "moved_mass")
    }
    assert logged["train/revision_violation_rate"] == pytest.approx(float(violated_rows(before, mix).float().mean()))
    assert logged["train/revision_violation_rate_corrected"] == 0
    assert logged["train/revision_moved_mass"] == pytest.approx(float(moved_mass(before, found).mean()))
    found, _ = corrected_by(LabelRevisionCallback(which="all", space="probabilities"), logits, mix)
    assert torch.equal(found, revise_soft_labels(before, mix, 0.8, "all", T, "probabilities"))


@pytest.mark.parametrize("order", [1, -1])
def test_beside_the_correction_the_second_finds_nothing_left(order):
    callbacks = [IsotonicSoftLabelCallback(), LabelRevisionCallback()][::order]
    step, alone = Step(*callbacks, rows=64), Step(type(callbacks[0])(), rows=64)
    assert torch.equal(step.supervision.soft_labels, alone.supervision.soft_labels)
    assert violated_rows(step.raw, step.mix).any()
    assert not violated_rows(step.supervision.soft_labels, step.mix).any()
    module = Recorder()
    for callback, moves in zip(callbacks, (True, False), strict=True):
        callback.on_train_epoch_end(OneProcess, module)
        (mass,) = (value for name, value in module.logged.items() if name.endswith("moved_mass"))
        assert (mass > 0) == moves


def slow_loss(step, soft_weight, hard_weight, form="mse", lambdas=(4.0, 1.0)):
    """Row by row, as it is written down."""
    total = 0.0
    hard = step.mix.dense(4)
    for row, (student, teacher) in enumerate(zip(step.logits, step.supervision.teacher_logits, strict=True)):
        target = step.supervision.soft_labels[row]
        wrong = bool(violated_rows(teacher[None], step.mix.select(torch.tensor([row]))))
        label = -(hard[row] * student.log_softmax(0)).sum() * hard_weight[row]
        if not (wrong and soft_weight[row] > 0):
            total = total + label
        if form == "kl":
            total = total + soft_weight[row] * distillation_loss(student[None], target[None], T)[0]
        elif wrong:
            total = total + soft_weight[row] * lambdas[1] * F.mse_loss((student / T).softmax(0), target)
        else:
            total = total + soft_weight[row] * lambdas[0] * F.mse_loss(student, teacher)
    return total / len(step.logits)


@pytest.mark.parametrize("form", ["mse", "kl"])
@pytest.mark.parametrize("position", [0, 1, 2])
def test_losses_equal_a_slow_computation_in_any_callback_order(form, position):
    torch.manual_seed(5)
    weights = Weights(48)
    callbacks = [weights, LabelRevisionCallback()]
    callbacks.insert(position, RevisionLossCallback(form))
    step = Step(*callbacks, rows=48)
    wrong = violated_rows(step.raw, step.mix)
    assert 0 < wrong.float().mean() < 1
    assert (wrong & (weights.soft == 0)).any()
    names = ["kd_loss", "label_loss"] if form == "kl" else ["label_loss", "logit_loss", "probability_loss"]
    assert list(step.parts) == names
    found, expected = sum(step.parts.values()), slow_loss(step, weights.soft, weights.hard, form)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(step.gradient_of(found), step.gradient_of(expected))
    expected_target = revise_soft_labels(step.raw, step.mix)
    assert torch.equal(step.supervision.soft_labels, expected_target)


def test_weights_of_the_terms_are_the_lambdas():
    step = Step(LabelRevisionCallback(), RevisionLossCallback(logit_weight=1.5, probability_weight=40.0), rows=48)
    ones = torch.ones(48)
    expected = slow_loss(step, 0.95 * ones, 0.05 * ones, lambdas=(1.5, 40.0))
    torch.testing.assert_close(sum(step.parts.values()), expected)


def test_the_replaced_parts_come_back_when_the_callback_leaves():
    callback = RevisionLossCallback()
    step = Step(callback)
    callback.setup(None, step.module, "fit")
    assert len(step.module._loss_terms) == 3, "joining twice is joining once"
    callback.teardown(None, step.module, "fit")
    assert list(step.module.loss_parts(step.logits, step.supervision)) == ["kd_loss", "hard_loss"]
    with pytest.raises(InputError, match="replaces: expected kd_loss or hard_loss, not replaced yet, got 'kl_loss'"):
        step.module.register_loss_term("mine", step.gradient_of, replaces="kl_loss")


@pytest.mark.filterwarnings("ignore:teacher. .* is close to chance")  # a random teacher is enough here
def test_a_run_logs_both_systems_apart(tmp_path, blobs):
    callbacks = [LabelRevisionCallback(), IsotonicSoftLabelCallback(), RevisionLossCallback("kl")]
    run = trainer(tmp_path, callbacks=callbacks)
    run.fit(DistillationModule(TinyNet(), TinyNet(), 4, 1, 8), blobs)
    logged = run.callback_metrics
    assert logged["train/revision_violation_rate"] > 0.3
    assert logged["train/revision_moved_mass"] > logged["train/moved_mass"] == 0
    assert {"train/kd_loss", "train/label_loss"} <= logged.keys()
    assert "train/hard_loss" not in logged


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LabelRevisionCallback(eta=0), "eta: expected a number between 0 and 1, got 0"),
        (lambda: LabelRevisionCallback(space="logits"), "space: expected one of softened, probabilities, got 'logits'"),
        (lambda: RevisionLossCallback("huber"), "form: expected one of mse, kl, got 'huber'"),
        (lambda: RevisionLossCallback(logit_weight=-1), "logit_weight: expected a number >= 0, got -1"),
    ],
)
def test_values_out_of_range_are_named(make, message):
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.parametrize("kind", [LabelRevisionCallback, RevisionLossCallback])
def test_a_module_without_the_hook_is_refused(kind):
    with pytest.raises(InputError, match=f"{kind.__name__}: expected a module with register_.*ClassificationModule"):
        kind().setup(None, ClassificationModule(TinyNet(), 4, 1, 8), "fit")
