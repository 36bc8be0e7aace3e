"""Order statistics against the slow double loop, SciPy and the properties of an exact correction."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau

from ida_lightning import InputError, LabelMix, isotonic_soft_labels, order_statistics, violated_rows
from tests.helpers.devices import DEVICES, never_waiting
from tests.helpers.problems import problems


def known_pairs(weights):
    """As stated: heavier and lighter class, the rest with weight 0."""
    classes = range(len(weights))
    return [(u, v) for u in classes for v in classes if weights[u] > weights[v] + 1e-12]


def same(found, expected):
    for name, one, other in zip(found._fields, found, expected, strict=True):
        torch.testing.assert_close(one, other, equal_nan=True, msg=lambda text, name=name: f"{name}: {text}")


@given(problems())
def test_violated_rows_are_those_with_a_reversed_pair(problem):
    values, mix = problem
    hard = mix.dense(values.shape[1])
    for row, weights, violated in zip(values, hard, violated_rows(values, mix), strict=True):
        assert bool(violated) == any(row[u] < row[v] for u, v in known_pairs(weights))


@given(problems())
def test_statistics_are_what_the_double_loop_counts(problem):
    values, mix = problem
    found = order_statistics(values, mix)
    for i, (row, weights) in enumerate(zip(values.tolist(), mix.dense(values.shape[1]).tolist(), strict=True)):
        pairs = known_pairs(weights)
        named = [c for c, weight in enumerate(weights) if weight > 0]
        lightest = [c for c in named if weights[c] < min(weights[n] for n in named) + 1e-12]
        assert bool(found.mix_reversed[i]) == any(row[u] < row[v] for u, v in pairs if weights[v] > 0)
        assert bool(found.rest_above[i]) == any(row[u] < row[v] for u, v in pairs if u in lightest)
        if pairs:
            score = sum(np.sign(row[u] - row[v]) for u, v in pairs)
            assert float(found.tau[i]) == pytest.approx(score / len(pairs), abs=1e-6)
        else:
            assert found.tau[i].isnan()
        top = max(2, len(named))
        covered = [sum(other > row[c] for other in row) < top for c in named]
        assert (bool(found.covers_any[i]), bool(found.covers_all[i])) == (any(covered), all(covered))
    assert found.violated.equal(violated_rows(values, mix))


@given(st.integers(2, 30), st.integers(0, 2**32 - 1))
def test_tau_is_scipys_where_every_class_is_ranked(classes, seed):
    rng = np.random.default_rng(seed)
    values, weights = rng.random(classes), rng.permutation(classes) + 1.0
    mix = LabelMix(torch.arange(classes)[None], torch.tensor(weights / weights.sum())[None])
    tau = order_statistics(torch.tensor(values)[None], mix).tau
    assert float(tau) == pytest.approx(kendalltau(values, weights).statistic, abs=1e-6)


@given(problems())
def test_coverage_of_different_values_is_that_of_topk(problem):
    values, mix = problem
    values = values + torch.linspace(0, 1e-6, values.shape[1])  # ties cannot be told apart by topk
    found, order = order_statistics(values, mix), mix.order()
    for i, row in enumerate(values):
        own = set(order.labels[i, order.present[i]].tolist())
        largest = set(row.topk(min(len(row), max(2, len(own)))).indices.tolist())
        assert (bool(found.covers_any[i]), bool(found.covers_all[i])) == (bool(own & largest), own <= largest)


@given(problems(), st.randoms(use_true_random=False))
def test_only_the_classes_of_the_mix_have_a_place(problem, random):
    values, mix = problem
    for i in range(len(values)):
        row, one = values[i : i + 1], mix.select(torch.tensor([i]))
        rest = sorted(set(range(values.shape[1])) - set(one.labels[one.weights > 0].tolist()))
        shuffled = random.sample(rest, len(rest))
        other = row.clone()
        other[:, rest] = row[:, shuffled]
        same(order_statistics(other, one), order_statistics(row, one))


@given(problems())
def test_rows_and_the_way_a_mix_is_written_do_not_matter(problem):
    values, mix = problem
    found = order_statistics(values, mix)
    back = torch.arange(len(values)).flip(0)
    same(order_statistics(values[back], mix.select(back)), [field[back] for field in found])
    same(order_statistics(values, mix.canonical()), found)
    padded = LabelMix(mix.labels.repeat(1, 2), torch.cat((mix.weights, torch.zeros_like(mix.weights)), 1))
    same(order_statistics(values, padded), found)


@given(problems())
def test_correction_leaves_no_violation_and_covers_all(problem):
    values, mix = problem
    found = order_statistics(isotonic_soft_labels(values, mix), mix)
    assert not (found.mix_reversed | found.rest_above | found.violated).any()
    # Pooled classes are equal, and equal values count in favour.
    assert found.covers_all.all()
    assert not (found.tau < 0).any()


@given(problems(max_k=2))
def test_correction_of_a_pair_never_lowers_tau(problem):
    values, mix = problem
    before = order_statistics(values, mix).tau
    after = order_statistics(isotonic_soft_labels(values, mix), mix).tau
    assert not (after < before - 1e-6).any()


def test_correction_of_four_ranked_classes_can_lower_tau():
    # All five are pooled: six right pairs of the mix become ties, and only four reversed ones.
    mix = LabelMix(torch.tensor([[0, 1, 2, 3]]), torch.tensor([[0.4, 0.3, 0.2, 0.1]]))
    values = torch.tensor([[0.16, 0.15, 0.14, 0.13, 0.42]], dtype=torch.float64)
    assert float(order_statistics(values, mix).tau) == pytest.approx(0.2)
    assert float(order_statistics(isotonic_soft_labels(values, mix), mix).tau) == 0


@given(problems(), st.integers(0, 2**32 - 1))
def test_ordered_rows_without_equal_values_have_tau_one(problem, seed):
    values, mix = problem
    hard = mix.dense(values.shape[1])
    # Ordered by weight first; what is not ordered differs at random.
    ordered = 100 * hard + torch.rand(hard.shape, generator=torch.Generator().manual_seed(seed))
    tau = order_statistics(ordered, mix).tau
    assert (tau[~tau.isnan()] == 1).all()


def test_rows_of_one_class_have_only_the_second_kind():
    values = torch.tensor([[0.1, 0.6, 0.3], [0.4, 0.3, 0.3], [0.1, 0.2, 0.7]])
    unmixed = LabelMix.unmixed(torch.zeros(3, dtype=torch.int64))
    same_class = LabelMix.pair(*[torch.zeros(3, dtype=torch.int64)] * 2, 0.7)
    for mix in (unmixed, same_class):
        found = order_statistics(values, mix)
        assert found.mix_reversed.tolist() == [False] * 3
        assert found.rest_above.tolist() == found.violated.tolist() == [True, False, True]
        assert found.tau.tolist() == [-1, 1, -1]
        assert found.covers_all.tolist() == found.covers_any.tolist() == [False, True, False]


def test_equal_values_are_neither_right_nor_reversed():
    mix = LabelMix.pair(torch.tensor([0]), torch.tensor([1]), 0.7)
    found = order_statistics(torch.full((1, 4), 0.25), mix)
    assert not violated_rows(torch.full((1, 4), 0.25), mix).any()
    assert (found.violated.item(), found.tau.item(), found.covers_all.item()) == (False, 0, True)


def test_a_tie_of_all_classes_has_no_tau():
    mix = LabelMix.pair(torch.tensor([0]), torch.tensor([1]), 0.5)
    assert order_statistics(torch.tensor([[0.3, 0.7]]), mix).tau.isnan().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_types_are_compared_as_they_are(dtype):
    values = torch.randn(50, 20, generator=torch.Generator().manual_seed(3)).to(dtype)
    mix = LabelMix.pair(torch.arange(50) % 20, torch.arange(50) % 7, 0.6)
    same(order_statistics(values, mix), order_statistics(values.double(), mix))


@pytest.mark.parametrize("device", DEVICES)
def test_no_rows_and_no_waiting(device):
    mix = LabelMix.pair(torch.tensor([0, 1], device=device), torch.tensor([1, 1], device=device), 0.7)
    values = torch.rand(2, 5, device=device)
    with never_waiting(device):
        found = order_statistics(values, mix)
    assert all(len(field) == 2 for field in found)
    assert all(len(field) == 0 for field in order_statistics(values[:0], mix.select(slice(0))))


@pytest.mark.parametrize("function", [violated_rows, order_statistics])
def test_label_mix_of_another_batch_is_named(function):
    with pytest.raises(InputError, match=r"values: .*the batch of 3 of label_mix, got float32 \(6, 10\)"):
        function(torch.zeros(6, 10), LabelMix.unmixed(torch.arange(3)))
