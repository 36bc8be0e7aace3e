"""Mixing inside a network: the plan that travels with an unmixed batch, and what a layer's output becomes."""

from __future__ import annotations

import torch
from torch import Tensor

from ida_lightning.errors import InputError, is_a, kind_of
from ida_lightning.inputs import Inputs
from ida_lightning.mixing.apply import mix_labels
from ida_lightning.mixing.plan import InnerPlan, MixedBatch, MixPlan


def plan_batch(plan: MixPlan, clean: MixedBatch) -> MixedBatch:
    """Mix the labels of a batch by a plan, and leave the inputs to the networks, which mix them in a layer.

    Masks in a mapping (entries whose names end in ``mask``) are joined: a mixed row shows what either of its rows does.

    Args:
        plan: drawn for so many rows, without rectangles; see :meth:`Mixing.draw`.
        clean: unmixed.

    Raises:
        InputError: for a plan with rectangles, or of another number of rows.

    Example:
        >>> import numpy as np
        >>> from ida_lightning import as_mixed_batch, draw_mixup
        >>> clean = as_mixed_batch(({"ids": torch.tensor([[3, 5], [4, 0]])}, torch.tensor([0, 1])))
        >>> batch = plan_batch(draw_mixup(2, np.random.default_rng(0)), clean)
        >>> batch.inputs["ids"].tolist(), batch.inner[0].weight.shape
        ([[3, 5], [4, 0]], torch.Size([2, 2]))
    """
    is_a("plan", plan, MixPlan).check()
    is_a("clean", clean, MixedBatch)
    if bool((plan.box[..., 2:] > plan.box[..., :2]).all(-1).any()):
        raise InputError("mixing.kind: expected mixup to mix inside a network, got rectangles, which need pixels")
    device = clean.index.device
    mix = mix_labels(clean.label_mix.labels[:, 0], plan)
    inner = InnerPlan(*(field.to(device, non_blocking=True) for field in (plan.partner, plan.weight)))
    return MixedBatch(_with_joined_masks(clean.inputs, inner), mix, clean.index, inner.partner, inner=(inner,))


def mix_rows(values: Tensor, plan: InnerPlan) -> Tensor:
    """Return what a layer gives, ``(batch, ...)``, mixed by a plan; a row that is wholly its own stays bit for bit.

    Differentiable, and a function of tensors alone, so that it compiles with the network.

    Args:
        values: floating point.
        plan: of as many rows.

    Raises:
        InputError: for values of another kind or number of rows.

    Example:
        >>> plan = InnerPlan(torch.tensor([[1], [0]]), torch.tensor([[0.75, 0.25], [1.0, 0.0]]))
        >>> mix_rows(torch.tensor([[4.0], [8.0]]), plan)
        tensor([[5.],
                [8.]])
    """
    if not isinstance(plan, InnerPlan):
        raise InputError(f"plan: expected an InnerPlan, got {kind_of(plan)}")
    rows = len(plan.weight)
    if not isinstance(values, Tensor) or not values.is_floating_point() or not values.ndim or len(values) != rows:
        raise InputError(f"values: expected floating point ({rows}, ...), the rows of the batch, got {kind_of(values)}")
    shares = plan.weight.reshape(*plan.weight.shape, *[1] * (values.ndim - 1))
    mixed = shares[:, 0] * values
    for column in range(plan.partner.shape[1]):
        # Not by indexing: in half precision its gradient takes a CPU twice as long.
        mixed = mixed + shares[:, column + 1] * values.index_select(0, plan.partner[:, column])
    return torch.where(shares[:, 0] == 1, values, mixed.to(values.dtype))


def _with_joined_masks(inputs: Inputs, plan: InnerPlan) -> Inputs:
    if isinstance(inputs, Tensor):
        return inputs
    return {name: _joined(mask, plan) if name.endswith("mask") else mask for name, mask in inputs.items()}


def _joined(mask: Tensor, plan: InnerPlan) -> Tensor:
    """Return a mask ``(batch, ...)`` that shows what the row or one of its partners shows."""
    for column in range(plan.partner.shape[1]):
        counts = plan.weight[:, column + 1].reshape(-1, *[1] * (mask.ndim - 1)) > 0
        other = mask[plan.partner[:, column]]
        mask = torch.where(counts, torch.maximum(mask, other), mask)
    return mask
