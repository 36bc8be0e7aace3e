from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings

from ida_lightning import InputError, LabelMix, isotonic_soft_labels, order_penalty
from tests.helpers.problems import problems


def slow(row, hard, form):
    """The definitions, pair by pair."""
    ranks = sorted({float(w) for w in hard}, reverse=True)
    groups = [[c for c in range(len(row)) if float(hard[c]) == rank] for rank in ranks]
    mixed = [group for group, rank in zip(groups, ranks, strict=True) if rank > 0]
    rest = [c for c in range(len(row)) if hard[c] == 0]
    among = sum(max(0, row[v] - row[u]) for a, b in pairwise(mixed) for u in a for v in b)
    if not rest:
        return among
    if form == "worst":
        return among + max(0, max(row[r] for r in rest) - min(row[c] for group in mixed for c in group))
    return among + sum(max(0, row[r] - row[c]) for c in mixed[-1] for r in rest)


@pytest.mark.parametrize("form", ["edges", "worst"])
@given(problem=problems(max_classes=12))
@settings(max_examples=60)
def test_equals_the_definition_pair_by_pair(form, problem):
    probs, mix = problem
    logits = (probs + 1e-3).log()
    found = order_penalty(logits, mix, sigma=1.5, form=form)
    order = mix.order()  # exact ties as the order sees them
    hard = torch.zeros_like(probs)
    rank = (~order.tied).cumsum(1)
    for row in range(len(probs)):
        hard[row, order.labels[row][order.present[row]]] = 100.0 - rank[row][order.present[row]].double()
    expected = [1.5 * float(slow(q, h, form)) for q, h in zip(logits.softmax(1), hard, strict=True)]
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


@given(problems(max_classes=12))
@settings(max_examples=40)
def test_is_zero_exactly_for_rows_in_order(problem):
    probs, mix = problem
    ordered = isotonic_soft_labels(probs + 1e-3, mix)
    for form in ("edges", "worst"):
        torch.testing.assert_close(
            order_penalty(ordered.log(), mix, form=form), torch.zeros(len(probs)).double(), atol=1e-12, rtol=0
        )


def test_forms_agree_while_one_rest_class_is_too_high():
    mix = LabelMix.pair(torch.tensor([0]), torch.tensor([1]), 0.7)
    one_high = torch.tensor([[0.35, 0.2, 0.3, 0.15]]).log()
    torch.testing.assert_close(order_penalty(one_high, mix, form="edges"), order_penalty(one_high, mix, form="worst"))
    two_high = torch.tensor([[0.35, 0.1, 0.3, 0.25]]).log()
    torch.testing.assert_close(order_penalty(two_high, mix, 1.0, "edges"), torch.tensor([0.35]))
    torch.testing.assert_close(order_penalty(two_high, mix, 1.0, "worst"), torch.tensor([0.2]))
    first_lowest = torch.tensor([[0.1, 0.4, 0.3, 0.2]]).log()
    torch.testing.assert_close(order_penalty(first_lowest, mix, 1.0, "edges"), torch.tensor([0.3]))
    torch.testing.assert_close(order_penalty(first_lowest, mix, 1.0, "worst"), torch.tensor([0.5]))


@pytest.mark.parametrize("form", ["edges", "worst"])
def test_gradient_is_right_and_points_towards_the_order(form):
    logits = torch.randn(4, 7, dtype=torch.float64, requires_grad=True)
    mix = LabelMix.pair(torch.tensor([0, 1, 2, 3]), torch.tensor([4, 5, 2, 6]), torch.tensor([0.7, 0.3, 0.6, 0.5]))
    assert torch.autograd.gradcheck(lambda z: order_penalty(z, mix, form=form), logits)
    before = order_penalty(logits, mix, form=form).sum()
    (gradient,) = torch.autograd.grad(before, logits)
    assert order_penalty(logits - 0.01 * gradient, mix, form=form).sum() < before


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_logits_are_computed_in_float32(dtype):
    logits = torch.tensor([[60.0, -60.0, 0.0]], dtype=dtype, requires_grad=True)
    penalty = order_penalty(logits, LabelMix.pair(torch.tensor([1]), torch.tensor([2]), 0.7))
    assert penalty.dtype == torch.float32
    (gradient,) = torch.autograd.grad(penalty.sum(), logits)
    assert torch.isfinite(gradient).all()


def test_what_does_not_fit_is_named():
    mix = LabelMix.unmixed(torch.tensor([0]))
    with pytest.raises(InputError, match="form: expected one of edges, worst, got 'all'"):
        order_penalty(torch.zeros(1, 3), mix, form="all")
    with pytest.raises(InputError, match="sigma: expected a number >= 0, got -1"):
        order_penalty(torch.zeros(1, 3), mix, sigma=-1)
    with pytest.raises(InputError, match="student_logits: .*got float32"):
        order_penalty(torch.zeros(2, 3), mix)
