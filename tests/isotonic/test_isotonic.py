"""The one door and its solvers against SciPy, a constrained optimiser and the properties of a projection."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import ida_lightning.addressing as addressing_module
import ida_lightning.isotonic.backward as backward_module
import ida_lightning.isotonic.level as level_module
import ida_lightning.isotonic.on_cpu as on_cpu_module
import ida_lightning.metrics.order as order_module
from ida_lightning import InputError, LabelMix, isotonic_soft_labels, violated_rows
from ida_lightning.isotonic import isotonic_vjp
from ida_lightning.isotonic.threshold import solve_by_sorting
from tests.helpers.devices import DEVICES, never_waiting
from tests.helpers.problems import (
    QUICK_SOLVERS,
    SOLVERS,
    exact_as,
    problems,
    random_rows,
    reference_optimiser,
    reference_scipy,
)


def brute_force(row, hard):
    """The best of all ways to cut the sorted sequence into pools that leaves it descending."""
    sequence = sorted(range(len(row)), key=lambda c: (-hard[c], -row[c]))
    best, least = None, np.inf
    for cuts in itertools.product((False, True), repeat=len(row) - 1):
        starts = [0, *(i + 1 for i, cut in enumerate(cuts) if cut), len(row)]
        found = np.empty(len(row))
        for start, end in itertools.pairwise(starts):
            found[sequence[start:end]] = row[sequence[start:end]].mean()
        if (np.diff(found[sequence]) <= 1e-15).all() and ((found - row) ** 2).sum() < least:
            best, least = found, ((found - row) ** 2).sum()
    return best


@pytest.mark.parametrize("solver", SOLVERS)
@given(problem=problems())
@settings(max_examples=60)
def test_equals_scipy_on_the_sorted_row(solver, problem):
    values, mix = problem
    solved = isotonic_soft_labels(exact_as(values, solver), mix, solver)
    hard = mix.dense(values.shape[1]).numpy()
    expected = np.stack([reference_scipy(row, h) for row, h in zip(values.numpy(), hard, strict=True)])
    np.testing.assert_allclose(solved.numpy(), expected, atol=1e-6 if solver == "triton" else 1e-12)


@given(problems(max_classes=200))
@settings(max_examples=300)
def test_threshold_equals_scipy_on_many_rows(problem):
    values, mix = problem
    hard = mix.dense(values.shape[1]).numpy()
    expected = np.stack([reference_scipy(row, h) for row, h in zip(values.numpy(), hard, strict=True)])
    np.testing.assert_allclose(isotonic_soft_labels(values, mix, "threshold").numpy(), expected, atol=1e-12)


@given(problems(max_classes=60))
@settings(max_examples=100)
def test_what_accelerators_do_is_what_the_cpu_does(problem):
    values, mix = problem
    torch.testing.assert_close(
        solve_by_sorting(values, mix), on_cpu_module.solve_on_cpu(values, mix), atol=1e-12, rtol=1e-12
    )


@given(problems(max_classes=7, max_k=3))
@settings(max_examples=40)
def test_is_the_nearest_ordered_row(problem):
    values, mix = problem
    solved = isotonic_soft_labels(values, mix)
    for row, hard, found in zip(values.numpy(), mix.dense(values.shape[1]).numpy(), solved.numpy(), strict=True):
        expected = reference_optimiser(row, hard)
        assert ((found - row) ** 2).sum() <= ((expected - row) ** 2).sum() + 1e-9
        np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize("solver", SOLVERS)
@given(problem=problems(max_classes=5, max_k=3))
@settings(max_examples=40)
def test_equals_brute_force_over_all_poolings(solver, problem):
    values, mix = problem
    solved = isotonic_soft_labels(exact_as(values, solver), mix, solver)
    for row, hard, found in zip(values.numpy(), mix.dense(values.shape[1]).numpy(), solved.numpy(), strict=True):
        np.testing.assert_allclose(found, brute_force(row, hard), atol=1e-6 if solver == "triton" else 1e-12)


@pytest.mark.parametrize("solver", SOLVERS)
@given(problem=problems())
@settings(max_examples=40)
def test_optimality_conditions_hold_block_by_block(solver, problem):
    # Along the sequence, no prefix may have been lowered in sum, and every block keeps its sum: with the order, that
    # is the whole certificate of the least-squares solution (Karush-Kuhn-Tucker), and it needs no solver.
    values, mix = problem
    solved = isotonic_soft_labels(exact_as(values, solver), mix, solver).double()
    for row, hard, found in zip(values.numpy(), mix.dense(values.shape[1]).numpy(), solved.numpy(), strict=True):
        sequence = sorted(range(len(row)), key=lambda c: (-hard[c], -row[c]))
        raised = np.cumsum(found[sequence] - row[sequence])
        assert (raised >= -1e-6).all()
        ends = np.append(found[sequence][:-1] > found[sequence][1:] + 1e-6, True)
        np.testing.assert_allclose(raised[ends], 0, atol=2e-6)


@pytest.mark.parametrize("solver", QUICK_SOLVERS)
@given(problem=problems(), dtype=st.sampled_from([torch.float32, torch.float64]))
@settings(max_examples=40)
def test_result_is_ordered_bounded_and_idempotent(solver, problem, dtype):
    values, mix = problem
    values = exact_as(values.to(dtype), solver)
    once = isotonic_soft_labels(values, mix, solver)
    assert not violated_rows(once, mix).any()
    assert torch.equal(isotonic_soft_labels(once, mix, solver), once)
    torch.testing.assert_close(once.sum(1), values.sum(1))
    slack = 1e-6 * values.abs().amax(1)
    assert (once.amax(1) <= values.amax(1) + slack).all()
    assert (once.amin(1) >= values.amin(1) - slack).all()


@pytest.mark.parametrize("solver", SOLVERS)
@given(problem=problems(), dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]))
@settings(max_examples=40)
def test_ordered_rows_come_back_bit_for_bit(solver, problem, dtype):
    values, mix = problem
    values = exact_as(values.to(dtype), solver)
    right = ~violated_rows(values, mix)
    assert torch.equal(isotonic_soft_labels(values, mix, solver)[right], values[right])


@pytest.mark.parametrize("solver", QUICK_SOLVERS)
@given(problem=problems(), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=40)
def test_commutes_with_renaming_classes_shifting_and_scaling(solver, problem, seed):
    values, mix = problem
    values = exact_as(values, solver)
    permutation = torch.tensor(np.random.default_rng(seed).permutation(values.shape[1]))
    solved = isotonic_soft_labels(values, mix, solver)
    renamed = torch.empty_like(values)
    renamed[:, permutation] = values
    again = isotonic_soft_labels(renamed, LabelMix(permutation[mix.labels], mix.weights), solver)
    close = {"atol": 1e-6, "rtol": 1e-5}
    torch.testing.assert_close(again[:, permutation], solved, **close)
    torch.testing.assert_close(isotonic_soft_labels(3 * values + 2, mix, solver), 3 * solved + 2, **close)


@pytest.mark.parametrize("solver", QUICK_SOLVERS)
@given(problem=problems(), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=40)
def test_is_non_expansive_and_no_ordered_row_is_nearer(solver, problem, seed):
    values, mix = problem
    values = exact_as(values, solver)
    other = values + torch.tensor(np.random.default_rng(seed).normal(0, 0.1, values.shape)).to(values.dtype)
    solved, ordered = (isotonic_soft_labels(rows, mix, solver) for rows in (values, other))
    assert ((solved - ordered).norm(dim=1) <= (values - other).norm(dim=1) + 1e-5).all()
    assert ((values - solved).norm(dim=1) <= (values - ordered).norm(dim=1) + 1e-5).all()


ADVERSARIAL = {
    "all equal": torch.full((9,), 1 / 9, dtype=torch.float64),
    "one-hot": torch.eye(9, dtype=torch.float64)[4],
    "geometric decay": 0.5 ** torch.arange(9, dtype=torch.float64),
    "factorial decay": 1 / torch.arange(1, 10, dtype=torch.float64).cumprod(0),
    "rising": torch.arange(9, dtype=torch.float64),
    "denormal": torch.arange(9, dtype=torch.float64) * 1e-310,
    "ties everywhere": torch.tensor([0.2, 0.1, 0.2, 0.1, 0.1, 0.2, 0.0, 0.1, 0.0], dtype=torch.float64),
    "huge and tiny": torch.tensor([1e30, 1e-30, 1.0, -1e30, 0.0, 1e30, 1e-3, 5.0, -2.0], dtype=torch.float64),
}


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("name", ADVERSARIAL)
def test_adversarial_rows(solver, name):
    row = ADVERSARIAL[name]
    every_class = torch.arange(1, 10, dtype=torch.float64) / 45
    pairs = itertools.product((0, 4, 8), (0, 3, 8), (0, 0.5, 0.7))
    mixes = [LabelMix.pair(torch.tensor([a]), torch.tensor([b]), w) for a, b, w in pairs]
    mixes.append(LabelMix(torch.arange(9)[None], every_class[None]))
    mixes.append(LabelMix(torch.arange(9)[None], torch.full((1, 9), 1 / 9, dtype=torch.float64)))
    for mix in mixes:
        values = exact_as(row[None], solver)
        solved = isotonic_soft_labels(values, mix, solver)
        expected = reference_scipy(values[0].double().numpy(), mix.dense(9)[0].numpy())
        tolerance = 1e-6 if solver == "triton" else 1e-12
        np.testing.assert_allclose(solved[0].double().numpy(), expected, atol=tolerance * float(row.abs().max()))
        assert not violated_rows(solved, mix).any()


@pytest.mark.parametrize("solver", SOLVERS)
def test_one_and_two_classes_and_no_rows(solver):
    one = LabelMix.unmixed(torch.tensor([0]))
    assert torch.equal(isotonic_soft_labels(torch.tensor([[0.7]]), one, solver), torch.tensor([[0.7]]))
    two = isotonic_soft_labels(
        torch.tensor([[0.25, 0.75]]), LabelMix.pair(torch.tensor([0]), torch.tensor([1]), 0.7), solver
    )
    assert two.tolist() == [[0.5, 0.5]]
    empty = LabelMix(torch.zeros(0, 2, dtype=torch.int64), torch.zeros(0, 2))
    assert isotonic_soft_labels(torch.zeros(0, 5), empty, solver).shape == (0, 5)


@pytest.mark.parametrize("solver", SOLVERS)
def test_any_memory_layout(solver):
    values, mix = random_rows(6, 20)
    expected = isotonic_soft_labels(values, mix, solver)
    transposed = values.t().contiguous().t()
    strided = torch.zeros(6, 40)[:, ::2].copy_(values)
    for layout in (transposed, strided):
        assert not layout.is_contiguous()
        assert torch.equal(isotonic_soft_labels(layout, mix, solver), expected)
    expanded = values[:1].expand(6, -1)
    each = isotonic_soft_labels(values[:1].repeat(6, 1), mix, solver)
    assert torch.equal(isotonic_soft_labels(expanded, mix, solver), each)


@pytest.mark.parametrize("classes", [100, 600, 4096, 4097, 21841])
def test_what_is_above_a_bound_is_found_by_its_heads(classes):
    values, _ = random_rows(5, classes)
    values[:, -1], values[2] = 1.0, 0.0  # one in the tail that fills no piece, and a row with nothing to find
    rest, bound = values.numpy(), np.full(5, 1.5 / classes, dtype=np.float32)
    heads = level_module.heads_of(values)
    np.testing.assert_array_equal(heads[:, 0], rest.max(1))
    np.testing.assert_array_equal(level_module._above(rest, heads, bound), np.flatnonzero(rest > bound[:, None]))
    some = level_module._some_of_the_largest(rest, heads)
    assert some.shape[1] <= 16
    for row, found in zip(rest, some, strict=True):
        assert (np.diff(found) >= 0).all()
        assert all((row == value).sum() >= (found == value).sum() for value in found), "a value counts once"


def climbed(rest, chain, monkeypatch):
    """The level from the lowest class of the chain on, and over how many rows of classes steps went."""
    passes = 0.0
    original = torch.sub

    def counted(rows, *args, **options):
        nonlocal passes
        passes += len(rows) / len(rest)
        return original(rows, *args, **options)

    monkeypatch.setattr(level_module.torch, "sub", counted)
    level = level_module.climb(rest, np.arange(len(rest)), chain.numpy().T, chain.amin(1).numpy())
    monkeypatch.undo()
    return level, passes


def test_climb_takes_few_passes_also_in_the_worst_case(monkeypatch):
    usual, worst = [], 0.0
    for seed in range(4):
        rows = random_rows(3, 21841, generator=seed, dtype=torch.float64)[0]
        usual.append(climbed(rows, torch.zeros(3, 1, dtype=torch.float64), monkeypatch)[1])
    for ratio in (1.01, 1.1, 1.5, 2.0, 3.0, 10.0, 1e3):
        for classes in (10, 30, 60):
            row = ratio ** -torch.arange(classes, dtype=torch.float64)
            level, passes = climbed(row[None], torch.zeros(1, 1, dtype=torch.float64), monkeypatch)
            running = torch.cat((torch.zeros(1), row)).cumsum(0) / torch.arange(1, classes + 2)
            np.testing.assert_allclose(level[0], running.max())
            worst = max(worst, passes)
    assert max(usual) <= 12
    assert worst <= 20, "worst found by search; a longer one belongs into the docstring of _climb"


@given(problems(max_classes=60))
@settings(max_examples=60)
def test_climb_finds_the_level_from_any_bound(problem):
    values, mix = problem
    order = mix.order()
    rest = values.scatter(1, order.labels, -torch.inf)
    chain = torch.where(order.present, values.gather(1, order.labels), torch.inf)  # as if all of them were tied
    least = chain.amin(1).numpy()
    found = (
        level_module.climb(rest, np.arange(len(values)), chain.numpy().T, least),
        level_module._climb(rest, np.ascontiguousarray(chain.numpy().T), least),
    )
    for level in (torch.from_numpy(one)[:, None] for one in found):
        taken, needed = (rest - level).relu().sum(1), (level - chain).relu().sum(1)
        torch.testing.assert_close(taken, needed, atol=1e-12, rtol=0)


@pytest.mark.parametrize("classes", [300, 5000])
@pytest.mark.parametrize("k", [1, 2, 3, 4])
@pytest.mark.parametrize("spread", [1e-3, 3.0])
def test_long_rows_are_exact_at_any_temperature(classes, k, spread):
    logits = spread * torch.randn(6, classes, generator=torch.Generator().manual_seed(k), dtype=torch.float64)
    labels = torch.rand(6, classes, generator=torch.Generator().manual_seed(classes)).topk(k, dim=1).indices
    mix = LabelMix(labels, torch.arange(k, 0, -1.0).expand(6, k) / (k * (k + 1) / 2))
    values = logits.softmax(1)
    values[0] = values[0].sort().values  # one row climbs far, and one is in order
    values[1].scatter_(0, labels[1], 2 - torch.arange(k).double() / 8)
    expected = np.stack(
        [reference_scipy(row, hard) for row, hard in zip(values.numpy(), mix.dense(classes).numpy(), strict=True)]
    )
    np.testing.assert_allclose(isotonic_soft_labels(values, mix).numpy(), expected, atol=1e-13)
    rough = isotonic_soft_labels(values.float(), mix)
    np.testing.assert_allclose(rough.numpy(), expected, atol=4e-7 * expected.max())
    assert not violated_rows(rough, mix).any()
    assert torch.equal(isotonic_soft_labels(rough, mix), rough)
    assert torch.equal(rough[1], values[1].float())


@pytest.mark.parametrize("classes", [10, 100, 5000])
@pytest.mark.parametrize("k", [2, 3])
def test_a_row_with_nan_is_the_same_alone_and_among_others(classes, k):
    # Nobody looks where validation is off; one row must not decide what becomes of another.
    values, _ = random_rows(9, classes)
    values[4, 5] = torch.nan
    labels = torch.rand(9, classes, generator=torch.Generator().manual_seed(classes)).topk(k, dim=1).indices
    mix = LabelMix(labels, torch.full((9, k), 1 / k))
    together = isotonic_soft_labels(values, mix, "threshold", validate=False)
    for row in range(9):
        alone = isotonic_soft_labels(values[row][None], mix.select(slice(row, row + 1)), "threshold", validate=False)
        np.testing.assert_array_equal(together[row], alone[0])


@pytest.mark.parametrize("classes", [10, 1000])
def test_rows_in_order_are_not_searched(classes, monkeypatch):
    values, mix = random_rows(20, classes)
    ordered = isotonic_soft_labels(values, mix)
    monkeypatch.setattr(on_cpu_module, "lower_to_level", None)
    assert torch.equal(isotonic_soft_labels(ordered, mix), ordered)


@pytest.mark.parametrize("classes", [9, 400])
@pytest.mark.parametrize("k", [2, 3])
def test_labels_out_of_range_are_never_addressed(classes, k, monkeypatch):
    # As on an accelerator, where gathering outside ends the process's use of the device.
    values, mix = random_rows(4, classes)
    mix = LabelMix(mix.labels.repeat(1, 2)[:, :k], torch.full((4, k), 1 / k))
    wrong = LabelMix(mix.labels.clone(), mix.weights)
    wrong.labels[1, 0], wrong.labels[2, 1] = classes, -1
    with pytest.raises((RuntimeError, IndexError), match="out of bounds"):
        isotonic_soft_labels(values, wrong, "threshold", validate=False)
    monkeypatch.setattr(addressing_module, "_GATHER_CHECKS", ())
    solved = isotonic_soft_labels(values, wrong, "threshold", validate=False)
    assert solved.isnan().all(1).tolist() == [False, True, True, False]
    assert torch.equal(solved[[0, 3]], isotonic_soft_labels(values, mix)[[0, 3]])
    for module in (backward_module, order_module):
        monkeypatch.setattr(module, "check_label_mix", lambda mix, *_: mix)
    assert violated_rows(values, wrong)[1:3].all()
    assert isotonic_vjp(values, values, values, wrong).isnan().all(1).tolist() == [False, True, True, False]


def test_sums_beyond_the_type_are_refused():
    values = torch.tensor([[3e38, 3e38, -3e38, -3e38]])
    with pytest.raises(InputError, match=r"values: expected numbers whose sums are finite, up to .*, got 3e\+38"):
        isotonic_soft_labels(values, LabelMix.unmixed(torch.tensor([3])))
    assert isotonic_soft_labels(values.double(), LabelMix.unmixed(torch.tensor([3]))).isfinite().all()


@pytest.mark.parametrize("k", [1, 2, 3])
@pytest.mark.parametrize("classes", [5, 40, 600])
@pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning", "ignore:invalid value:RuntimeWarning")
def test_rows_near_the_largest_number_are_right_or_not_finite(classes, k):
    # As on an accelerator, where nobody looks: a sum that overflows must not give a wrong row that seems well.
    drawn = torch.rand(2, 40, classes, generator=torch.Generator().manual_seed(classes))
    values = (2 * drawn[0] - 1) * torch.finfo(torch.float32).max
    mix = LabelMix(drawn[1].topk(k, dim=1).indices, (torch.arange(k, 0, -1.0) / (k * (k + 1) / 2)).expand(40, k))
    expected = on_cpu_module.solve_on_cpu(values.double(), mix)
    for solved in (on_cpu_module.solve_on_cpu(values, mix), solve_by_sorting(values, mix)):
        near = (solved.double() - expected).abs().amax(1) <= 1e-5 * torch.finfo(torch.float32).max
        assert (near | ~solved.isfinite().all(1)).all()
    assert near.all(), "sorted sums are scaled"


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


def test_classes_of_equal_weight_are_not_ordered():
    row = torch.tensor([[0.1, 0.6, 0.3]])
    for a, b in ((0, 1), (1, 0)):
        tied = isotonic_soft_labels(row, LabelMix.pair(torch.tensor([a]), torch.tensor([b]), 0.5))
        torch.testing.assert_close(tied, torch.tensor([[0.2, 0.6, 0.2]]))
    ranked = isotonic_soft_labels(row, LabelMix.pair(torch.tensor([0]), torch.tensor([1]), 0.6))
    torch.testing.assert_close(ranked, torch.tensor([[0.35, 0.35, 0.3]]))


@pytest.mark.parametrize("classes", [3, 40, 100, 5000])
@pytest.mark.parametrize("many", [0, 128, 5000])
def test_nearly_flat_rows_are_exact_sorted_or_climbed(classes, many, monkeypatch):
    # A low second class pools almost everything: no few large values give the level.
    values = torch.full((4, classes), 1.0, dtype=torch.float64)
    values += torch.linspace(0, 1e-3, classes, dtype=torch.float64)
    values[:, 0] = 0
    mix = LabelMix.pair(torch.tensor([1] * 4), torch.tensor([0] * 4), 0.9)
    expected = reference_scipy(values[0].numpy(), mix.dense(classes)[0].numpy())
    monkeypatch.setattr(level_module, "_MANY", many)
    np.testing.assert_allclose(isotonic_soft_labels(values, mix)[0].numpy(), expected, atol=1e-12)


@pytest.mark.parametrize("classes", [50, 300, 5000])
@pytest.mark.parametrize("k", [1, 2, 4])
def test_sorting_and_climbing_agree(classes, k, monkeypatch):
    values, _ = random_rows(40, classes, dtype=torch.float64)
    values[::2] = 1 / classes + values[::2] / 50  # flat rows among the others
    mix = LabelMix(
        torch.rand(40, classes).topk(k, dim=1).indices, torch.arange(k, 0, -1.0).expand(40, k) / (k * (k + 1) / 2)
    )
    solved = isotonic_soft_labels(values, mix)
    monkeypatch.setattr(level_module, "_MANY", 3)
    torch.testing.assert_close(isotonic_soft_labels(values, mix), solved, rtol=0, atol=1e-13)
    one_by_one = [isotonic_soft_labels(row[None], mix.select(slice(at, at + 1))) for at, row in enumerate(values)]
    torch.testing.assert_close(torch.cat(one_by_one), solved, rtol=0, atol=1e-13)


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


@pytest.mark.parametrize("k", [2, 3])
def test_one_graph_under_compile_with_its_gradient(k):
    values, mix = random_rows(8, 50)
    mix = LabelMix(mix.labels.repeat(1, 2)[:, :k], torch.full((8, k), 1 / k))
    compiled = torch.compile(lambda v, m: isotonic_soft_labels(v, m).log().sum(), backend="aot_eager", fullgraph=True)
    leaf, plain = values.clone().requires_grad_(), values.clone().requires_grad_()
    loss, expected = compiled(leaf, mix), isotonic_soft_labels(plain, mix).log().sum()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(torch.autograd.grad(loss, leaf), torch.autograd.grad(expected, plain))


def test_threshold_operator_is_well_behaved():
    values, mix = random_rows(3, 600)
    torch.library.opcheck(torch.ops.ida_lightning.threshold.default, (values, *mix))


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


MIX = LabelMix.pair(torch.tensor([0, 1]), torch.tensor([1, 2]), 0.7)


@pytest.mark.parametrize(
    ("values", "mix", "message"),
    [
        (torch.rand(3, 4), MIX, r"values: .*the batch of 2 of label_mix, got float32 \(3, 4\)"),
        (torch.rand(2), MIX, r"values: .*got float32 \(2,\)"),
        (torch.ones(2, 4, dtype=torch.int64), MIX, r"values: .*got int64 \(2, 4\)"),
        (torch.rand(2, 2), MIX, r"label_mix.labels: expected classes 0 \.\.\. 1, got 2"),
        (torch.rand(2, 4, device="meta"), MIX, "label_mix: expected the device of values, meta, got cpu"),
        (
            torch.tensor([[0.5, float("nan"), 0.5], [0.1, 0.1, 0.8]]),
            MIX,
            "values: .*NaN or infinity in 1 of 2 rows",
        ),
        (torch.tensor([[0.5, float("inf"), 0.5], [-float("inf"), 0.1, 0.8]]), MIX, "infinity in 2 of 2 rows"),
    ],
)
def test_what_does_not_fit_is_named(values, mix, message):
    with pytest.raises(InputError, match=message):
        isotonic_soft_labels(values, mix)


def test_unknown_solver_is_named():
    with pytest.raises(InputError, match="solver: expected one of auto, threshold, triton, .*, got 'magic'"):
        isotonic_soft_labels(torch.rand(2, 4), MIX, solver="magic")
