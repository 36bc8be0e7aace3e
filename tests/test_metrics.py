import pytest
import torch
from hypothesis import given

from ida_lightning import InputError, LabelMix, moved_mass, violated_rows
from tests.isotonic.test_isotonic import problems


@given(problems())
def test_violated_rows_are_those_with_a_reversed_pair(problem):
    values, mix = problem
    hard = mix.dense(values.shape[1])
    for row, weights, violated in zip(values, hard, violated_rows(values, mix), strict=True):
        pairs = [(u, v) for u in range(len(row)) for v in range(len(row)) if weights[u] > weights[v] + 1e-12]
        assert bool(violated) == any(row[u] < row[v] for u, v in pairs)


def test_moved_mass_is_total_variation():
    before = torch.tensor([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]])
    after = torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.3, 0.2]])
    torch.testing.assert_close(moved_mass(before, after), torch.tensor([0.0, 0.3]))


def test_equal_values_are_no_violation():
    mix = LabelMix.pair(torch.tensor([0]), torch.tensor([1]), 0.7)
    assert not violated_rows(torch.full((1, 4), 0.25), mix).any()


def test_label_mix_of_another_batch_is_named():
    with pytest.raises(InputError, match=r"values: .*the batch of 3 of label_mix, got float32 \(6, 10\)"):
        violated_rows(torch.zeros(6, 10), LabelMix.unmixed(torch.arange(3)))
