import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ida_lightning import InputError, LabelMix

CLASSES = 6


@st.composite
def mixes(draw, rows=3):
    """Any label mix, with repeats, zeros and exact ties on purpose."""
    k = draw(st.integers(1, 4))
    labels = draw(st.lists(st.lists(st.integers(0, CLASSES - 1), min_size=k, max_size=k), min_size=rows, max_size=rows))
    shares = st.lists(st.sampled_from([0.0, 1.0, 1.0, 2.0, 3.0]), min_size=k, max_size=k).filter(any)
    weights = torch.tensor(draw(st.lists(shares, min_size=rows, max_size=rows)))
    return LabelMix(torch.tensor(labels), weights / weights.sum(1, keepdim=True))


@given(mixes())
def test_canonical_form_means_the_same_and_is_ranked(mix):
    order = mix.order()
    dense = mix.dense(CLASSES)
    torch.testing.assert_close(LabelMix(order.labels, order.weights).dense(CLASSES), dense)
    assert (order.weights[:, :-1] >= order.weights[:, 1:]).all()
    assert torch.equal(order.present.sum(1), (dense > 0).sum(1))
    for row in range(len(dense)):
        named = order.labels[row][order.present[row]].tolist()
        assert len(set(named)) == len(named)
        torch.testing.assert_close(dense[row, named], order.weights[row][order.present[row]])


@given(mixes(), st.randoms())
def test_canonical_form_does_not_depend_on_the_entry_order(mix, rng):
    shuffled = list(range(mix.labels.shape[1]))
    rng.shuffle(shuffled)
    permuted = LabelMix(mix.labels[:, shuffled], mix.weights[:, shuffled])
    ours, theirs = mix.order(), permuted.order()
    # Sums of more than two repeats may round differently in another order; equality of ranks is for exact weights.
    torch.testing.assert_close(ours.weights, theirs.weights)
    assert torch.equal(ours.present, theirs.present)


def test_ties_are_named_only_between_classes_of_exactly_equal_weight():
    mix = LabelMix(
        torch.tensor([[4, 1, 2], [4, 1, 2], [3, 3, 0]]),
        torch.tensor([[0.25, 0.5, 0.25], [0.5, 0.25, 0.25], [0.25, 0.25, 0.5]]),
    )
    order = mix.order()
    assert order.labels.tolist() == [[1, 2, 4], [4, 1, 2], [0, 3, 0]]
    assert order.tied.tolist() == [[False, False, True], [False, False, True], [False, True, False]]
    assert order.present.tolist() == [[True] * 3, [True] * 3, [True, True, False]]


def test_absent_entries_repeat_the_first_label_so_that_gathering_is_safe():
    order = LabelMix(torch.tensor([[5, 2]]), torch.tensor([[1.0, 0.0]])).order()
    assert order.labels.tolist() == [[5, 5]]
    assert order.present.tolist() == [[True, False]]


def test_pair_and_unmixed_and_select():
    mix = LabelMix.pair(torch.tensor([0, 1]), torch.tensor([2, 1]), torch.tensor([0.25, 0.5]))
    assert mix.canonical().labels.tolist() == [[2, 0], [1, 1]]
    assert mix.canonical().weights.tolist() == [[0.75, 0.25], [1.0, 0.0]]
    assert mix.select(torch.tensor([False, True])).labels.tolist() == [[1, 1]]
    assert LabelMix.unmixed(torch.tensor([3])).dense(4).tolist() == [[0, 0, 0, 1]]


@pytest.mark.parametrize(
    ("labels", "weights", "message"),
    [
        (torch.tensor([0]), torch.ones(1), r"label_mix.labels: expected int64 \(batch, k\).*got int64 \(1,\)"),
        (torch.zeros(1, 1), torch.ones(1, 1), r"label_mix.labels: .*got float32 \(1, 1\)"),
        (
            torch.zeros(2, 2, dtype=torch.int64),
            torch.ones(2, 1),
            r"label_mix.weights: .*\(2, 2\), got float32 \(2, 1\)",
        ),
        (
            torch.zeros(1, 1, dtype=torch.int64),
            torch.ones(1, 1, device="meta"),
            "expected the labels' device cpu, got meta",
        ),
    ],
)
def test_wrong_shapes_are_named(labels, weights, message):
    with pytest.raises(InputError, match=message):
        LabelMix(labels, weights).check_shape()


@pytest.mark.parametrize(
    ("labels", "weights", "message"),
    [
        ([[0, 4]], [[0.5, 0.5]], r"label_mix.labels: expected classes 0 \.\.\. 3, got 4"),
        ([[-1, 2]], [[0.5, 0.5]], r"label_mix.labels: expected classes 0 \.\.\. 3, got -1"),
        ([[0, 1]], [[1.5, -0.5]], "label_mix.weights: expected numbers >= 0, got -0.5"),
        ([[0, 1]], [[float("nan"), 0.5]], "label_mix.weights: expected numbers >= 0, got nan"),
        ([[0, 1]], [[0.5, 0.25]], "label_mix.weights: expected rows that sum to 1, got a row sum of 0.75"),
    ],
)
def test_wrong_values_are_named(labels, weights, message):
    with pytest.raises(InputError, match=message):
        LabelMix(torch.tensor(labels), torch.tensor(weights)).check_values(4)
