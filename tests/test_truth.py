"""Between a teacher's answer and the truth: margin, blend and exchange against references and by their properties."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize

from ida_lightning import InputError, LabelMix, isotonic_soft_labels, violated_rows
from ida_lightning.truth import (
    blend_with_truth,
    exchange_values,
    isotonic_with_margin,
    missed_rows,
    project_onto_simplex,
    truth_needed,
)


@st.composite
def problems(draw):
    """Soft labels and label mixes of one to four classes, repeats and ties among them; float64."""
    rows, classes, k = draw(st.integers(1, 6)), draw(st.integers(2, 9)), draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    logits = torch.from_numpy(rng.normal(0, draw(st.sampled_from([0.3, 3, 30])), (rows, classes)))
    weights = rng.integers(0, 4, (rows, k)) + np.eye(1, k)
    labels = torch.from_numpy(rng.integers(0, classes, (rows, k)))
    return logits.softmax(1), LabelMix(labels, torch.from_numpy(weights / weights.sum(1, keepdims=True)))


@given(problems(), st.floats(0.01, 1), st.sampled_from(["threshold", "weak_order", "tree"]))
def test_the_order_holds_with_the_margin(problem, margin, solver):
    probs, mix = problem
    found = isotonic_with_margin(probs, mix, margin, solver)
    rest = found - margin * mix.dense(probs.shape[1])
    torch.testing.assert_close(found.sum(1), torch.ones(len(probs), dtype=torch.float64))
    assert (rest >= -1e-12).all()
    # The order of what is above the lead, up to rounding.
    torch.testing.assert_close(isotonic_soft_labels(rest, mix, solver), rest, rtol=0, atol=1e-12)


@given(problems(), st.floats(0.01, 0.99))
def test_solvers_agree_and_twice_is_once(problem, margin):
    probs, mix = problem
    found = isotonic_with_margin(probs, mix, margin, "threshold")
    for solver in ("weak_order", "tree"):
        torch.testing.assert_close(isotonic_with_margin(probs, mix, margin, solver), found, rtol=0, atol=1e-12)
    torch.testing.assert_close(isotonic_with_margin(found, mix, margin), found, rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", range(20))
def test_it_is_what_a_general_optimiser_finds(seed):
    rng = np.random.default_rng(seed)
    probs, margin = rng.dirichlet(np.full(6, 0.3)), rng.uniform()
    mix = LabelMix.pair(*torch.from_numpy(rng.permutation(6)[:2, None]), float(rng.uniform(0.51, 0.99)))
    first, second = mix.order().labels[0].tolist()
    hard = mix.dense(6)[0].double().numpy()
    rest = [other for other in range(6) if other not in (first, second)]

    def slack(q):
        r = q - margin * hard
        return np.concatenate(([r[first] - r[second]], r[second] - r[rest], r))

    constraints = [{"type": "ineq", "fun": slack}, {"type": "eq", "fun": lambda q: q.sum() - 1}]
    options = {"ftol": 1e-14, "maxiter": 500}
    best = minimize(lambda q: ((q - probs) ** 2).sum(), hard, constraints=constraints, method="SLSQP", options=options)
    found = isotonic_with_margin(torch.from_numpy(probs[None]), mix, margin)[0].numpy()
    np.testing.assert_allclose(found, best.x, atol=1e-6)


def test_the_ends_of_the_margin():
    probs = torch.rand(50, 7).softmax(1)
    mix = LabelMix.pair(*torch.randint(7, (2, 50)), torch.rand(50))
    assert torch.equal(isotonic_with_margin(probs, mix, 0), isotonic_soft_labels(probs, mix))
    torch.testing.assert_close(isotonic_with_margin(probs, mix, 1), mix.dense(7), rtol=0, atol=1e-6)
    mix = LabelMix.pair(*torch.randint(7, (2, 50)), 0.6 + 0.3 * torch.rand(50))
    hard = blend_with_truth(probs, mix, 0.9)
    assert torch.equal(isotonic_with_margin(hard, mix, 0.2), hard), "rows that keep the margin: bit for bit"


@given(problems())
def test_exchange_sorts_a_rows_own_values_into_its_order(problem):
    probs, mix = problem
    found = exchange_values(probs, mix)
    assert torch.equal(found.sort(1).values, probs.sort(1).values)
    assert not violated_rows(found, mix).any()
    right = ~violated_rows(probs, mix)
    assert torch.equal(found[right], probs[right])


def test_blending_by_rows():
    probs = (3 * torch.randn(200, 6)).softmax(1)
    mix = LabelMix.pair(*torch.randint(6, (2, 200)), torch.rand(200))
    hard, wrong, missed = mix.dense(6), violated_rows(probs, mix), missed_rows(probs, mix)
    assert 0 < missed.sum() < wrong.sum() < 200
    assert not (missed & ~wrong).any(), "a missed class breaks the order too"
    for rows, chosen in (("all", torch.ones(200, dtype=torch.bool)), ("wrong", wrong), ("missed", missed)):
        found = blend_with_truth(probs, mix, 0.3, rows)
        torch.testing.assert_close(found[chosen], 0.7 * probs[chosen] + 0.3 * hard[chosen])
        assert torch.equal(found[~chosen], probs[~chosen])


def test_the_share_that_is_needed_follows_the_missed_rows():
    logits = 3 * torch.randn(200, 6, dtype=torch.float64)
    mix = LabelMix.pair(*torch.randint(6, (2, 200)), torch.rand(200))
    missed = sum(int(row.argmax()) not in pair for row, pair in zip(logits, mix.labels.tolist(), strict=True)) / 200
    assert 0.3 < missed < 0.8
    by_guessing = 1 - sum(len(set(pair)) for pair in mix.labels.tolist()) / 6 / 200
    needed = (missed / by_guessing) ** 2
    assert 0 < needed < 1
    assert truth_needed(logits, mix) == pytest.approx(needed)
    probs = logits.softmax(1)
    expected = blend_with_truth(probs, mix, needed)
    torch.testing.assert_close(blend_with_truth(probs, mix, "auto"), expected, rtol=1e-12, atol=0)
    hard, unmixed = mix.dense(6).double(), LabelMix.unmixed(torch.zeros(200, dtype=torch.int64))
    assert truth_needed(hard, mix) == 0
    assert torch.equal(blend_with_truth(hard, mix, "auto"), hard)
    assert truth_needed(torch.eye(6)[[1] * 200], unmixed) == 1, "never more than all"
    both = LabelMix.pair(torch.zeros(200, dtype=torch.int64), torch.ones(200, dtype=torch.int64), 0.6)
    assert truth_needed(torch.rand(200, 2), both) == 0, "nothing can be missed"


def test_an_answer_that_guesses_needs_all_the_truth():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(20000, 4, generator=generator)
    mix = LabelMix.pair(*torch.randint(4, (2, 20000), generator=generator), 0.7)
    assert truth_needed(logits, mix) == pytest.approx(1, abs=0.03)


def test_the_simplex_projection():
    values = torch.tensor([[0.75, 0.25, -0.5], [0.2, 0.2, 0.1], [2.0, -1.0, -0.5]], dtype=torch.float64)
    expected = torch.tensor([[0.5, 0, 0], [0.2, 0.2, 0.1], [0.5, 0, 0]], dtype=torch.float64)
    torch.testing.assert_close(project_onto_simplex(values, 0.5), expected)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p, m: blend_with_truth(p, m, 1.5), "share: expected a number from 0 to 1, got 1.5"),
        (lambda p, m: blend_with_truth(p, m, "much"), "share: expected a number from 0 to 1 or \"auto\", got 'much'"),
        (lambda p, m: blend_with_truth(p, m, 0.5, "some"), "rows: expected one of all, wrong, missed, got 'some'"),
        (lambda p, m: isotonic_with_margin(p, m, -0.1), "margin: expected a number from 0 to 1, got -0.1"),
        (lambda p, m: isotonic_with_margin(p[:1], m, 0.5), "soft_labels: expected floating point"),
        (lambda p, m: exchange_values(p[0], m), "soft_labels: expected floating point"),
    ],
)
def test_wrong_arguments_are_named(call, message):
    with pytest.raises(InputError, match=message):
        call(torch.full((2, 4), 0.25), LabelMix.unmixed(torch.tensor([0, 1])))
