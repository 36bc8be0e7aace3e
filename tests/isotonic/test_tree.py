"""IRT-BIN against SciPy, a constrained optimiser, brute force, the optimality conditions and its own promises."""

import heapq
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import isotonic_regression, minimize

import ida_lightning.isotonic.tree as tree_module
from ida_lightning import InputError, LabelMix, isotonic_soft_labels, violated_rows
from ida_lightning.isotonic.tree import isotonic_regression_tree, tree_solver
from tests.helpers.devices import DEVICES
from tests.helpers.problems import problems, reference_optimiser, reference_scipy


def random_forest(rng, nodes, reach, roots=0.0):
    """Parents of randomly numbered nodes: each at most ``reach`` nodes younger than its parent (1 is a chain)."""
    oldest_first = rng.permutation(nodes)
    parent = np.full(nodes, -1)
    for age in range(1, nodes):
        if rng.random() >= roots:
            parent[oldest_first[age]] = oldest_first[rng.integers(max(0, age - reach), age)]
    return parent


@st.composite
def trees(draw, max_nodes=60):
    """Values, parents and weights: from chains to bushes, one root or several, with and without exact ties."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    nodes = draw(st.integers(1, max_nodes))
    parent = random_forest(rng, nodes, draw(st.sampled_from([1, 3, nodes])), draw(st.sampled_from([0.0, 0.1])))
    values = rng.normal(draw(st.sampled_from([0.0, 100.0])), 1, nodes)
    if draw(st.booleans()):
        values = np.round(values)
    weights = draw(st.sampled_from([None, rng.uniform(0.1, 3, nodes), 10 ** rng.uniform(-4, 4, nodes)]))
    return torch.tensor(values), torch.tensor(parent), None if weights is None else torch.tensor(weights)


def ones_if_none(weights, values):
    return torch.ones(len(values), dtype=torch.float64) if weights is None else weights


def rises(solved, parent):
    """Nodes that lie above their parent, compared exactly."""
    return (parent >= 0) & (solved > solved[parent])


def assert_optimal(values, parent, weights, solved):
    """The optimality conditions: they prove the answer at any size, without another solver.

    The pull that a branch exerts on its parent, the sum of w (v - m) over the branch, is never downwards; it is
    zero where the parent lies strictly above, and zero for a whole tree.
    """
    assert not rises(solved, parent).any()
    pull = (weights * (values - solved)).tolist()
    scale = float((weights * values.abs()).sum()) + 1e-300
    above, solved = parent.tolist(), solved.tolist()
    for node in sorted(range(len(above)), key=depths(above).__getitem__, reverse=True):
        if above[node] >= 0:
            assert pull[node] >= -1e-12 * scale
            pull[above[node]] += pull[node]
            if solved[above[node]] > solved[node]:
                assert pull[node] <= 1e-12 * scale
        else:
            assert abs(pull[node]) <= 1e-12 * scale


def depths(above):
    found = [0 if parent < 0 else None for parent in above]
    for start in range(len(above)):
        path = [start]
        while found[path[-1]] is None:
            path.append(above[path[-1]])
        for child, parent in itertools.pairwise(reversed(path)):
            found[parent] = found[child] + 1
    return found


@given(trees(), st.booleans())
def test_equals_scipy_on_chains(problem, weighted):
    values, _, _ = problem
    rng = np.random.default_rng(len(values))
    weights = rng.uniform(0.1, 3, len(values)) if weighted else None
    expected = isotonic_regression(values.numpy(), weights=weights, increasing=False).x
    # Numbered at random: the solver must find the chain by itself.
    number = torch.tensor(rng.permutation(len(values)))
    shuffled, parent = torch.empty_like(values), torch.empty_like(number)
    shuffled[number] = values
    parent[number] = torch.cat((torch.tensor([-1]), number[:-1]))
    shares = None
    if weighted:
        shares = torch.empty_like(values)
        shares[number] = torch.tensor(weights)
    solved = isotonic_regression_tree(shuffled, parent, shares)[number]
    np.testing.assert_allclose(solved.numpy(), expected, atol=1e-12, rtol=1e-13)


def brute_force(values, parent, weights):
    """Of all ways to cut the tree into connected blocks, the best whose block means respect the order."""
    edges = [node for node in range(len(values)) if parent[node] >= 0]
    best, best_cost = None, math.inf
    for joined in itertools.product([False, True], repeat=len(edges)):
        block = list(range(len(values)))
        for node in (edge for edge, equal in zip(edges, joined, strict=True) if equal):
            block = [block[parent[node]] if b == block[node] else b for b in block]
        members = np.equal.outer(block, block)
        means = (members * weights) @ values / (members @ weights)
        cost = (weights * (means - values) ** 2).sum()
        if cost < best_cost and all(means[parent[node]] >= means[node] - 1e-12 for node in edges):
            best, best_cost = means, cost
    return best


@given(trees(max_nodes=5))
def test_equals_the_best_of_all_partitions(problem):
    values, parent, weights = problem
    expected = brute_force(values.numpy(), parent.tolist(), ones_if_none(weights, values).numpy())
    solved = isotonic_regression_tree(values, parent, weights)
    np.testing.assert_allclose(solved.numpy(), expected, atol=1e-9)


@given(trees(max_nodes=9))
@settings(max_examples=40)
def test_is_the_nearest_ordered_vector(problem):
    values, parent, weights = (field if field is None else field.numpy() for field in problem)
    # The optimiser needs numbers of one size and near zero.
    values = (values - values.mean()) / 10
    shares = np.ones(len(values)) if weights is None else np.clip(weights, 0.1, 3)
    matrix = np.eye(len(values))[np.maximum(parent, 0)] - np.eye(len(values))
    matrix = matrix[parent >= 0]
    found = minimize(
        lambda m: (shares * (m - values) ** 2).sum(),
        np.full(len(values), values.mean()),
        jac=lambda m: 2 * shares * (m - values),
        constraints=[{"type": "ineq", "fun": lambda m: matrix @ m, "jac": lambda m: matrix}],
        method="SLSQP",
        options={"ftol": 1e-13, "maxiter": 500},
    )
    assert found.success, found.message
    solved = isotonic_regression_tree(torch.tensor(values), torch.tensor(parent), torch.tensor(shares)).numpy()
    assert (shares * (solved - values) ** 2).sum() <= found.fun + 1e-9
    np.testing.assert_allclose(solved, found.x, atol=1e-4)


@given(trees(max_nodes=200))
@settings(max_examples=300)
def test_meets_the_optimality_conditions(problem):
    values, parent, weights = problem
    solved = isotonic_regression_tree(values, parent, weights)
    assert_optimal(values, parent, ones_if_none(weights, values), solved)


@given(trees())
def test_is_idempotent_and_keeps_the_weighted_sum(problem):
    values, parent, weights = problem
    solved = isotonic_regression_tree(values, parent, weights)
    assert solved.dtype == torch.float64
    assert torch.equal(isotonic_regression_tree(solved, parent, weights), solved)
    assert values.min() <= solved.min()
    assert solved.max() <= values.max()
    above = parent.tolist()
    root = list(range(len(above)))
    for node in sorted(root, key=depths(above).__getitem__):
        root[node] = node if above[node] < 0 else root[above[node]]
    shares = ones_if_none(weights, values)
    before, after = (torch.zeros_like(values).index_add(0, torch.tensor(root), shares * v) for v in (values, solved))
    torch.testing.assert_close(after, before, rtol=1e-12, atol=1e-12 * float((shares * values.abs()).sum()))


@given(trees())
def test_values_in_order_come_back_bit_for_bit(problem):
    values, parent, weights = problem
    above = parent.tolist()
    in_order = values.clone()
    for node in sorted(range(len(above)), key=depths(above).__getitem__):
        if above[node] >= 0:
            in_order[node] = torch.minimum(in_order[node], in_order[above[node]])
    assert torch.equal(isotonic_regression_tree(in_order, parent, weights), in_order)
    rounded = in_order.to(torch.bfloat16)  # monotone, so still in order
    assert torch.equal(isotonic_regression_tree(rounded, parent, weights), rounded.double())


@given(trees(), st.integers(0, 2**32 - 1))
def test_commutes_with_renumbering_shifting_and_scaling(problem, seed):
    values, parent, weights = problem
    solved = isotonic_regression_tree(values, parent, weights)
    number = torch.tensor(np.random.default_rng(seed).permutation(len(values)))
    inverse = number.argsort()
    renamed = torch.where(parent >= 0, number[parent.clamp_min(0)], -1)[inverse]
    again = isotonic_regression_tree(values[inverse], renamed, None if weights is None else weights[inverse])
    torch.testing.assert_close(again[number], solved, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(
        isotonic_regression_tree(3 * values + 2, parent, weights), 3 * solved + 2, rtol=1e-10, atol=1e-10
    )
    torch.testing.assert_close(
        isotonic_regression_tree(values, parent, 3 * ones_if_none(weights, values)), solved, rtol=1e-10, atol=1e-10
    )


@given(trees(), st.integers(0, 2**32 - 1))
def test_brings_vectors_together_never_apart(problem, seed):
    values, parent, weights = problem
    other = values + torch.tensor(np.random.default_rng(seed).normal(0, 0.1, len(values)))
    scale = ones_if_none(weights, values).sqrt()
    after = isotonic_regression_tree(values, parent, weights) - isotonic_regression_tree(other, parent, weights)
    assert (scale * after).norm() <= (scale * (values - other)).norm() * (1 + 1e-9) + 1e-9


@given(trees(max_nodes=30))
def test_a_weight_is_that_many_equal_leaves(problem):
    # A node of weight n is a node of weight 1 below n - 1 equals: nothing may pull a stack of equals apart.
    values, parent, _ = problem
    copies = torch.arange(len(values)) % 3 + 1
    first = copies.cumsum(0) - copies
    stacked = torch.arange(int(copies.sum())) - 1
    last = first + copies - 1
    stacked[first] = torch.where(parent >= 0, last[parent.clamp_min(0)], -1)
    solved = isotonic_regression_tree(values.repeat_interleave(copies), stacked)
    expected = isotonic_regression_tree(values, parent, copies.double())
    torch.testing.assert_close(solved, expected.repeat_interleave(copies), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("shape", ["chain", "chain from its end", "star", "random", "caterpillar"])
@pytest.mark.parametrize("pooling", ["some", "all"])
def test_a_hundred_thousand_nodes(shape, pooling):
    nodes = 100_000
    rng = np.random.default_rng(0)
    number = np.arange(nodes)
    parent = {
        "chain": number - 1,
        "chain from its end": np.append(number[1:], -1),
        "star": np.append(-1, np.zeros(nodes - 1, dtype=int)),
        "random": random_forest(rng, nodes, nodes),
        "caterpillar": np.where(number > 0, (number - 1) // 2 * 2, -1),
    }[shape]
    parent = torch.tensor(parent)
    values = rng.normal(size=nodes)
    if pooling == "all":
        values = values - 1e6 * (parent.numpy() < 0)
    values = torch.tensor(values)
    solved = isotonic_regression_tree(values, parent)
    assert (len(solved.unique()) == 1) == (pooling == "all")
    assert_optimal(values, parent, torch.ones(nodes, dtype=torch.float64), solved)


def test_weights_of_very_different_size_and_values_at_the_limit():
    # In differences instead of shares the small mean is lost: -1 + (1e-17 + 1) is not 1e-17.
    solved = isotonic_regression_tree(
        torch.tensor([-1.0, 1e-17], dtype=torch.float64), torch.tensor([-1, 0]), torch.tensor([1.0, 1e30])
    )
    torch.testing.assert_close(solved, torch.full((2,), 1e-17, dtype=torch.float64), rtol=1e-12, atol=0)
    largest = torch.finfo(torch.float64).max
    solved = isotonic_regression_tree(
        torch.tensor([-largest, largest], dtype=torch.float64), torch.tensor([-1, 0]), torch.tensor([1.0, 3.0])
    )
    torch.testing.assert_close(solved, torch.full((2,), largest / 2, dtype=torch.float64))


def test_rounding_stays_between_the_means_that_are_pooled():
    rng = np.random.default_rng(0)
    low = torch.tensor(rng.random(2000))
    high = torch.tensor(np.nextafter(low.numpy(), 2))
    # Two thousand trees of two nodes, their values one bit apart.
    values, weights = torch.cat((low, high)), torch.tensor(rng.uniform(0.1, 3, 4000))
    parent = torch.cat((torch.full((2000,), -1), torch.arange(2000)))
    solved = isotonic_regression_tree(values, parent, weights)
    assert torch.equal(solved[:2000], solved[2000:])
    assert ((low <= solved[:2000]) & (solved[:2000] <= high)).all()


def heap_size(heap):
    """Entries of a heap, after making sure that it is one."""
    assert not heap.by_rank or heap.by_rank[-1] is not None
    waiting = []
    for rank, tree in enumerate(heap.by_rank):
        if tree is not None:
            assert len(tree.children) == rank
            waiting.append(tree)
    size = 0
    while waiting:
        tree = waiting.pop()
        size += 1
        for rank, child in enumerate(tree.children):
            assert len(child.children) == rank
            assert child.key <= tree.key
            waiting.append(child)
    assert len(heap.by_rank) == size.bit_length()
    return size


@given(st.lists(st.one_of(st.integers(0, 9), st.sampled_from(["remove", "merge"])), max_size=80))
def test_heap_is_a_binomial_heap_and_gives_the_largest_first(steps):
    heap, expected = tree_module._Heap(), []
    added = 0
    stack = [(tree_module._Heap(), [])]
    for step in steps:
        if step == "merge":
            other, other_expected = stack.pop() if len(stack) > 1 else (tree_module._Heap(), [])
            heap.merge(other)
            expected = list(heapq.merge(sorted(expected), sorted(other_expected)))
            if added % 2:  # build several heaps of different size before they meet
                stack.append((heap, expected))
                heap, expected = tree_module._Heap(), []
        elif step == "remove":
            top = heap.largest()
            assert (top is None) == (not expected)
            if top is not None:
                heap.remove(top)
                assert -top.key == heapq.heappop(expected)
        else:
            heap.add(float(step), added)
            heapq.heappush(expected, -float(step))
            added += 1
        assert heap_size(heap) == len(expected)


@pytest.mark.parametrize("shape", ["star", "random", "caterpillar", "chain"])
def test_work_grows_like_n_log_n(shape, monkeypatch):
    # Counted, not timed: the comparisons inside the heaps, in the case where everything is absorbed.
    links = 0
    link = tree_module._link

    def counting(first, second):
        nonlocal links
        links += 1
        return link(first, second)

    monkeypatch.setattr(tree_module, "_link", counting)
    for nodes in (256, 1024, 4096, 16384):
        links = 0
        rng = np.random.default_rng(nodes)
        number = np.arange(nodes)
        parent = {
            "star": np.where(number > 0, 0, -1),
            "random": random_forest(rng, nodes, nodes),
            "caterpillar": np.where(number > 0, (number - 1) // 2 * 2, -1),
            "chain": number - 1,
        }[shape]
        values = torch.tensor(rng.normal(size=nodes) - 1e6 * (parent < 0))
        isotonic_regression_tree(values, torch.tensor(parent))
        # Every link but the first n - 1 undoes what a removal set free, and that is at most log2(n) trees.
        assert links <= nodes * math.log2(nodes)
        if shape == "chain":
            assert links == 0


@given(problems())
@settings(max_examples=150)
def test_tree_solver_equals_threshold_and_scipy(problem):
    values, mix = problem
    solved = tree_solver(values, mix.order())
    by_threshold = isotonic_soft_labels(values, mix, solver="threshold")
    torch.testing.assert_close(solved, by_threshold, atol=1e-12, rtol=1e-12)
    hard = mix.dense(values.shape[1]).numpy()
    expected = np.stack([reference_scipy(row, h) for row, h in zip(values.numpy(), hard, strict=True)])
    np.testing.assert_allclose(solved.numpy(), expected, atol=1e-12)


@given(problems(max_classes=7, max_k=3))
@settings(max_examples=25)
def test_tree_solver_is_the_nearest_ordered_row(problem):
    values, mix = problem
    for row, hard, found in zip(
        values.numpy(), mix.dense(values.shape[1]).numpy(), tree_solver(values, mix.order()).numpy(), strict=True
    ):
        np.testing.assert_allclose(found, reference_optimiser(row, hard), atol=1e-4)


@given(problems(), st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16]))
def test_tree_solver_rows_are_ordered_in_their_own_dtype(problem, dtype):
    values, mix = problem
    values = values.to(dtype)
    before = values.clone()
    solved = tree_solver(values, mix.order())
    assert solved.dtype == dtype
    assert not violated_rows(solved, mix).any()
    assert torch.equal(tree_solver(solved, mix.order()), solved)
    right = ~violated_rows(values, mix)
    assert torch.equal(solved[right], values[right])
    assert torch.equal(values, before)


@pytest.mark.parametrize("device", DEVICES)
def test_results_are_where_the_values_are(device):
    values, parent = torch.tensor([0.2, 0.5], device=device), torch.tensor([-1, 0], device=device)
    assert isotonic_regression_tree(values, parent, torch.ones_like(values)).device == values.device
    mix = LabelMix.unmixed(torch.tensor([0], device=device))
    assert tree_solver(values[None], mix.order()).device == values.device


@pytest.mark.parametrize(
    ("labels", "weights", "expected"),
    [
        ([0, 1], [0.5, 0.5], [0.2, 0.6, 0.2]),
        ([1, 0], [0.5, 0.5], [0.2, 0.6, 0.2]),
        ([0, 1], [0.6, 0.4], [0.35, 0.35, 0.3]),
        ([2, 2], [0.7, 0.3], [0.1, 0.45, 0.45]),
        ([2, 0], [1.0, 0.0], [0.1, 0.45, 0.45]),
        ([1, 0], [1.0, 0.0], [0.1, 0.6, 0.3]),
        ([0, 1], [0.0, 0.0], [0.1, 0.6, 0.3]),  # no share of anything orders nothing
    ],
)
def test_tree_solver_by_hand(labels, weights, expected):
    values = torch.tensor([[0.1, 0.6, 0.3]], requires_grad=True)
    solved = tree_solver(values, LabelMix(torch.tensor([labels]), torch.tensor([weights])).order())
    assert not solved.requires_grad
    torch.testing.assert_close(solved, torch.tensor([expected]))


def test_nothing_gives_nothing():
    none = isotonic_regression_tree(torch.zeros(0), torch.zeros(0, dtype=torch.int64), torch.zeros(0))
    assert none.shape == (0,)
    assert none.dtype == torch.float64
    empty = LabelMix(torch.zeros(0, 2, dtype=torch.int64), torch.zeros(0, 2))
    assert tree_solver(torch.zeros(0, 5), empty.order()).shape == (0, 5)


VALUES, PARENT = torch.tensor([0.2, 0.5, 0.3]), torch.tensor([-1, 0, 1])
NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"values": torch.rand(3, 1)}, r"values: expected floating point \(nodes,\), got float32 \(3, 1\)"),
        ({"values": torch.tensor([1, 2, 3])}, r"values: expected floating point \(nodes,\), got int64 \(3,\)"),
        ({"values": torch.tensor([0.2, NAN, 0.3])}, "values: expected finite numbers, got nan at node 1"),
        ({"values": torch.tensor([0.2, 0.1, -INF])}, "values: expected finite numbers, got -inf at node 2"),
        ({"parent": torch.tensor([-1, 0])}, r"parent: expected int64 of the values' shape \(3,\), got int64 \(2,\)"),
        ({"parent": PARENT.int()}, r"parent: expected int64 .* got int32 \(3,\)"),
        ({"parent": torch.tensor([-1, 0, 3])}, r"parent: expected nodes 0 \.\.\. 2, or -1 .*, got 3 at node 2"),
        ({"parent": torch.tensor([-1, -2, 0])}, r"parent: expected nodes 0 \.\.\. 2, or -1 .*, got -2 at node 1"),
        ({"parent": torch.tensor([-1, 1, 0])}, "parent: expected a tree or forest, got a cycle through node 1"),
        ({"parent": torch.tensor([1, 2, 1])}, "parent: expected a tree or forest, got a cycle through node 1"),
        ({"weights": torch.ones(2)}, r"weights: expected floating .* shape \(3,\), got float32 \(2,\)"),
        ({"weights": torch.ones(3, dtype=torch.int64)}, r"weights: expected floating .* got int64 \(3,\)"),
        ({"weights": torch.tensor([1.0, 0.0, 1.0])}, "weights: expected finite numbers > 0, got 0.0 at node 1"),
        ({"weights": torch.tensor([1.0, 1.0, -1.0])}, "weights: expected finite numbers > 0, got -1.0 at node 2"),
        ({"weights": torch.tensor([NAN, 1.0, 1.0])}, "weights: expected finite numbers > 0, got nan at node 0"),
        ({"weights": torch.tensor([INF, 1.0, 1.0])}, "weights: expected finite numbers > 0, got inf at node 0"),
        ({"weights": torch.full((3,), 1e308, dtype=torch.float64)}, "weights: expected a finite sum"),
    ],
)
def test_what_does_not_fit_is_named(changed, message):
    with pytest.raises(InputError, match=message):
        isotonic_regression_tree(**({"values": VALUES, "parent": PARENT} | changed))
