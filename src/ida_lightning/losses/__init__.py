"""Losses of distillation, one value per row; computed in float32 or better."""

from ida_lightning.losses.cross_entropy import mixed_cross_entropy
from ida_lightning.losses.distillation import distillation_loss
from ida_lightning.losses.order_penalty import order_penalty
from ida_lightning.losses.squared import logit_loss, probability_loss

__all__ = ["distillation_loss", "logit_loss", "mixed_cross_entropy", "order_penalty", "probability_loss"]
