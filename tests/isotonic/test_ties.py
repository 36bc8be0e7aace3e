"""One rule of ties: every solver, metric, loss and gradient sees the same order in almost equal weights."""

import pytest
import torch
from hypothesis import given, settings

from ida_lightning import LabelMix, isotonic_soft_labels, order_penalty, order_statistics, violated_rows
from ida_lightning.isotonic import isotonic_vjp
from tests.helpers.problems import SOLVERS, exact_as, near_ties

CLASSES = 7


def rule(labels, weights):
    """The rule as LabelOrder's docstring has it, for one row in Python: the group of every class, 0 the heaviest."""
    eps = torch.finfo(weights.dtype).eps
    merged = {}
    for label, weight in zip(labels.tolist(), weights.double().tolist(), strict=True):
        merged[label] = merged.get(label, 0.0) + weight
    rounded = torch.float64 if weights.dtype == torch.float64 else torch.float32
    named = {label: torch.tensor(weight, dtype=rounded) for label, weight in merged.items() if weight > 0}
    groups, group, before = {}, 0, None
    for label, weight in sorted(named.items(), key=lambda item: -item[1]):
        group += before is not None and bool(before - weight > 4 * eps)
        groups[label], before = group, weight
    return [groups.get(label, len(groups)) for label in range(CLASSES)]


def with_nothing_more(mix):
    """The same mix with one more entry, which has no weight."""
    return LabelMix(*(torch.nn.functional.pad(field, (0, 1)) for field in mix))


@given(near_ties())
@settings(max_examples=60)
def test_order_follows_the_rule(problem):
    _, mix = problem
    expected = [rule(*row) for row in zip(*mix, strict=True)]
    levels = mix.order().levels(CLASSES)
    for row, groups in zip(levels.tolist(), expected, strict=True):
        for u in range(CLASSES):
            for v in range(CLASSES):
                assert (row[u] > row[v]) == (groups[u] < groups[v])


@pytest.mark.parametrize("solver", SOLVERS)
def test_solvers_agree_about_near_ties(solver):
    @settings(max_examples=15 if solver == "triton" else 60)  # its interpreter is slow
    @given(problem=near_ties())
    def check(problem):
        agree(solver, problem)

    check()


def agree(solver, problem):
    values, mix = problem
    values = exact_as(values.double(), solver)
    expected = isotonic_soft_labels(values.double(), mix, "tree", validate=False)
    grad = torch.randn(values.shape, generator=torch.Generator().manual_seed(3), dtype=values.dtype)
    blocks = isotonic_vjp(grad.double(), values.double(), expected, mix)
    for same in (mix, with_nothing_more(mix)):
        leaf = values.clone().requires_grad_()
        solved = isotonic_soft_labels(leaf, same, solver, validate=False)
        torch.testing.assert_close(solved.detach().double(), expected, atol=1e-6, rtol=0)
        assert not violated_rows(solved.detach(), mix).any()
        (found,) = torch.autograd.grad(solved, leaf, grad)
        torch.testing.assert_close(found.double(), blocks, atol=1e-5, rtol=1e-5)


@given(near_ties())
@settings(max_examples=60)
def test_metrics_and_penalty_agree_about_near_ties(problem):
    values, mix = problem
    violated = violated_rows(values, mix)
    changed = (isotonic_soft_labels(values, mix, validate=False) != values).any(1)
    assert torch.equal(violated, changed)
    for same in (mix, with_nothing_more(mix)):
        assert torch.equal(violated_rows(values, same), violated)
        assert torch.equal(order_statistics(values, same).violated, violated)
        assert torch.equal(order_penalty(values.double().log(), same) > 0, violated)


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_chain_of_near_ties_is_one_group(solver):
    step = 3 * torch.finfo(torch.float32).eps
    weights = torch.tensor([[1 / 3 + step, 1 / 3, 1 / 3 - step]])
    assert float(weights[0, 0] - weights[0, 2]) > 4 * torch.finfo(torch.float32).eps, (
        "the ends are no tie by themselves"
    )
    values = torch.tensor([[0.1, 0.2, 0.6, 0.1]])
    chained = LabelMix(torch.tensor([[0, 1, 2]]), weights)
    assert isotonic_soft_labels(values, chained, solver).tolist() == values.tolist()
    broken = LabelMix(torch.tensor([[0, 1, 2]]), weights + torch.tensor([[4 * step, 0.0, 0.0]]))
    solved = isotonic_soft_labels(values, broken, solver)
    torch.testing.assert_close(solved, torch.tensor([[0.35, 0.2, 0.35, 0.1]]), atol=1e-6, rtol=0)


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_tolerance_is_one_of_the_weights_type(solver):
    values = torch.tensor([[0.3, 0.5, 0.1, 0.1]])
    for dtype, above in ((torch.float64, 1e-9), (torch.float32, 1e-6), (torch.bfloat16, 0.05)):
        for share, tie in ((0.5 + above, False), (0.5 + above / 1e8, True)):
            share = torch.tensor([[share, 1 - share]], dtype=torch.float64).to(dtype)
            solved = isotonic_soft_labels(values, LabelMix(torch.tensor([[0, 1]]), share), solver)
            expected = values if tie else torch.tensor([[0.4, 0.4, 0.1, 0.1]])
            torch.testing.assert_close(solved, expected, msg=f"{dtype} {share}")
