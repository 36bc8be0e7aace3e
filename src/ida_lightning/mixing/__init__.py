"""Mixing images, or other inputs, with the label order kept: draw a plan, then apply it."""

from ida_lightning.mixing.apply import mix_images, mix_inputs, mix_labels
from ida_lightning.mixing.draw import Mixing, MixingKind, draw_cutmix, draw_mixup, draw_mosaic
from ida_lightning.mixing.inside import mix_rows, plan_batch
from ida_lightning.mixing.plan import InnerPlan, MixedBatch, MixPlan, PlainImages, Size
from ida_lightning.mixing.pools import mix_batch, stack_pool, with_plain

__all__ = [
    "InnerPlan",
    "MixPlan",
    "MixedBatch",
    "Mixing",
    "MixingKind",
    "PlainImages",
    "Size",
    "draw_cutmix",
    "draw_mixup",
    "draw_mosaic",
    "mix_batch",
    "mix_images",
    "mix_inputs",
    "mix_labels",
    "mix_rows",
    "plan_batch",
    "stack_pool",
    "with_plain",
]
