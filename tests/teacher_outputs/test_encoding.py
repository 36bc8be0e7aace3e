"""Logits that were stored come back: bit for bit, nearly, or the largest few with the rest's mass."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ida_lightning import InputError
from ida_lightning.teacher_outputs import Encoding
from tests.helpers.problems import logits_and_mix


def there_and_back(encoding, logits, mix, exact="<f4"):
    """Through the bytes of a record, as a file has them."""
    rows, classes = logits.shape
    record = np.zeros((), np.dtype(encoding.fields(rows, classes, exact)))
    for name, value in encoding.encode(logits, mix).items():
        record[name] = value
    read = np.frombuffer(record.tobytes(), record.dtype)[0]
    return encoding.decode(read, rows, classes, mix)


@given(st.integers(0, 1000), st.integers(1, 6), st.integers(2, 40), st.sampled_from([torch.float32, torch.float64]))
def test_exact_is_bit_for_bit(seed, batch, classes, dtype):
    logits, mix = logits_and_mix(batch, classes, seed, dtype=dtype)
    answers = there_and_back(Encoding(), logits, mix, "<f4" if dtype == torch.float32 else "<f8")
    assert torch.equal(answers.logits, logits)
    assert answers.logits.dtype == dtype
    assert answers.kept_from is None


@given(st.integers(0, 1000), st.integers(2, 40), st.floats(0.1, 30))
def test_half_is_near_where_it_matters(seed, classes, scale):
    logits, mix = logits_and_mix(4, classes, seed, scale)
    answers = there_and_back(Encoding("half"), logits, mix)
    below = logits.amax(1, keepdim=True) - logits
    assert ((answers.logits - logits).abs() <= 1e-6 * logits.abs() + below * 2**-11 + 1e-6).all()
    assert torch.equal(answers.logits.argmax(1), logits.argmax(1))


@given(st.integers(0, 1000), st.integers(3, 40), st.integers(2, 12), st.sampled_from([0.5, 1.0, 4.5]))
def test_top_k_keeps_mass_and_the_classes_of_the_mix(seed, classes, top_k, temperature):
    logits, mix = logits_and_mix(5, classes, seed)
    answers = there_and_back(Encoding(top_k=top_k, temperature=temperature), logits, mix)
    kept = (answers.logits == logits).sum(1)
    assert (kept >= min(top_k, classes)).all()
    in_mix = torch.zeros_like(logits, dtype=torch.bool).scatter(1, mix.labels, True)
    assert torch.equal(answers.logits[in_mix], logits[in_mix])
    before, after = (logits / temperature).softmax(1), (answers.logits / temperature).softmax(1)
    same = answers.logits == logits
    assert torch.allclose(before[same], after[same], rtol=1e-4, atol=1e-6), "kept entries have their own share"
    for row in range(5):
        rest = logits[row][~in_mix[row]].sort(descending=True).values
        count = min(top_k, classes) - int(in_mix[row].sum())
        if min(top_k, classes) == classes:
            assert answers.kept_from[row] == -math.inf
        elif count:
            assert answers.kept_from[row] == rest[count - 1], "the largest of the rest are kept"
        else:
            assert answers.kept_from[row] == math.inf


def test_half_of_the_largest_few():
    logits, mix = logits_and_mix(4, 30, seed=1)
    answers = there_and_back(Encoding("half", 6), logits, mix)
    top = logits.topk(3).indices
    assert (answers.logits.gather(1, top) - logits.gather(1, top)).abs().max() < 0.01


@pytest.mark.parametrize("precision", ["exact", "half"])
@pytest.mark.parametrize("top_k", [None, 4])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_row_without_numbers_stays_one(precision, top_k, value):
    logits, mix = logits_and_mix(3, 9, seed=2)
    logits[1, 5] = value
    answers = there_and_back(Encoding(precision, top_k), logits, mix)
    assert answers.logits.isfinite().all(1).tolist() == [True, False, True]


def test_sizes_are_those_of_the_types():
    def size(*args):
        return np.dtype(Encoding(*args).fields(128, 1000)).itemsize / 128

    assert (size("exact", None), size("half", None)) == (4000, 2004)
    assert size("exact", 16) == 16 * (4 + 2) + 4
    assert size("half", 16) == 16 * (2 + 2) + 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("full",), r"precision: expected one of exact, half, got 'full'"),
        (("exact", 1), r"top_k: expected .*2.*, got 1"),
        (("exact", None, 0), r"temperature: expected a .*number > 0, got 0"),
    ],
)
def test_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        Encoding(*arguments)
