"""Batches of mixed images: one by a plan, and a pool of several mixes behind the clean images."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from ida_lightning.errors import InputError, is_a, kind_of
from ida_lightning.inputs import join_rows, rows_in
from ida_lightning.label_mix import LabelMix
from ida_lightning.mixing.apply import mix_inputs, mix_labels
from ida_lightning.mixing.plan import MixedBatch, MixPlan, PlainImages


def mix_batch(plan: MixPlan, clean: MixedBatch) -> MixedBatch:
    """Mix a batch of augmented, normalised images, or of other inputs, by a plan.

    Args:
        plan: drawn for so many images of this size, see :meth:`Mixing.draw`.
        clean: unmixed, see :func:`ida_lightning.as_mixed_batch`.

    Raises:
        InputError: for inputs of another kind, batch or size than the plan is for.

    Example:
        >>> import numpy as np
        >>> from ida_lightning import as_mixed_batch, draw_mixup
        >>> clean = as_mixed_batch((torch.zeros(2, 3, 4, 4), torch.tensor([0, 1])))
        >>> mix_batch(draw_mixup(2, np.random.default_rng(0)), clean).label_mix.labels.shape
        torch.Size([2, 2])
    """
    is_a("clean", clean, MixedBatch)
    return MixedBatch(
        mix_inputs(clean.inputs, plan),
        mix_labels(clean.label_mix.labels[:, 0], plan),
        clean.index,
        plan.partner.to(clean.index.device, non_blocking=True),
    )


def stack_pool(clean: MixedBatch, mixes: list[MixedBatch]) -> MixedBatch:
    """Return one batch of the clean rows and their mixes, whose partners are the clean rows, so never themselves.

    Args:
        clean: unmixed.
        mixes: of the clean rows, one or more; see :func:`mix_batch`.

    Raises:
        InputError: for anything but batches, and if there are no mixes.
    """
    is_a("clean", clean, MixedBatch)
    if not isinstance(mixes, (list, tuple)) or not mixes or not all(isinstance(mix, MixedBatch) for mix in mixes):
        raise InputError(f"mixes: expected a list of one or more MixedBatch, got {kind_of(mixes)}")
    several = mixes[0].label_mix.labels.shape[1]
    labels, weights = clean.label_mix
    mix = LabelMix(labels.expand(-1, several), F.pad(weights, (0, several - 1)))
    views = [clean._replace(label_mix=mix, partner=clean.partner.expand(-1, several - 1)), *mixes]
    return MixedBatch(
        join_rows([view.inputs for view in views]),
        LabelMix(*(torch.cat(part) for part in zip(*(view.label_mix for view in views), strict=True))),
        torch.cat([view.index for view in views]),
        torch.cat([view.partner for view in views]),
    )


def with_plain(batch: MixedBatch, clean: MixedBatch, plans: list[MixPlan]) -> MixedBatch:
    """Return a batch that knows the unmixed images it was made of, for a teacher that looks at those.

    Args:
        batch: made of ``clean``: by the one plan (:func:`mix_batch`), by none, or the clean rows and a mix of them by
            every plan (:func:`stack_pool`).
        clean: unmixed.
        plans: that were applied, in their order.

    Raises:
        InputError: for anything but batches and plans, and a batch of another number of rows.

    Example:
        >>> import numpy as np
        >>> from ida_lightning import as_mixed_batch, draw_mixup
        >>> clean = as_mixed_batch((torch.zeros(2, 3, 4, 4), torch.tensor([0, 1])))
        >>> plan = draw_mixup(2, np.random.default_rng(0))
        >>> with_plain(mix_batch(plan, clean), clean, [plan]).plain[0].rows[:, 0]
        tensor([0, 1])
    """
    itself, device = torch.arange(rows_in(is_a("clean", clean, MixedBatch).inputs))[:, None], clean.index.device
    if not isinstance(plans, (list, tuple)) or not all(isinstance(plan, MixPlan) for plan in plans):
        raise InputError(f"plans: expected a list of MixPlan, got {kind_of(plans)}")
    rows = [torch.cat((itself, plan.partner), 1) for plan in plans]
    weights = [plan.weight for plan in plans]
    mixed = rows_in(is_a("batch", batch, MixedBatch).inputs)
    if mixed == (1 + len(plans)) * len(itself):  # the clean rows come first
        several = max((part.shape[1] for part in rows), default=1)
        rows = [itself.expand(-1, several), *rows]
        weights = [F.pad(torch.ones(len(itself), 1), (0, several - 1)), *weights]
    if sum(map(len, rows)) != mixed:
        raise InputError(f"batch: expected the rows of clean, mixed by {len(plans)} plans, got {mixed}")
    found, shares = (torch.cat(part).to(device, non_blocking=True) for part in (rows, weights))
    return batch._replace(plain=(PlainImages(clean, found, shares),))
