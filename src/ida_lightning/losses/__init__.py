"""Losses of distillation, one value per row; computed in float32 or better."""

from ida_lightning.losses.cross_entropy import mixed_cross_entropy
from ida_lightning.losses.distillation import distillation_loss
from ida_lightning.losses.order_penalty import order_penalty

__all__ = ["distillation_loss", "mixed_cross_entropy", "order_penalty"]
