"""Applying a plan to inputs and labels."""

from __future__ import annotations

import torch
from torch import Tensor

from ida_lightning.errors import InputError, int_vector, is_a, is_tensor, kind_of
from ida_lightning.inputs import Inputs, check_inputs, is_picture, on_each, rows_in, shown, tensors_in
from ida_lightning.label_mix import LabelMix
from ida_lightning.mixing.plan import MixPlan


def mix_images(images: Tensor, plan: MixPlan) -> Tensor:
    """Apply a plan to images ``(batch, channels, height, width)`` of any float dtype; returns new ones, same dtype.

    Raises:
        InputError: for images of another kind, batch or size than the plan is for.
    """
    is_a("plan", plan, MixPlan).check()
    expected = f"floating point ({len(plan.partner)}, channels, height, width), the batch of the plan"
    is_tensor("images", images, expected)
    if not images.is_floating_point() or images.ndim != 4 or len(images) != len(plan.partner):
        raise InputError(f"images: expected {expected}, got {kind_of(images)}")
    _check_size(images, plan)
    return _mixed(images, plan)


def mix_inputs(inputs: Inputs, plan: MixPlan) -> Inputs:
    """Apply a plan to inputs of any kind: floating point ``(batch, ...)``, or a mapping of such; returns new ones.

    Rectangles, so CutMix and mosaics, are for pictures ``(batch, channels, height, width)`` alone.

    Raises:
        InputError: for inputs that are no numbers to be added up, such as token ids, of another batch than the plan is
            for, or without height and width for its rectangles.

    Example:
        >>> import numpy as np
        >>> from ida_lightning import draw_mixup
        >>> mix_inputs(torch.rand(4, 20, 32), draw_mixup(4, np.random.default_rng(0))).shape
        torch.Size([4, 20, 32])
    """
    if is_picture(inputs):
        return mix_images(inputs, plan)
    is_a("plan", plan, MixPlan).check()
    check_inputs("inputs", inputs)
    if not all(tensor.is_floating_point() for tensor in tensors_in(inputs)) or rows_in(inputs) != len(plan.partner):
        raise InputError(
            f"inputs: expected floating point ({len(plan.partner)}, ...), the batch of the plan, got {shown(inputs)}; "
            "InnerMixingCallback mixes what cannot be added up inside the network"
        )
    if bool((plan.box[..., 2:] > plan.box[..., :2]).all(-1).any()):
        raise InputError(
            f"mixing.kind: expected mixup for inputs without height and width, got rectangles for {shown(inputs)}"
        )
    return on_each(lambda tensor: _mixed(tensor, plan), inputs)


def _mixed(images: Tensor, plan: MixPlan) -> Tensor:
    """Return new inputs, floating point ``(batch, ...)``; pictures where the plan has rectangles."""
    # Decisions look at the plan on the host, so that nothing waits for an accelerator.
    partner, box = (field.to(images.device, non_blocking=True) for field in (plan.partner, plan.box))
    mixed = images
    # Every step writes over the partners that it gathers: on CPUs, fresh memory costs more than the arithmetic.
    if bool((plan.opacity[:, 0] < 1).any()):
        # What the partners up to each one leave of the images before it. In float32: half precision rounds shares.
        so_far = plan.opacity.cumsum(1)
        kept = (so_far[:, :-1] / so_far[:, 1:]).nan_to_num_(1)
        mixed = images.to(torch.promote_types(images.dtype, kept.dtype))
        for column in range(kept.shape[1]):
            if bool((kept[:, column] < 1).any()):
                before = kept[:, column].reshape(-1, *[1] * (images.ndim - 1)).to(mixed, non_blocking=True)
                mixed = images.index_select(0, partner[:, column]).to(mixed.dtype).lerp_(mixed, before)
        mixed = mixed.to(images.dtype)
    for column in range(box.shape[1]):
        if bool((plan.box[:, column, 2:] > plan.box[:, column, :2]).all(1).any()):
            rows, columns = (torch.arange(side, device=images.device) for side in images.shape[2:])
            top, left, bottom, right = box[:, column, :, None].unbind(1)
            beside = ((columns < left) | (columns >= right)).to(images.dtype)[:, None, None, :]
            above_or_below = ((rows < top) | (rows >= bottom)).to(images.dtype)[:, None, :, None]
            # Shares of exactly 0 and 1: on CPUs several times as fast as torch.where.
            outside = torch.maximum(beside, above_or_below)
            mixed = images.index_select(0, partner[:, column]).lerp_(mixed, outside)
    return images.clone() if mixed is images else mixed


def mix_labels(labels: Tensor, plan: MixPlan) -> LabelMix:
    """Compute the label mix, heaviest class first, of rows with own labels ``(batch,)`` under a plan.

    Raises:
        InputError: for labels of another kind or batch than the plan is for.
    """
    is_a("plan", plan, MixPlan).check()
    int_vector("labels", labels, len(plan.partner))
    partner, weight = (field.to(labels.device, non_blocking=True) for field in (plan.partner, plan.weight))
    return LabelMix(torch.cat((labels[:, None], labels[partner]), 1), weight).canonical()


def _check_size(images: Tensor, plan: MixPlan) -> None:
    """Raise :class:`InputError` for images of another size than the plan's, where the label would be wrong."""
    size = images.shape[2:]
    if plan.size is not None and tuple(size) != tuple(plan.size):
        raise InputError(f"images: expected the size that the plan was drawn for, {plan.size}, got {kind_of(images)}")
