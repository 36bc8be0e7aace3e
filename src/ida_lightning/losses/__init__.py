"""Losses of distillation, one value per row; computed in float32 or better."""

from ida_lightning.losses.base import DistillationLoss, Taught
from ida_lightning.losses.correlation import DIST, CorrelationDistance, correlation_loss, dist_loss
from ida_lightning.losses.cross_entropy import mixed_cross_entropy
from ida_lightning.losses.distillation import KL, distillation_loss
from ida_lightning.losses.dkd import DKD, dkd_loss
from ida_lightning.losses.multi_level import MLKD, multi_level_loss
from ida_lightning.losses.nkd import NKD, nkd_loss
from ida_lightning.losses.order_penalty import order_penalty
from ida_lightning.losses.squared import logit_loss, probability_loss
from ida_lightning.losses.standardised import LogitStandardisation, standardise_logits

__all__ = [
    "DIST",
    "DKD",
    "KL",
    "MLKD",
    "NKD",
    "CorrelationDistance",
    "DistillationLoss",
    "LogitStandardisation",
    "Taught",
    "correlation_loss",
    "dist_loss",
    "distillation_loss",
    "dkd_loss",
    "logit_loss",
    "mixed_cross_entropy",
    "multi_level_loss",
    "nkd_loss",
    "order_penalty",
    "probability_loss",
    "standardise_logits",
]
