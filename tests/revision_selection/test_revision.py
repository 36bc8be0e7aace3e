"""Label revision: the paper's rule on images of one class, a guarantee on mixed ones, and no more than needed."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ida_lightning import InputError, LabelMix, revise_soft_labels, violated_rows
from tests.helpers.devices import DEVICES, never_waiting

ETAS = st.floats(0.05, 0.95)
SEEDS = st.integers(0, 10_000)


def rows(seed, k, batch=40, classes=9, sharpness=3.0):
    """Soft labels in float64, mixes of k classes with repeats, ties and weights of 0 among them."""
    rng = torch.Generator().manual_seed(seed)
    soft = (sharpness * torch.randn(batch, classes, generator=rng)).double().softmax(1)
    labels = torch.randint(classes, (batch, k), generator=rng)
    weights = torch.randint(0 if k > 1 else 1, 5, (batch, k), generator=rng).double()
    weights[:, 0] += weights.sum(1) == 0
    return soft, LabelMix(labels, weights / weights.sum(1, keepdim=True))


@given(SEEDS, ETAS)
def test_one_class_is_the_rule_of_the_paper(seed, eta):
    soft, mix = rows(seed, 1)
    found = revise_soft_labels(soft, mix, eta)
    for p, after, target in zip(soft, found, mix.labels[:, 0].tolist(), strict=True):
        top = int(p.argmax())
        if top == target:
            assert torch.equal(after, p)
            continue
        beta = eta / (p[top] - p[target] + 1)
        expected = beta * p
        expected[target] += 1 - beta
        torch.testing.assert_close(after, expected)
        assert float(after[target] - after[top]) == pytest.approx(1 - eta, abs=1e-12)
        others = torch.arange(len(p)) != target
        torch.testing.assert_close(after[others] / after[others].sum(), p[others] / p[others].sum())


def slow(p, hard, eta):
    """The least blend for which every known pair keeps its share of the gap, by bisection over beta."""

    def holds(beta):
        after = beta * p + (1 - beta) * hard
        return all(
            after[a] - after[b] >= (1 - eta) * (hard[a] - hard[b]) - 1e-13
            for a in range(len(p))
            for b in range(len(p))
            if hard[a] > hard[b]
        )

    low, high = 0.0, eta
    if holds(high):
        return high
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


@given(SEEDS, st.sampled_from([1, 2, 3, 4]), ETAS)
def test_mixed_rows_keep_margins_with_the_least_hard_label(seed, k, eta):
    soft, mix = rows(seed, k)
    found, hard = revise_soft_labels(soft, mix, eta), mix.dense(9)
    violated = violated_rows(soft, mix)
    torch.testing.assert_close(found.sum(1), torch.ones(40).double())
    assert torch.equal(found[~violated], soft[~violated])
    assert not violated_rows(found, mix).any()
    gap = hard[:, :, None] - hard[:, None, :]
    lead = found[:, :, None] - found[:, None, :] - (1 - eta) * gap
    lead = torch.where(gap > 1e-9, lead, torch.inf)[violated]
    if len(lead):
        assert lead.amin() > -1e-12
        assert lead.flatten(1).amin(1).amax() < 1e-12, "one pair holds exactly, so no smaller blend would do"


@pytest.mark.parametrize("k", [1, 2, 3])
def test_it_is_the_largest_beta_that_a_search_finds(k):
    soft, mix = rows(3, k, batch=12)
    hard, violated = mix.dense(9), violated_rows(soft, mix)
    found = revise_soft_labels(soft, mix, 0.7, "all")
    assert violated.any()
    for p, h, after in zip(soft, hard, found, strict=True):
        beta = slow(p, h, 0.7)
        torch.testing.assert_close(after, beta * p + (1 - beta) * h, atol=1e-9, rtol=0)


def test_equal_weights_ask_for_nothing_between_them():
    soft = torch.tensor([[0.1, 0.5, 0.4], [0.1, 0.2, 0.7]])
    mix = LabelMix.pair(torch.tensor([0, 0]), torch.tensor([1, 1]), 0.5)
    found = revise_soft_labels(soft, mix)
    beta = 0.8 / (1 + torch.tensor([0.3, 0.6]) / 0.5)[:, None]
    torch.testing.assert_close(found, beta * soft + (1 - beta) * torch.tensor([0.5, 0.5, 0.0]))
    assert found[0, 1] > found[0, 0]


def test_a_narrow_gap_keeps_the_order():
    soft = torch.tensor([[0.1, 0.8, 0.1]]).double()
    kept = []
    for weight in (0.9, 0.6, 0.51):
        mix = LabelMix.pair(torch.tensor([0]), torch.tensor([1]), weight)
        found = revise_soft_labels(soft, mix)
        assert not violated_rows(found, mix).any()
        kept.append(float(found[0, 2] / soft[0, 2]))
    assert kept == sorted(kept, reverse=True)
    assert kept[-1] < 0.05


def test_all_blends_right_rows_too_as_ordinary_smoothing():
    soft, mix = rows(1, 1)
    found = revise_soft_labels(soft, mix, 0.6, "all")
    right = ~violated_rows(soft, mix)
    torch.testing.assert_close(found[right], (0.6 * soft + 0.4 * mix.dense(9))[right])
    torch.testing.assert_close(found[~right], revise_soft_labels(soft, mix, 0.6)[~right])


def test_probabilities_space_revises_before_softening():
    soft, mix = rows(2, 2, sharpness=6.0)
    temperature = 4.5
    softened = soft ** (1 / temperature)
    softened /= softened.sum(1, keepdim=True)
    found = revise_soft_labels(softened, mix, 0.8, "wrong", temperature, "probabilities")
    expected = revise_soft_labels(soft, mix, 0.8) ** (1 / temperature)
    torch.testing.assert_close(found, expected / expected.sum(1, keepdim=True), rtol=1e-6, atol=1e-9)
    assert not violated_rows(found, mix).any()
    right = ~violated_rows(softened, mix)
    assert torch.equal(found[right], softened[right])
    once = revise_soft_labels(soft, mix, space="probabilities")
    torch.testing.assert_close(once, revise_soft_labels(soft, mix), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("device", DEVICES)
def test_nothing_waits_and_any_number_of_classes_may_be_named(device):
    soft = torch.tensor([[0.2, 0.8], [0.6, 0.4]], device=device)
    mix = LabelMix.pair(*torch.tensor([[0, 0], [1, 1]], device=device).unbind(), 0.75)
    with never_waiting(device):
        found = revise_soft_labels(soft, mix)
    beta = 0.8 / (1 + 0.6 / 0.5)
    torch.testing.assert_close(found[0].cpu(), beta * soft[0].cpu() + (1 - beta) * torch.tensor([0.75, 0.25]))
    assert torch.equal(found[1], soft[1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"eta": 1.0}, "eta: expected a number between 0 and 1, got 1.0"),
        ({"eta": float("nan")}, "eta: expected a number between 0 and 1, got nan"),
        ({"which": "right"}, "which: expected one of wrong, all, got 'right'"),
        ({"space": "logits"}, "space: expected one of softened, probabilities, got 'logits'"),
        ({"temperature": 0}, "temperature: expected a number > 0, got 0"),
    ],
)
def test_options_out_of_range_are_named(options, message):
    with pytest.raises(InputError, match=message):
        revise_soft_labels(torch.ones(1, 2) / 2, LabelMix.unmixed(torch.tensor([0])), **options)


def test_rows_that_do_not_fit_are_named():
    with pytest.raises(InputError, match="soft_labels: expected floating point .batch, classes. with the batch of 1"):
        revise_soft_labels(torch.ones(2, 2) / 2, LabelMix.unmixed(torch.tensor([0])))
