"""Calibration against torchmetrics, and temperature scaling against SciPy's optimiser."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from torch.nn import functional as F
from torchmetrics.functional.classification import multiclass_calibration_error

from ida_lightning import InputError, expected_calibration_error, fit_temperature
from tests.helpers.devices import DEVICES, never_waiting


@st.composite
def predictions(draw):
    """Logits that know something about the labels, more or less sure of it; float32 or float64."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows, classes = draw(st.integers(1, 60)), draw(st.integers(2, 12))
    labels = rng.integers(0, classes, rows)
    logits = rng.normal(size=(rows, classes)) + draw(st.sampled_from([0, 1, 3])) * np.eye(classes)[labels]
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    return torch.tensor(draw(st.sampled_from([0.1, 1, 20, 1000])) * logits, dtype=dtype), torch.from_numpy(labels)


def nll(logits, labels, temperature):
    return float(F.cross_entropy(logits.double() / temperature, labels))


def has_minimum(logits, labels):
    """A minimum inside the range: a row is wrong, and the logits say something."""
    right = logits.argmax(1) == labels
    says = (logits.gather(1, labels[:, None])[:, 0] - logits.mean(1)).double().mean()
    return not right.all() and float(says) > 1e-6 * float(logits.double().std())


@given(predictions(), st.sampled_from([1, 2, 10, 15]))
def test_calibration_error_is_that_of_torchmetrics(prediction, bins):
    logits, labels = prediction
    # A confidence of exactly 1 has a bin of its own there; no softmax over this many reaches it after mixing with even.
    probs = 0.999 * logits.float().softmax(1) + 0.001 / logits.shape[1]
    theirs = multiclass_calibration_error(probs, labels, logits.shape[1], n_bins=bins, norm="l1")
    torch.testing.assert_close(expected_calibration_error(probs, labels, bins), theirs, atol=1e-6, rtol=1e-5)


def test_calibration_error_of_sure_rows_and_of_none():
    probs = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.96, 0.04]])
    labels = torch.tensor([0, 1, 0])
    assert float(expected_calibration_error(probs, labels)) == pytest.approx((2.96 - 2) / 3, abs=1e-6)
    assert expected_calibration_error(probs[:0], labels[:0]).isnan()


def test_a_bin_holds_its_lower_bound():
    # In one bin the gaps of the two rows, 0.5 and -0.75, offset each other.
    probs = torch.tensor([[0.5, 0.5], [0.75, 0.25]])
    assert float(expected_calibration_error(probs, torch.tensor([0, 1]), bins=2)) == 0.125


@pytest.mark.parametrize("device", DEVICES)
def test_calibration_error_does_not_wait(device):
    probs, labels = torch.rand(8, 5, device=device).softmax(1), torch.zeros(8, dtype=torch.int64, device=device)
    with never_waiting(device):
        error = expected_calibration_error(probs, labels)
    assert error.device == probs.device


@given(predictions())
def test_temperature_is_that_of_a_general_optimiser(prediction):
    logits, labels = prediction
    found = fit_temperature(logits, labels)
    assert nll(logits, labels, found) <= nll(logits, labels, 1) + 1e-9
    if has_minimum(logits, labels):
        scale = float(logits.double().std())
        theirs = minimize_scalar(
            lambda x: nll(logits, labels, scale * math.exp(x)),
            bounds=(-14, 14),
            options={"xatol": 1e-9},
            method="bounded",
        )
        assert nll(logits, labels, found) <= theirs.fun + 1e-12
        # The minimum is flat: the optimiser cannot see the temperature better than the square root of rounding.
        if theirs.x < 5:
            assert found == pytest.approx(scale * math.exp(theirs.x), rel=1e-3)


@given(predictions())
def test_at_the_temperature_the_slope_is_zero(prediction):
    logits, labels = prediction
    if not has_minimum(logits, labels):
        return
    inverse = torch.tensor(1 / fit_temperature(logits, labels), dtype=torch.float64, requires_grad=True)
    F.cross_entropy(logits.double() * inverse, labels).backward()
    assert abs(float(inverse.grad)) <= 1e-9 * float(logits.double().std())


@given(predictions(), st.sampled_from([0.25, 3.0, 1000.0]), st.integers(0, 2**32 - 1))
def test_temperature_scales_with_the_logits(prediction, factor, seed):
    logits, labels = prediction[0].double(), prediction[1]
    found = fit_temperature(logits, labels)
    tolerance = 1e-6 if has_minimum(logits, labels) else 1e-3
    assert fit_temperature(factor * logits, labels) == pytest.approx(factor * found, rel=tolerance)
    constants = torch.randn(len(logits), 1, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    shifted = logits + float(logits.abs().amax()) * constants
    assert fit_temperature(shifted, labels) == pytest.approx(found, rel=tolerance)
    assert fit_temperature(logits, labels) == found, "deterministic"


def test_temperature_of_a_calibrated_network_is_one():
    logits = 2 * torch.randn(20_000, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    labels = torch.multinomial(logits.softmax(1), 1, generator=torch.Generator().manual_seed(1))[:, 0]
    assert fit_temperature(logits, labels) == pytest.approx(1, abs=0.02)
    raw = expected_calibration_error((5 * logits).softmax(1), labels)
    scaled = expected_calibration_error((5 * logits / fit_temperature(5 * logits, labels)).softmax(1), labels)
    assert float(scaled) < 0.02 < float(raw)


def test_saturated_logits():
    # Sure and wrong once in five: softmax is 0 or 1 even in float64.
    logits = torch.tensor([[1e4, 0.0]]).expand(5, 2)
    temperature = fit_temperature(logits, torch.tensor([0, 0, 0, 0, 1]))
    assert temperature == pytest.approx(1e4 / math.log(4), rel=1e-9)


@pytest.mark.parametrize(("gap", "labels", "expected"), [(2.0, [0, 0], 2e-6), (2.0, [1, 1], 2e6), (0.0, [0, 1], 1.0)])
def test_without_a_best_temperature_it_is_the_end_of_the_range(gap, labels, expected):
    logits = torch.tensor([[gap, 0.0]]).expand(2, 2)
    assert fit_temperature(logits, torch.tensor(labels)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("logits", "labels", "message"),
    [
        (torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64), r"logits: expected at least one row .*\(0, 3\)"),
        (torch.tensor([[0.0, torch.inf]]), torch.tensor([0]), "logits: expected finite numbers"),
        (torch.zeros(2, 3), torch.tensor([0, 3]), r"labels: expected classes 0 \.\.\. 2, got 3"),
        (torch.zeros(2, 3), torch.tensor([-1, 0]), r"labels: expected classes 0 \.\.\. 2, got -1"),
        (torch.zeros(2, 3), torch.tensor([0]), r"labels: expected int64 \(2,\), got int64 \(1,\)"),
        (torch.zeros(2, 3), torch.tensor([0.0, 1.0]), r"labels: expected int64 \(2,\), got float32 \(2,\)"),
        (
            torch.zeros(2),
            torch.tensor([0, 1]),
            r"logits: expected floating point \(batch, classes\), got float32 \(2,",
        ),
    ],
)
def test_what_cannot_be_fitted_is_named(logits, labels, message):
    with pytest.raises(InputError, match=message):
        fit_temperature(logits, labels)


def test_bins_are_counted_from_one():
    with pytest.raises(InputError, match="bins: expected at least 1, got 0"):
        expected_calibration_error(torch.ones(1, 1), torch.tensor([0]), bins=0)
