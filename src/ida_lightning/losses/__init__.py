"""Losses of distillation, one value per row; computed in float32 or better."""

from ida_lightning.losses.cross_entropy import mixed_cross_entropy
from ida_lightning.losses.distillation import distillation_loss

__all__ = ["distillation_loss", "mixed_cross_entropy"]
