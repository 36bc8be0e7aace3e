"""Mixing images with the label order kept: draw a plan, then apply it."""

from ida_lightning.mixing.apply import mix_images, mix_labels
from ida_lightning.mixing.draw import Mixing, MixingKind, draw_cutmix, draw_mixup, draw_mosaic
from ida_lightning.mixing.plan import MixedBatch, MixPlan, Size
from ida_lightning.mixing.pools import mix_batch, stack_pool

__all__ = [
    "MixPlan",
    "MixedBatch",
    "Mixing",
    "MixingKind",
    "Size",
    "draw_cutmix",
    "draw_mixup",
    "draw_mosaic",
    "mix_batch",
    "mix_images",
    "mix_labels",
    "stack_pool",
]
