"""The correction inside torch.func, torch.export and fake tensors, and gradients of half types."""

import pytest
import torch
from torch._subclasses import FakeTensorMode

from ida_lightning import LabelMix, isotonic_soft_labels
from ida_lightning.isotonic import isotonic_vjp
from tests.helpers.problems import random_rows


def rows(k, count=6, classes=9, generator=0):
    values, mix = random_rows(count, classes, dtype=torch.float64, generator=generator)
    if k > 2:
        mix = LabelMix(torch.cat((mix.labels, mix.labels.roll(1, 0)), 1), torch.cat((mix.weights, mix.weights), 1) / 2)
    return values, mix


def loss(values, mix):
    return (isotonic_soft_labels(values, mix) * torch.arange(values.shape[-1])).sum()


@pytest.mark.parametrize("k", [2, 4])
def test_func_grad_and_vjp_are_those_of_autograd(k):
    values, mix = rows(k)
    leaf = values.clone().requires_grad_()
    (expected,) = torch.autograd.grad(loss(leaf, mix), leaf)
    assert torch.equal(torch.func.grad(loss)(values, mix), expected)
    _, pull = torch.func.vjp(lambda v: isotonic_soft_labels(v, mix), values)
    assert torch.equal(pull(torch.arange(9).double().expand(6, -1))[0], expected)


def test_jacrev_is_the_jacobian_by_rows():
    values, mix = rows(2)
    found = torch.func.jacrev(lambda v: isotonic_soft_labels(v, mix))(values)
    corrected = isotonic_soft_labels(values, mix)
    for row in range(6):
        one = LabelMix(mix.labels[row : row + 1], mix.weights[row : row + 1])
        for c in range(9):
            grad = torch.eye(9, dtype=torch.float64)[c][None]
            expected = isotonic_vjp(grad, values[row : row + 1], corrected[row : row + 1], one)[0]
            torch.testing.assert_close(found[row, c, row], expected)


@pytest.mark.parametrize("solver", ["auto", "weak_order", "tree"])
@pytest.mark.parametrize("k", [2, 4])
def test_vmap_corrects_a_batch_of_batches(solver, k):
    parts = [rows(k, generator=g) for g in range(3)]
    values = torch.stack([v for v, _ in parts])
    labels, weights = (torch.stack([mix[field] for _, mix in parts]) for field in (0, 1))
    expected = torch.stack([isotonic_soft_labels(v, mix, solver) for v, mix in parts])
    each = torch.func.vmap(lambda v, a, b: isotonic_soft_labels(v, LabelMix(a, b), solver))
    torch.testing.assert_close(each(values, labels, weights), expected)
    grads = torch.func.vmap(torch.func.grad(loss), in_dims=(1, None))(values.movedim(0, 1), parts[0][1])
    assert torch.equal(grads[1], torch.func.grad(loss)(values[1], parts[0][1]))


class Corrects(torch.nn.Module):
    def forward(self, values, labels, weights):
        return isotonic_soft_labels(values.softmax(1), LabelMix(labels, weights))


@pytest.mark.parametrize("k", [2, 4])
def test_export_takes_any_number_of_rows(k):
    values, mix = rows(k)
    batch = {0: torch.export.Dim("batch", min=2)}
    exported = torch.export.export(Corrects(), (values, *mix), dynamic_shapes=(batch, batch, batch)).module()
    more, mixes = rows(k, count=11, generator=3)
    torch.testing.assert_close(exported(more, *mixes), Corrects()(more, *mixes))


@pytest.mark.parametrize("k", [1, 2, 4])
def test_fake_tensors_have_a_shape_and_no_numbers(k):
    with FakeTensorMode() as mode:
        mix = LabelMix(torch.zeros(6, k, dtype=torch.int64), torch.ones(6, k))
        found = isotonic_soft_labels(mode.from_tensor(torch.rand(6, 300)), mix)
    assert found.shape == (6, 300)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_have_the_gradient_of_their_exact_blocks(dtype):
    values, mix = random_rows(400, 40)
    values, grad = values.to(dtype), torch.randn(400, 40).to(dtype)
    leaf = values.clone().requires_grad_()
    (found,) = torch.autograd.grad(isotonic_soft_labels(leaf, mix), leaf, grad)
    exact = values.double().requires_grad_()
    (expected,) = torch.autograd.grad(isotonic_soft_labels(exact, mix), exact, grad.double())
    assert found.dtype == dtype
    # Values that are equal in a half type, and so neither above nor below, are the same in float64.
    torch.testing.assert_close(found.double(), expected, atol=0.02, rtol=0.01)
