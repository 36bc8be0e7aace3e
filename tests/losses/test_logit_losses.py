"""Every distillation loss against the formula of its paper, written down once more in NumPy's float64."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from scipy.stats import pearsonr, spearmanr

from ida_lightning import (
    DIST,
    DKD,
    KL,
    MLKD,
    NKD,
    CorrelationDistance,
    DistillationLoss,
    InputError,
    LabelMix,
    LogitStandardisation,
    correlation_loss,
    dist_loss,
    distillation_loss,
    dkd_loss,
    multi_level_loss,
    nkd_loss,
    standardise_logits,
)
from tests.helpers.losses import LOSSES

every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())


def logits(rows=6, classes=7, scale=3.0, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (scale * torch.randn(2, rows, classes, generator=generator, dtype=torch.float64)).to(dtype)


def taught(teacher_logits, label_mix=None, temperature=4.0, weights=None):
    rows = len(teacher_logits)
    weights = torch.ones(rows, dtype=teacher_logits.dtype) if weights is None else weights
    label_mix = label_mix or LabelMix.unmixed(torch.arange(rows) % teacher_logits.shape[1])
    return SimpleNamespace(
        soft_labels=(teacher_logits / temperature).softmax(1),
        label_mix=label_mix,
        soft_weight=weights,
        temperature=temperature,
    )


def kl(p, q):
    """Of two distributions that sum to 1."""
    return sum(a * np.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


# --- parity with the papers' formulas


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0, 20.0])
def test_dkd_on_one_class_is_the_published_formula(temperature):
    student, teacher = logits()
    labels = torch.tensor([0, 3, 6, 2, 2, 5])
    loss = dkd_loss(
        student, (teacher / temperature).softmax(1), LabelMix.unmixed(labels), temperature, alpha=1.5, beta=6.0
    )
    for row, target in enumerate(labels.tolist()):
        p, q = (softmax(side[row].numpy() / temperature) for side in (teacher, student))
        others = np.arange(7) != target
        tckd = kl([p[target], p[others].sum()], [q[target], q[others].sum()])
        nckd = kl(p[others] / p[others].sum(), q[others] / q[others].sum())
        assert float(loss[row]) == pytest.approx(temperature**2 * (1.5 * tckd + 6.0 * nckd), rel=1e-6)


def test_dkd_on_equal_shares_has_an_event_for_each_class():
    student, teacher = logits(rows=1)
    mix = LabelMix(torch.tensor([[4, 1, 2]]), torch.full((1, 3), 1 / 3))
    p, q = (softmax(side[0].numpy() / 4) for side in (teacher, student))
    rest = [0, 3, 5, 6]
    targets = kl([p[4], p[1], p[2], p[rest].sum()], [q[4], q[1], q[2], q[rest].sum()])
    within = kl(p[rest] / p[rest].sum(), q[rest] / q[rest].sum())
    loss = dkd_loss(student, (teacher / 4).softmax(1), mix, 4.0, 2.0, 3.0)
    assert float(loss) == pytest.approx(16 * (2 * targets + 3 * within), rel=1e-5)  # 1 / 3 is in float32
    uneven = LabelMix(torch.tensor([[4, 1, 2]]), torch.tensor([[0.7, 0.2, 0.1]]))
    whole = dkd_loss(student, (teacher / 4).softmax(1), uneven, 4.0, 2.0, 3.0, whole=True)
    assert float(whole) == pytest.approx(float(loss), rel=1e-5)


def test_dkd_in_a_mix_shares_a_class_between_target_and_rest():
    student, teacher = logits(rows=1)
    mix = LabelMix.pair(torch.tensor([4]), torch.tensor([1]), 0.8)
    p, q = (softmax(side[0].numpy() / 4) for side in (teacher, student))
    own = np.zeros(7)
    own[[4, 1]] = 1, 0.25
    left = [(1 - own) * side for side in (p, q)]
    targets = kl([p[4], 0.25 * p[1], left[0].sum()], [q[4], 0.25 * q[1], left[1].sum()])
    within = kl(*(side / side.sum() for side in left))
    loss = dkd_loss(student, (teacher / 4).softmax(1), mix, 4.0, 2.0, 3.0)
    assert float(loss) == pytest.approx(16 * (2 * targets + 3 * within), rel=1e-5)


@pytest.mark.parametrize("weight", [0.5, 0.6, 0.95, 1.0])
def test_dkd_with_the_weights_of_kd_is_kd(weight):
    student, teacher = logits(rows=1)
    mix = LabelMix.pair(torch.tensor([4]), torch.tensor([1]), weight)
    soft = (teacher / 4).softmax(1)
    shares = mix.dense(7) / mix.dense(7).amax()
    rest = float(((1 - shares) * soft).sum())
    loss = dkd_loss(student, soft, mix, 4.0, 1.0, rest)
    torch.testing.assert_close(loss, distillation_loss(student, soft, 4.0), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("function", [dkd_loss, nkd_loss])
def test_target_losses_do_not_jump_where_a_class_vanishes(function):
    student, teacher = logits(rows=1)
    soft, own, other = (teacher / 4).softmax(1), torch.tensor([4]), torch.tensor([1])
    alone = function(student, soft, LabelMix.unmixed(own), 4.0)
    near = [function(student, soft, LabelMix.pair(own, other, 1 - step), 4.0) for step in (1e-3, 1e-5, 0.0)]
    apart = [float((loss - alone).abs() / alone) for loss in near]
    assert apart[0] < 1e-2
    assert apart[1] < 1e-4
    assert apart[2] == 0
    same = function(student, soft, LabelMix.pair(own, own, 0.3), 4.0)
    torch.testing.assert_close(same, alone, rtol=1e-6, atol=0)
    # At a tie it does not matter who comes first, nor from which side it is reached.
    sides = [function(student, soft, LabelMix.pair(own, other, 0.5 + step), 4.0) for step in (-1e-6, 0.0, 1e-6)]
    torch.testing.assert_close(sides[0], sides[1], rtol=1e-4, atol=0)
    torch.testing.assert_close(sides[2], sides[1], rtol=1e-4, atol=0)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_nkd_on_one_class_is_the_published_formula(temperature):
    student, teacher = logits()
    labels = torch.tensor([0, 3, 6, 2, 2, 5])
    loss = nkd_loss(student, (teacher / temperature).softmax(1), LabelMix.unmixed(labels), temperature, gamma=2.0)
    for row, target in enumerate(labels.tolist()):
        s, t = student[row].numpy(), teacher[row].numpy()
        others = np.arange(7) != target
        first = -softmax(t)[target] * log_softmax(s)[target]
        second = -(softmax(t[others] / temperature) * log_softmax(s[others] / temperature)).sum()
        assert float(loss[row]) == pytest.approx(first + 2.0 * temperature**2 * second, rel=1e-6)


def test_dist_is_the_published_formula():
    student, teacher = logits()
    loss = dist_loss(student, (teacher / 4).softmax(1), 4.0, beta=2.0, gamma=3.0)
    p, q = (softmax(side.numpy() / 4, axis=1) for side in (teacher, student))
    intra = np.mean([1 - pearsonr(p[:, c], q[:, c])[0] for c in range(7)])
    for row in range(6):
        inter = 1 - pearsonr(p[row], q[row])[0]
        assert float(loss[row]) == pytest.approx(16 * (2 * inter + 3 * intra), rel=1e-6)


def test_dist_leaves_rows_without_weight_out_of_the_relations():
    student, teacher = logits()
    weights = torch.tensor([1.0, 1, 0, 1, 0, 1], dtype=torch.float64)
    soft, kept = (teacher / 4).softmax(1), weights > 0
    loss = dist_loss(student, soft, 4.0, weights=weights)
    torch.testing.assert_close(loss[kept], dist_loss(student[kept], soft[kept], 4.0))
    doubled = dist_loss(student, soft, 4.0, weights=torch.tensor([2.0, 1, 1, 1, 1, 1], dtype=torch.float64))
    again = [torch.cat((side[:1], side)) for side in (student, soft)]
    torch.testing.assert_close(doubled, dist_loss(*again, 4.0)[1:])


def test_correlation_distances_are_pearsons_and_spearmans():
    student, teacher = logits()
    soft = (teacher / 4).softmax(1)
    soft[0] = torch.tensor([0.2, 0.2, 0.1, 0.1, 0.1, 0.25, 0.05])  # ties, as corrections make
    value, rank = correlation_loss(student, soft, 4.0), correlation_loss(student, soft, 4.0, "rank", softness=1e-5)
    for row in range(6):
        q = softmax(student[row].numpy() / 4)
        assert float(value[row]) == pytest.approx(16 * (1 - pearsonr(q, soft[row])[0]), rel=1e-6)
        assert float(rank[row]) == pytest.approx(16 * (1 - spearmanr(q, soft[row])[0]), abs=1e-6)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_logit_standardisation_is_the_published_formula(temperature):
    student, teacher = logits()
    loss = LogitStandardisation()(student, taught(teacher, temperature=temperature))
    for row in range(6):
        s, t = ((side - side.mean()) / side.std() for side in (student[row].numpy(), teacher[row].numpy()))
        expected = temperature**2 * kl(softmax(t / temperature), softmax(s / temperature))
        assert float(loss[row]) == pytest.approx(expected, rel=1e-6)


def test_standardised_dkd_is_dkd_of_standardised_logits():
    student, teacher = logits()
    given = taught(teacher)
    expected = DKD()(standardise_logits(student), taught(standardise_logits(teacher)))
    torch.testing.assert_close(LogitStandardisation(DKD())(student, given), expected)
    torch.testing.assert_close(LogitStandardisation(DKD())(5 * student + 3, given), expected)


def test_multi_level_is_the_published_formula():
    student, teacher = logits()
    loss = multi_level_loss(student, (teacher / 4).softmax(1), 4.0, (0.5, 1.5), relations=0.7)
    expected = 0.0
    for t in (2.0, 6.0):
        p, q = (softmax(side.numpy() / t, axis=1) for side in (teacher, student))
        expected += t**2 * np.mean([kl(*rows) for rows in zip(p, q, strict=True)])
        expected += 0.7 * np.square(p @ p.T - q @ q.T).sum() / 6
        expected += 0.7 * np.square(p.T @ p - q.T @ q).sum() / 7
    assert float(loss.mean()) == pytest.approx(expected, rel=1e-6)


# --- golden values, by hand


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        # p = (1/2, 1/4, 1/4), q = (1/2, 2/5, 1/10): the target agrees, the rest is (1/2, 1/2) against (4/5, 1/5).
        (DKD(alpha=1, beta=1), 0.5 * np.log(0.5 / 0.8) + 0.5 * np.log(0.5 / 0.2)),
        (NKD(gamma=1), 0.5 * np.log(2) - 0.5 * np.log(0.8) - 0.5 * np.log(0.2)),
        # Deviations from 1/3: (1/6, -1/12, -1/12) and (1/6, 1/15, -7/30); product 1/24, squares 1/24 and 13/150.
        (CorrelationDistance(), 1 - (1 / 24) / np.sqrt(1 / 24 * 13 / 150)),
        (KL(), 0.25 * np.log(0.25 / 0.4) + 0.25 * np.log(0.25 / 0.1)),
    ],
    ids=["DKD", "NKD", "pearson", "KL"],
)
def test_values_worked_out_by_hand(loss, expected):
    student = torch.tensor([[0.5, 0.4, 0.1]], dtype=torch.float64).log()
    given = taught(torch.tensor([[0.5, 0.25, 0.25]], dtype=torch.float64).log(), temperature=1.0)
    assert float(loss(student, given)) == pytest.approx(expected, rel=1e-6)


# --- what all of them have


@every_loss
def test_gradients_are_right(loss):
    student, teacher = logits(rows=4, classes=5, scale=1.0)
    mix = LabelMix.pair(torch.tensor([0, 1, 2, 3]), torch.tensor([4, 1, 0, 1]), torch.tensor([0.7, 0.4, 1.0, 0.5]))
    given = taught(teacher, mix, temperature=2.0, weights=torch.tensor([1.0, 0.5, 0.0, 2.0], dtype=torch.float64))
    assert torch.autograd.gradcheck(lambda values: loss(values, given), student.clone().requires_grad_())


@every_loss
@pytest.mark.parametrize("temperature", [0.5, 4.0, 20.0])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["bf16", "float32"])
def test_losses_are_finite_at_any_temperature(loss, temperature, dtype):
    student, teacher = logits(rows=5, classes=6, scale=30.0, dtype=dtype)
    student[0] = torch.tensor([150.0, -150, 0, 0, 0, 0])  # sure, and
    teacher[0] = torch.tensor([-150.0, 150, 0, 0, 0, 0])  # of something else
    student[1] = 0  # not decided at all
    mix = LabelMix.pair(torch.arange(5), torch.tensor([1, 0, 2, 5, 4]), torch.tensor([0.9, 0.5, 1.0, 0.3, 0.0]))
    given = taught(teacher.float(), mix, temperature)
    given.soft_labels[2] = torch.eye(6)[2]  # all mass on the class that the picture shows
    given.soft_labels[3] = 1 / 6
    student.requires_grad_()
    values = loss(student, given)
    assert values.shape == (5,)
    assert values.dtype == torch.float32
    assert torch.isfinite(values).all()
    (gradient,) = torch.autograd.grad(values.sum(), student)
    assert torch.isfinite(gradient).all()
    assert gradient.abs().sum() > 0


@every_loss
def test_a_student_that_agrees_learns_nothing(loss):
    _, teacher = logits()
    student = teacher.clone().requires_grad_()
    mix = LabelMix.pair(torch.tensor([0, 3, 6, 2, 2, 5]), torch.tensor([1, 3, 0, 4, 5, 6]), 0.7)
    (gradient,) = torch.autograd.grad(loss(student, taught(teacher, mix)).sum(), student)
    # The first term of NKD wants the target as sure as can be; soft ranks are not quite ranks.
    if not isinstance(loss, NKD) and loss != CorrelationDistance("rank"):
        assert gradient.abs().max() < 1e-5


@every_loss
def test_classes_have_no_numbers(loss):
    student, teacher = logits()
    mix = LabelMix.pair(torch.tensor([0, 3, 6, 2, 2, 5]), torch.tensor([1, 3, 0, 4, 5, 6]), 0.7)
    order = torch.tensor([3, 0, 6, 1, 5, 2, 4])
    moved = LabelMix(order.argsort()[mix.labels], mix.weights)
    torch.testing.assert_close(
        loss(student[:, order], taught(teacher[:, order], moved)), loss(student, taught(teacher, mix))
    )


@every_loss
def test_two_classes_and_one_row_are_enough(loss):
    student, teacher = logits(rows=1, classes=2, dtype=torch.float32)
    mix = LabelMix.pair(torch.tensor([0]), torch.tensor([1]), 0.5)  # nothing is left for a rest
    student.requires_grad_()
    (gradient,) = torch.autograd.grad(loss(student, taught(teacher, mix)).sum(), student)
    assert torch.isfinite(gradient).all()


def test_kl_is_the_distillation_loss_bit_for_bit():
    student, teacher = logits(dtype=torch.float32)
    given = taught(teacher)
    assert torch.equal(KL()(student, given), distillation_loss(student, given.soft_labels, 4.0))


# --- what bad input gets


@pytest.mark.parametrize("loss", [DKD(), NKD(), LogitStandardisation(NKD())], ids=["DKD", "NKD", "standardised"])
def test_rows_without_a_target_are_named(loss):
    student, teacher = logits()
    mix = LabelMix(torch.zeros(6, 1, dtype=torch.int64), torch.tensor([[1.0], [0], [1], [0], [1], [1]]))
    with pytest.raises(InputError, match=r"label_mix: expected a class with weight in every row, got none in 2 rows"):
        loss(student, taught(teacher, mix))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DKD(alpha=-1), "alpha: expected a number >= 0, got -1"),
        (lambda: DKD(beta=float("nan")), "beta: expected a number >= 0, got nan"),
        (lambda: DKD(whole="no"), "whole: expected true or false, got 'no'"),
        (lambda: NKD(gamma=-0.5), "gamma: expected a number >= 0, got -0.5"),
        (lambda: DIST(gamma=-2), "gamma: expected a number >= 0, got -2"),
        (lambda: CorrelationDistance("kendall"), "form: expected one of pearson, rank, got 'kendall'"),
        (lambda: CorrelationDistance(softness=0), "softness: expected a number > 0, got 0"),
        (lambda: LogitStandardisation("DKD"), "loss: expected a DistillationLoss, got str 'DKD'"),
        (lambda: MLKD(factors=()), r"factors: expected one number > 0 or more, got \(\)"),
        (lambda: MLKD(factors=(0,)), "factors: expected a number > 0, got 0"),
        (lambda: MLKD(relations=-1), "relations: expected a number >= 0, got -1"),
    ],
)
def test_options_out_of_range_are_named(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_a_loss_without_a_call_cannot_be_made():
    with pytest.raises(TypeError, match="abstract"):
        type("Misspelt", (DistillationLoss,), {"call": None})()
