"""The derivative of the correction against finite differences, the known Jacobian and PyTorch's own."""

import pytest
import torch
from hypothesis import assume, given, settings

from ida_lightning import LabelMix, isotonic_soft_labels, violated_rows
from ida_lightning.isotonic import isotonic_vjp
from tests.helpers.problems import SOLVERS, exact_as, problems, random_rows


def jacobian_of(values, mix):
    """``(batch, classes, classes)`` by one vector-Jacobian product for every class."""
    corrected = isotonic_soft_labels(values, mix)
    rows = torch.eye(values.shape[1], dtype=values.dtype)
    return torch.stack([isotonic_vjp(row.expand_as(values), values, corrected, mix) for row in rows], 1)


def by_the_formula(values, mix):
    """``min over starts of max over ends of the mean``, along every row's sorted sequence: plain operations."""
    solved = []
    for row, hard in zip(values, mix.dense(values.shape[1]), strict=True):
        sequence = sorted(range(len(row)), key=lambda c: (-hard[c].item(), -row[c].item()))
        sums = torch.cat((row.new_zeros(1), row[sequence].cumsum(0)))
        found = [
            min(max((sums[b] - sums[a]) / (b - a) for b in range(i + 1, len(sums))) for a in range(i + 1))
            for i in range(len(row))
        ]
        solved.append(torch.stack([found[sequence.index(c)] for c in range(len(row))]))
    return torch.stack(solved)


@given(problems(max_classes=8))
@settings(max_examples=30)
def test_equals_what_autograd_makes_of_the_formula(problem):
    values, mix = problem
    values = values + 1e-4 * torch.randn(values.shape, dtype=values.dtype)  # off the kinks
    grad = torch.randn(values.shape, dtype=values.dtype)
    leaf = values.clone().requires_grad_()
    (expected,) = torch.autograd.grad(by_the_formula(leaf, mix), leaf, grad)
    torch.testing.assert_close(isotonic_vjp(grad, values, isotonic_soft_labels(values, mix), mix), expected)


@given(problems(max_classes=8, max_k=3))
@settings(max_examples=40)
def test_equals_finite_differences_away_from_kinks(problem):
    values, mix = problem
    values = values + 1e-2 * torch.randn(values.shape, dtype=values.dtype)
    step = 1e-6
    columns = []
    for c in range(values.shape[1]):
        shift = torch.zeros_like(values)
        shift[:, c] = step
        ahead, behind = (isotonic_soft_labels(values + side * shift, mix) for side in (1, -1))
        columns.append((ahead - behind) / (2 * step))
    difference = torch.stack(columns, 2)
    # A kink within the step would show as an entry that is no block average.
    assume(torch.allclose(difference, difference.transpose(1, 2), atol=1e-4))
    torch.testing.assert_close(jacobian_of(values, mix), difference, atol=1e-4, rtol=0)


def test_jacobian_is_a_projection_onto_the_blocks():
    values, mix = random_rows(20, 15, dtype=torch.float64)
    jacobian = jacobian_of(values, mix)
    torch.testing.assert_close(jacobian, jacobian.transpose(1, 2))
    torch.testing.assert_close(jacobian @ jacobian, jacobian)
    torch.testing.assert_close(jacobian.sum(2), torch.ones(20, 15, dtype=torch.float64))
    identity = torch.eye(15, dtype=torch.float64).expand(20, -1, -1)
    right = ~violated_rows(values, mix)
    torch.testing.assert_close(jacobian[right], identity[right])
    assert not torch.equal(jacobian, identity)


@pytest.mark.parametrize("solver", SOLVERS)
def test_every_solver_can_be_differentiated(solver):
    values, mix = random_rows(6, 12, dtype=torch.float64)
    grad = torch.randn(6, 12)
    leaf = exact_as(values, solver).clone().requires_grad_()
    (found,) = torch.autograd.grad(isotonic_soft_labels(leaf, mix, solver), leaf, grad.to(leaf.dtype))
    expected = isotonic_vjp(grad.double(), values, isotonic_soft_labels(values, mix), mix)
    torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=1e-5)


def test_gradcheck_inside_a_pipeline():
    logits = torch.randn(3, 6, dtype=torch.float64, requires_grad=True)
    mix = LabelMix.pair(torch.tensor([0, 1, 5]), torch.tensor([2, 1, 3]), torch.tensor([0.7, 0.2, 0.5]))
    assert torch.autograd.gradcheck(lambda z: isotonic_soft_labels(z.softmax(1), mix).log(), logits)


def test_rows_on_a_kink_are_left_alone():
    values = torch.full((1, 4), 0.25)
    mix = LabelMix.pair(torch.tensor([0]), torch.tensor([1]), 0.7)
    grad = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    assert torch.equal(isotonic_vjp(grad, values, values, mix), grad)
