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


def test_weights_that_differ_by_rounding_alone_are_a_tie():
    tenths = torch.tensor([[0.1, 0.3, 0.4, 0.2]], dtype=torch.float64)
    assert float(tenths[0, 0] + tenths[0, 3]) > float(tenths[0, 1]), "in floating point"
    for weights in (tenths, tenths.float()):
        order = LabelMix(torch.tensor([[2, 3, 5, 2]]), weights).order()
        assert order.tied.tolist() == [[False, False, True, False]]
        heavier = weights + torch.tensor([[0, 0, 0, 1e-6]])
        assert not LabelMix(torch.tensor([[2, 3, 5, 2]]), heavier).order().tied.any()


def test_ties_are_named_only_between_classes_of_equal_weight():
    mix = LabelMix(
        torch.tensor([[4, 1, 2], [4, 1, 2], [3, 3, 0]]),
        torch.tensor([[0.25, 0.5, 0.25], [0.5, 0.25, 0.25], [0.25, 0.25, 0.5]]),
    )
    order = mix.order()
    assert order.labels.tolist() == [[1, 2, 4], [4, 1, 2], [0, 3, 0]]
    assert order.tied.tolist() == [[False, False, True], [False, False, True], [False, True, False]]
    assert order.present.tolist() == [[True] * 3, [True] * 3, [True, True, False]]


def test_absent_entries_repeat_the_first_label():
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


@given(mixes())
def test_from_dense_has_the_same_order(mix):
    dense = mix.dense(CLASSES)
    back = LabelMix.from_dense(dense)
    ours, theirs = back.order(), LabelMix.from_dense(back.dense(CLASSES)).order()
    assert torch.equal(ours.labels[:, 0], theirs.labels[:, 0])
    for row, again in zip(dense, back.dense(CLASSES), strict=True):
        for u in range(CLASSES):
            for v in range(CLASSES):
                assert bool(row[u] > row[v]) == bool(again[u] > again[v])


def test_from_dense_sees_through_label_smoothing():
    hard = LabelMix.pair(torch.tensor([1, 4]), torch.tensor([3, 4]), 0.75).dense(CLASSES)
    back = LabelMix.from_dense(0.9 * hard + 0.1 / CLASSES)
    torch.testing.assert_close(back.dense(CLASSES), hard)
    assert back.order().present.tolist() == [[True, True], [True, False]]


@pytest.mark.parametrize("classes", [2, 3, 4])
def test_from_dense_keeps_shares_of_rows_that_name_every_class(classes):
    shares = torch.arange(1.0, classes + 1)[None] / sum(range(classes + 1))
    torch.testing.assert_close(LabelMix.from_dense(shares).dense(classes), shares)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("classes", [2, 3, 10, 1000])
def test_from_dense_takes_the_smoothing_off_that_it_is_told(classes, dtype):
    lam = torch.tensor([0.3, 0.7, 1.0, 0.25], dtype=dtype)
    hard = torch.zeros(4, classes, dtype=dtype)
    hard[:, 0], hard[:, 1] = lam, 1 - lam
    smooth = 0.9 * hard + 0.1 / classes
    back = LabelMix.from_dense(smooth, smoothing=0.1)
    assert back.order().present.sum(1).tolist() == [2, 2, 1, 2], "nothing is left of what every class was given"
    torch.testing.assert_close(back.dense(classes), hard, atol=1e-5, rtol=0)
    tied = LabelMix.from_dense(torch.tensor([[0.5, 0.25, 0.25]]), smoothing=0.0)
    assert tied.weights.tolist() == [[0.5, 0.25, 0.25]]
    with pytest.raises(InputError, match="smoothing: expected a number from 0 to below 1, got 1.0"):
        LabelMix.from_dense(smooth, smoothing=1.0)


def test_from_dense_takes_a_width_and_rows_without_an_order():
    hard = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])
    assert LabelMix.from_dense(hard, k=3).labels.shape == (2, 3)
    flat = LabelMix.from_dense(torch.full((1, 4), 0.25)).order()
    assert flat.present.all()
    assert flat.tied.tolist() == [[False, True, True, True]]


def test_from_taxonomy_ranks_class_siblings_and_rest():
    superclass = torch.tensor([0, 1, 0, 0, 1, 2])
    mix = LabelMix.from_taxonomy(torch.tensor([2, 1, 5]), superclass)
    mix.check_values(6)
    dense = mix.dense(6)
    assert dense.argmax(1).tolist() == [2, 1, 5]
    assert (dense > 0).tolist() == [(superclass == s).tolist() for s in (0, 1, 2)]
    assert dense[0, 0] == dense[0, 3] < dense[0, 2]
    assert dense[1, 4] < dense[1, 1]


def test_dense_and_taxonomy_inputs_that_do_not_fit_are_named():
    with pytest.raises(InputError, match=r"hard: expected floating point \(batch, classes\), got int64 \(2,\)"):
        LabelMix.from_dense(torch.tensor([1, 2]))
    with pytest.raises(InputError, match=r"k: expected a whole number from 1 to 3, got 4"):
        LabelMix.from_dense(torch.full((2, 3), 1 / 3), k=4)
    with pytest.raises(InputError, match=r"superclass: expected int64 \(classes,\), got float32 \(3,\)"):
        LabelMix.from_taxonomy(torch.tensor([1]), torch.rand(3))
