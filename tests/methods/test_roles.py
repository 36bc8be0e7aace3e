"""The further ways to use the order: added terms, the released code's choices, the penalty on the student."""

import pytest
import torch

from ida_lightning import (
    InputError,
    LabelMix,
    correct_soft_labels,
    distillation_loss,
    isotonic_soft_labels,
    mixed_cross_entropy,
    order_penalty,
)
from ida_lightning.methods import (
    AddedTermCallback,
    AuthorsIsotonicCallback,
    CutMixPickCallback,
    IsotonicSoftLabelCallback,
    OrderPenaltyCallback,
)
from ida_lightning.methods.authors_isotonic import authors_order, logits_behind
from ida_lightning.modules import ClassificationModule
from tests.helpers.networks import TinyNet
from tests.helpers.steps import Step, T
from tests.helpers.trainers import OneProcess


@pytest.mark.parametrize("space", ["softened", "probabilities", "logits"])
@pytest.mark.parametrize("weight", [0.0, 2.0, 3.0])
def test_adding_has_the_gradient_of_two_terms(space, weight):
    step = Step(AddedTermCallback(IsotonicSoftLabelCallback(space=space), weight))
    corrected = correct_soft_labels(step.raw, step.mix, T, space)
    two = (
        0.95 * distillation_loss(step.logits, step.raw, T) + weight * distillation_loss(step.logits, corrected, T)
    ).mean()
    torch.testing.assert_close(step.gradient_of(step.parts["kd_loss"]), step.gradient_of(two), atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(step.supervision.soft_weight, torch.full((12,), 0.95 + weight))


def test_the_authors_preset_is_their_loss_term_for_term():
    step = Step(AuthorsIsotonicCallback())
    hard = step.mix.dense(4)
    first, second = hard.topk(2, dim=1).indices.unbind(1)
    # The order they use: a second class in every row, also where both images are of one class.
    order = LabelMix.pair(first, second, 0.75)
    corrected = (isotonic_soft_labels(step.supervision.teacher_logits, order) / T).softmax(1)
    twice = distillation_loss(step.logits.softmax(1), corrected, T)
    torch.testing.assert_close(step.parts["corrected_loss"], 2 * twice.mean())
    torch.testing.assert_close(step.parts["kd_loss"], 0.95 * distillation_loss(step.logits, step.raw, T).mean())
    torch.testing.assert_close(step.parts["hard_loss"], 0.05 * mixed_cross_entropy(step.logits, step.mix).mean())
    once = distillation_loss(step.logits, corrected, T).mean()
    pull = step.gradient_of(2 * once)
    assert step.gradient_of(step.parts["corrected_loss"]).norm() < 0.5 * pull.norm(), "softmax twice hardly pulls"


def test_a_second_class_is_made_up_only_for_images_of_one_class():
    labels = torch.tensor([[0, 2], [3, 3]])
    order = authors_order(LabelMix(labels, torch.tensor([[0.4, 0.6], [0.5, 0.5]])), 4).canonical()
    assert order.labels[0].tolist() == [2, 0]
    assert order.labels[1, 0] == 3
    assert order.labels[1, 1] != 3
    assert (order.weights[:, 0] > order.weights[:, 1]).all()


def test_the_authors_rank_one_of_two_equal_classes():
    mix = LabelMix(torch.tensor([[2, 0]]), torch.tensor([[0.5, 0.5]]))
    order = authors_order(mix, 4).order()
    assert sorted(order.labels[0].tolist()) == [0, 2]
    assert order.rank().tolist() == [[1, 2]]


def test_the_authors_correct_logits_that_underflowed():
    step = Step(AuthorsIsotonicCallback())
    far = step.supervision.teacher_logits.clone()
    far[::2, 3] = -600.0  # exp(-600 / T) is 0 in float32
    given = step.supervision._replace(teacher_logits=far, soft_labels=(far / T).softmax(1))
    assert torch.equal(logits_behind(given)[::2], far[::2])
    torch.testing.assert_close(logits_behind(given)[1::2].softmax(1), far[1::2].softmax(1))
    changed = given._replace(soft_labels=given.soft_labels.flip(0))
    assert logits_behind(changed).amin() > -500


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 1.0])
def test_the_authors_order_gives_their_penalty(share):
    logits = torch.randn(40, 6, generator=torch.Generator().manual_seed(1))
    labels = torch.randint(6, (2, 40), generator=torch.Generator().manual_seed(2))
    order = authors_order(LabelMix.pair(*labels, share), 6)
    first, second = logits.softmax(1).gather(1, order.labels).unbind(1)
    rest = logits.softmax(1).scatter(1, order.labels, 0).amax(1)
    expected = (second - first).relu() + (rest - torch.minimum(first, second)).relu()
    torch.testing.assert_close(order_penalty(logits, order, 1.0, "worst"), expected)


