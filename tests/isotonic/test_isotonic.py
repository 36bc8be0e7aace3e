"""The one door and its solvers against SciPy, a constrained optimiser and the properties of a projection."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import isotonic_regression, minimize

import ida_lightning.isotonic.threshold as threshold_module
from ida_lightning import InputError, LabelMix, isotonic_soft_labels, violated_rows
from tests.conftest import DEVICES, never_waiting


def reference_scipy(row, hard):
    """Sort by (rank, then value descending), run SciPy's PAV, undo the sort."""
    sequence = sorted(range(len(row)), key=lambda c: (-hard[c], -row[c]))
    solved = np.empty(len(row))
    solved[sequence] = isotonic_regression(row[sequence], increasing=False).x
    return solved


def reference_optimiser(row, hard):
    """The problem as stated, every ordered pair a constraint, by a general solver that knows nothing of sorting."""
    pairs = [(u, v) for u in range(len(row)) for v in range(len(row)) if hard[u] > hard[v]]
    matrix = np.zeros((len(pairs), len(row)))
    for i, (u, v) in enumerate(pairs):
        matrix[i, u], matrix[i, v] = 1, -1
    constraint = {"type": "ineq", "fun": lambda m: matrix @ m, "jac": lambda m: matrix}
    start = np.full(len(row), row.mean())
    found = minimize(
        lambda m: ((m - row) ** 2).sum(),
        start,
        jac=lambda m: 2 * (m - row),
        constraints=[constraint],
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    assert found.success, found.message
    return found.x


@st.composite
def problems(draw, max_classes=40, max_k=4):
    """Rows of different sharpness with a mix of up to ``max_k`` classes; repeats and exact ties are common."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    classes, k, rows = draw(st.integers(1, max_classes)), draw(st.integers(1, max_k)), draw(st.integers(1, 4))
    values = rng.dirichlet(np.full(classes, draw(st.sampled_from([0.05, 0.3, 1.0, 20.0]))), rows)
    if draw(st.booleans()):  # exact ties among the values too
        values = np.round(values, 2)
    shares = rng.choice([0, 1, 1, 2, 3], (rows, k)).astype(float)
    shares[:, 0] += shares.sum(1) == 0
    mix = LabelMix(
        torch.tensor(rng.integers(0, classes, (rows, k))), torch.tensor(shares / shares.sum(1, keepdims=True))
    )
    return torch.tensor(values), mix


def random_rows(rows, classes, generator=0, dtype=torch.float32):
    logits = torch.randn(rows, classes, generator=torch.Generator().manual_seed(generator), dtype=torch.float64)
    rng = np.random.default_rng(generator)
    mix = LabelMix.pair(
        torch.tensor(rng.integers(0, classes, rows)),
        torch.tensor(rng.integers(0, classes, rows)),
        torch.tensor(rng.random(rows)),
    )
    return (3 * logits).softmax(1).to(dtype), mix


@given(problems())
@settings(max_examples=300)
def test_equals_scipy_on_the_sorted_row(problem):
    values, mix = problem
    solved = isotonic_soft_labels(values, mix, solver="threshold")
    hard = mix.dense(values.shape[1]).numpy()
    expected = np.stack([reference_scipy(row, h) for row, h in zip(values.numpy(), hard, strict=True)])
    np.testing.assert_allclose(solved.numpy(), expected, atol=1e-12)


@given(problems(max_classes=7, max_k=3))
@settings(max_examples=40)
def test_is_the_nearest_ordered_row(problem):
    values, mix = problem
    solved = isotonic_soft_labels(values, mix)
    for row, hard, found in zip(values.numpy(), mix.dense(values.shape[1]).numpy(), solved.numpy(), strict=True):
        expected = reference_optimiser(row, hard)
        assert ((found - row) ** 2).sum() <= ((expected - row) ** 2).sum() + 1e-9
        np.testing.assert_allclose(found, expected, atol=1e-4)


@given(problems(), st.sampled_from([torch.float32, torch.float64]))
def test_result_is_ordered_exactly_and_a_second_time_changes_nothing(problem, dtype):
    values, mix = problem
    once = isotonic_soft_labels(values.to(dtype), mix)
    assert not violated_rows(once, mix).any()
    assert torch.equal(isotonic_soft_labels(once, mix), once)
    torch.testing.assert_close(once.sum(1), values.to(dtype).sum(1))


@given(problems(), st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))
def test_ordered_rows_come_back_bit_for_bit(problem, dtype):
    values, mix = problem
    values = values.to(dtype)
    right = ~violated_rows(values, mix)
    assert torch.equal(isotonic_soft_labels(values, mix)[right], values[right])


@given(problems(), st.integers(0, 2**32 - 1))
def test_commutes_with_renaming_classes_shifting_and_scaling(problem, seed):
    values, mix = problem
    permutation = torch.tensor(np.random.default_rng(seed).permutation(values.shape[1]))
    solved = isotonic_soft_labels(values, mix)
    renamed = torch.empty_like(values)
    renamed[:, permutation] = values
    again = isotonic_soft_labels(renamed, LabelMix(permutation[mix.labels], mix.weights))
    torch.testing.assert_close(again[:, permutation], solved)
    torch.testing.assert_close(isotonic_soft_labels(3 * values + 2, mix), 3 * solved + 2)


@given(problems(), st.integers(0, 2**32 - 1))
def test_brings_rows_together_never_apart(problem, seed):
    values, mix = problem
    other = values + torch.tensor(np.random.default_rng(seed).normal(0, 0.1, values.shape))
    before = (values - other).norm(dim=1)
    after = (isotonic_soft_labels(values, mix) - isotonic_soft_labels(other, mix)).norm(dim=1)
    assert (after <= before + 1e-9).all()


def test_rows_of_one_class_are_that_class_above_the_rest():
    # Wrong in the released code: a same-class pair has no second class that could be lifted above the others.
    row = torch.tensor([[0.30, 0.05, 0.40, 0.15, 0.10]])
    for mix in (
        LabelMix.pair(torch.tensor([2]), torch.tensor([2]), 0.7),
        LabelMix.pair(torch.tensor([2]), torch.tensor([4]), 1.0),
        LabelMix.unmixed(torch.tensor([2])),
    ):
        assert torch.equal(isotonic_soft_labels(row, mix), row)
    pooled = isotonic_soft_labels(row, LabelMix.unmixed(torch.tensor([1])))
    torch.testing.assert_close(pooled, torch.tensor([[0.25, 0.25, 0.25, 0.15, 0.10]]))


def test_classes_of_equal_weight_are_not_ordered_among_themselves():
    row = torch.tensor([[0.1, 0.6, 0.3]])
    for a, b in ((0, 1), (1, 0)):
        tied = isotonic_soft_labels(row, LabelMix.pair(torch.tensor([a]), torch.tensor([b]), 0.5))
        torch.testing.assert_close(tied, torch.tensor([[0.2, 0.6, 0.2]]))
    ranked = isotonic_soft_labels(row, LabelMix.pair(torch.tensor([0]), torch.tensor([1]), 0.6))
    torch.testing.assert_close(ranked, torch.tensor([[0.35, 0.35, 0.3]]))


@pytest.mark.parametrize("classes", [3, 19, 100, 5000])
def test_blocks_larger_than_the_top_are_still_exact(classes, monkeypatch):
    # Nearly flat rows with a low second class pool almost everything: the certificate must fail and be acted upon.
    values = torch.full((4, classes), 1.0, dtype=torch.float64)
    values += torch.linspace(0, 1e-3, classes, dtype=torch.float64)
    values[:, 0] = 0
    mix = LabelMix.pair(torch.tensor([1] * 4), torch.tensor([0] * 4), 0.9)
    expected = reference_scipy(values[0].numpy(), mix.dense(classes)[0].numpy())
    np.testing.assert_allclose(isotonic_soft_labels(values, mix)[0].numpy(), expected, atol=1e-12)
    if classes > 18:
        monkeypatch.setattr(threshold_module, "_TOP", classes)
        np.testing.assert_allclose(isotonic_soft_labels(values, mix)[0].numpy(), expected, atol=1e-12)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 4e-3), (torch.float16, 5e-4)])
def test_other_dtypes_agree_with_float64(dtype, tolerance):
    exact, mix = random_rows(64, 50, dtype=torch.float64)
    rough = isotonic_soft_labels(exact.to(dtype), mix)
    assert rough.dtype == dtype
    assert not violated_rows(rough, mix).any()
    torch.testing.assert_close(rough.double(), isotonic_soft_labels(exact, mix), atol=tolerance, rtol=1e-2)


def test_half_types_are_computed_in_float32():
    values, mix = random_rows(32, 200, dtype=torch.bfloat16)
    expected = isotonic_soft_labels(values.float(), mix).to(torch.bfloat16)
    assert torch.equal(isotonic_soft_labels(values, mix), expected)


def test_gradient_is_the_block_average():
    values = torch.tensor([[0.1, 0.2, 0.6, 0.1]], dtype=torch.float64, requires_grad=True)
    mix = LabelMix.pair(torch.tensor([0]), torch.tensor([1]), 0.7)
    jacobian = torch.autograd.functional.jacobian(lambda v: isotonic_soft_labels(v, mix)[0], values)[:, 0]
    third = 1 / 3
    expected = torch.tensor([[third, third, third, 0]] * 3 + [[0, 0, 0, 1]], dtype=torch.float64)
    torch.testing.assert_close(jacobian, expected)


def test_one_graph_under_compile():
    values, mix = random_rows(8, 50)
    compiled = torch.compile(lambda v, m: isotonic_soft_labels(v, m), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(values, mix), isotonic_soft_labels(values, mix))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("classes", [5, 100, 1000])
def test_accelerator_agrees_with_cpu_and_is_never_waited_for(device, classes):
    values, mix = random_rows(64, classes)
    there = values.to(device), LabelMix(*(field.to(device) for field in mix))
    with never_waiting(device):
        found = isotonic_soft_labels(*there)
        violated = violated_rows(found, there[1])
    assert not violated.any()
    torch.testing.assert_close(found.cpu(), isotonic_soft_labels(values, mix))


def test_does_not_touch_its_inputs():
    values, mix = random_rows(8, 30)
    before = values.clone(), mix.labels.clone(), mix.weights.clone()
    isotonic_soft_labels(values, mix)
    assert all(torch.equal(a, b) for a, b in zip((values, *mix), before, strict=True))


def test_empty_batch():
    empty = LabelMix(torch.zeros(0, 2, dtype=torch.int64), torch.zeros(0, 2))
    assert isotonic_soft_labels(torch.zeros(0, 5), empty).shape == (0, 5)


MIX = LabelMix.pair(torch.tensor([0, 1]), torch.tensor([1, 2]), 0.7)


@pytest.mark.parametrize(
    ("values", "mix", "message"),
    [
        (torch.rand(3, 4), MIX, r"soft_labels: .*the batch of 2 of label_mix, got float32 \(3, 4\)"),
        (torch.rand(2), MIX, r"soft_labels: .*got float32 \(2,\)"),
        (torch.ones(2, 4, dtype=torch.int64), MIX, r"soft_labels: .*got int64 \(2, 4\)"),
        (torch.rand(2, 2), MIX, r"label_mix.labels: expected classes 0 \.\.\. 1, got 2"),
        (torch.rand(2, 4, device="meta"), MIX, "label_mix: expected the device of soft_labels, meta, got cpu"),
        (
            torch.tensor([[0.5, float("nan"), 0.5], [0.1, 0.1, 0.8]]),
            MIX,
            "soft_labels: .*NaN or infinity in 1 of 2 rows",
        ),
        (torch.tensor([[0.5, float("inf"), 0.5], [-float("inf"), 0.1, 0.8]]), MIX, "infinity in 2 of 2 rows"),
    ],
)
def test_what_does_not_fit_is_named(values, mix, message):
    with pytest.raises(InputError, match=message):
        isotonic_soft_labels(values, mix)


def test_unknown_solver_is_named():
    with pytest.raises(InputError, match="solver: expected one of auto, threshold, got 'magic'"):
        isotonic_soft_labels(torch.rand(2, 4), MIX, solver="magic")
