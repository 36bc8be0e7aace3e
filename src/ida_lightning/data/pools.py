"""Batches of mixed images: one by a plan, and a pool of several mixes behind the clean images."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from ida_lightning.label_mix import LabelMix
from ida_lightning.mixing import MixedBatch, MixPlan, mix_images, mix_labels


def mix_batch(plan: MixPlan, clean: MixedBatch) -> MixedBatch:
    """Mix a batch of augmented, normalised images by a plan."""
    return MixedBatch(
        mix_images(clean.inputs, plan),
        mix_labels(clean.label_mix.labels[:, 0], plan),
        clean.index,
        plan.partner.to(clean.inputs.device, non_blocking=True),
    )


def stack_pool(clean: MixedBatch, mixes: list[MixedBatch]) -> MixedBatch:
    """Return one batch of the clean rows and their mixes, whose partners are the clean rows, so never themselves."""
    several = mixes[0].label_mix.labels.shape[1]
    labels, weights = clean.label_mix
    mix = LabelMix(labels.expand(-1, several), F.pad(weights, (0, several - 1)))
    views = [clean._replace(label_mix=mix, partner=clean.partner.expand(-1, several - 1)), *mixes]
    return MixedBatch(
        torch.cat([view.inputs for view in views]),
        LabelMix(*(torch.cat(part) for part in zip(*(view.label_mix for view in views), strict=True))),
        torch.cat([view.index for view in views]),
        torch.cat([view.partner for view in views]),
    )