def test_an_added_term_logs_what_its_method_measures():
    logged = {}
    added = AddedTermCallback(IsotonicSoftLabelCallback(space="logits"))
    step = Step(added)
    step.module.log_dict = lambda values, **options: logged.update(values)
    added.on_train_epoch_end(OneProcess, step.module)
    assert list(logged) == ["train/violation_rate", "train/violation_rate_corrected", "train/moved_mass"]
    assert logged["train/violation_rate"] > 0 == logged["train/violation_rate_corrected"]


def test_an_added_term_needs_a_label_for_every_row():
    with pytest.raises(InputError, match=r"CutMixPickCallback: expected soft labels of all rows, \(12, 4\)"):
        Step(AddedTermCallback(CutMixPickCallback()))


@pytest.mark.parametrize("form", ["edges", "worst"])
def test_penalty_joins_the_loss_under_its_name(form):
    step = Step(OrderPenaltyCallback(sigma=3.0, form=form))
    assert list(step.parts) == ["kd_loss", "hard_loss", "order_penalty"]
    torch.testing.assert_close(step.parts["order_penalty"], order_penalty(step.logits, step.mix, 3.0, form).mean())
    assert torch.equal(step.supervision.soft_labels, step.raw)


def test_rows_that_are_left_out_pay_no_penalty():
    callback = OrderPenaltyCallback()
    step = Step(callback)
    none = torch.zeros(12)
    out = step.supervision._replace(soft_weight=none, hard_weight=none)
    assert step.module.loss_parts(step.logits, out)["order_penalty"] == 0


def test_terms_end_with_their_callback_and_names_are_unique():
    callback = OrderPenaltyCallback()
    step = Step(callback)
    with pytest.raises(InputError, match="name: expected one that no other part of the loss has, got 'order_penalty'"):
        step.module.register_loss_term("order_penalty", lambda logits, supervision: logits.sum(1))
    callback.setup(None, step.module, "fit")
    assert len(step.module._loss_terms) == 1, "joining twice is joining once"
    callback.teardown(None, step.module, "fit")
    assert list(step.module.loss_parts(step.logits, step.supervision)) == ["kd_loss", "hard_loss"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AddedTermCallback(IsotonicSoftLabelCallback(), -1), "weight: expected a number >= 0, got -1"),
        (lambda: AddedTermCallback(OrderPenaltyCallback()), "method: expected a SupervisionMethod, got OrderPenalty"),
        (lambda: AuthorsIsotonicCallback("magic"), "solver: expected one of auto"),
        (lambda: OrderPenaltyCallback(sigma=-1), "sigma: expected a number >= 0, got -1"),
        (lambda: OrderPenaltyCallback(form="sum"), "form: expected one of edges, worst, got 'sum'"),
    ],
)
def test_choices_that_cannot_be_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_a_module_without_loss_terms_is_refused():
    module = ClassificationModule(TinyNet(), 4, 1, 8)
    with pytest.raises(InputError, match="OrderPenaltyCallback: expected a module with register_loss_term"):
        OrderPenaltyCallback().setup(None, module, "fit")
