"""Mixing of what a layer gives, as a function; without Lightning."""

import numpy as np
import pytest
import torch

from ida_lightning import InnerPlan, LabelMix, MixedBatch, as_mixed_batch, draw_mixup, mix_inputs, mix_rows, plan_batch


def clean(rows=6, **more):
    inputs = {
        "ids": torch.arange(rows * 3).reshape(rows, 3),
        "mask": torch.arange(3) < torch.arange(rows)[:, None],
        **more,
    }
    index = torch.arange(rows)
    return MixedBatch(inputs, LabelMix.unmixed(index % 3), index, index[:, None])


@pytest.mark.parametrize("images", [2, 3])
@pytest.mark.parametrize("shape", [(6, 4), (6, 5, 4), (6, 2, 3, 3)])
def test_it_is_the_mixing_of_inputs(shape, images):
    plan = draw_mixup(6, np.random.default_rng(0), images=images)
    inner = plan_batch(plan, clean()).inner[0]
    values = torch.randn(shape)
    torch.testing.assert_close(mix_rows(values, inner), mix_inputs(values, plan))


def test_a_weight_of_one_changes_nothing_bit_for_bit():
    values = torch.randn(4, 3)
    values[0] = torch.tensor([-0.0, float("nan"), float("inf")])
    values[3] = float("nan")
    plan = InnerPlan(torch.tensor([[3], [3], [1], [0]]), torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.3, 0.7], [1.0, 0.0]]))
    mixed = mix_rows(values, plan)
    for row in (0, 1, 3):
        assert torch.equal(mixed[row].view(torch.int32), values[row].view(torch.int32))
    torch.testing.assert_close(mixed[2], 0.3 * values[2] + 0.7 * values[1])
    half = values.bfloat16()
    assert torch.equal(mix_rows(half, plan)[0].view(torch.int16), half[0].view(torch.int16))
    assert mix_rows(half, plan).dtype == torch.bfloat16


def test_the_gradient_is_one_written_by_hand():
    plan = InnerPlan(torch.tensor([[1], [2], [0], [3]]), torch.tensor([[0.6, 0.4], [0.1, 0.9], [1.0, 0.0], [0.5, 0.5]]))
    values, grad = torch.randn(4, 3, dtype=torch.float64, requires_grad=True), torch.randn(4, 3, dtype=torch.float64)
    mix_rows(values, plan).backward(grad)
    expected = plan.weight[:, :1].double() * grad
    expected = expected.index_add(0, plan.partner[:, 0], plan.weight[:, 1:].double() * grad)
    torch.testing.assert_close(values.grad, expected)
    assert torch.autograd.gradcheck(lambda x: mix_rows(x, plan._replace(weight=plan.weight.double())), values)


def test_masks_are_joined_where_rows_are_mixed():
    batch = clean()
    plan = draw_mixup(6, np.random.default_rng(1))
    plan.weight[2] = torch.tensor([1.0, 0.0])
    planned = plan_batch(plan, batch)
    assert torch.equal(planned.inputs["ids"], batch.inputs["ids"])
    own = batch.inputs["mask"]
    expected = own | own[plan.partner[:, 0]]
    expected[2] = own[2]
    assert torch.equal(planned.inputs["mask"], expected)
    assert planned.inputs["mask"].dtype == torch.bool
    whole = plan_batch(plan, clean(type_mask=own.long()))
    assert torch.equal(whole.inputs["type_mask"], expected.long())
    assert torch.equal(batch.inputs["mask"], own), "the loaded batch stays"


def test_labels_are_those_of_mixed_inputs():
    batch, plan = as_mixed_batch((torch.randn(6, 4), torch.arange(6) % 3)), draw_mixup(6, np.random.default_rng(2))
    planned = plan_batch(plan, batch)
    assert torch.equal(planned.inputs, batch.inputs)
    dense = torch.zeros(6, 3)
    for row in range(6):
        dense[row, row % 3] += plan.weight[row, 0]
        dense[row, int(plan.partner[row, 0]) % 3] += plan.weight[row, 1]
    torch.testing.assert_close(planned.label_mix.dense(3), dense)
    assert planned.mixed().any()
