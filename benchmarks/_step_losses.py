"""The losses whose steps are measured beside one with KL, and what each keeps for its backward pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ida_lightning.label_mix import LabelMix
from ida_lightning.losses import DIST, DKD, KL, MLKD, NKD, CorrelationDistance, DistillationLoss, LogitStandardisation
from ida_lightning.methods import (
    AttentionCallback,
    Contrast,
    CRDCallback,
    FeatureLoss,
    HintCallback,
    RKDCallback,
    SimilarityCallback,
)
from ida_lightning.mixing import MixedBatch
from ida_lightning.supervision import Supervision

LOGIT_LOSSES: dict[str, DistillationLoss] = {
    "dkd": DKD(),
    "nkd": NKD(),
    "dist": DIST(),
    "pearson": CorrelationDistance(),
    "rank": CorrelationDistance("rank"),
    "mlkd": MLKD(),
    "standardised": LogitStandardisation(),
}
FEATURE_LOSSES = ("hint", "attention", "similarity", "rkd", "crd")
LOSS_BUDGETS = (
    *((name, "kd", 1.02) for name in LOGIT_LOSSES),
    *((name, "kd", 1.10) for name in FEATURE_LOSSES),
)


def feature_loss(name: str, layers: list[str], images: int) -> FeatureLoss:
    """A feature loss on layers that both networks have."""
    if name == "hint":
        return HintCallback(layers[-1], layers[-1])
    if name == "attention":
        return AttentionCallback(layers, layers)
    if name == "crd":
        return CRDCallback(contrast=Contrast(negatives=min(16384, images - 1)))
    return {"similarity": SimilarityCallback, "rkd": RKDCallback}[name]()


def kept_bytes(loss: DistillationLoss, batch: int, classes: int) -> int:
    """Count the bytes that a loss keeps for its backward pass."""
    labels = torch.randint(classes, (2, batch))
    mixed = MixedBatch(torch.zeros(batch, 1), LabelMix.pair(*labels, 0.7), labels[0], labels[1:].T)
    taught = Supervision.from_teacher(mixed, torch.randn(batch, classes))
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    unchanged: Any = lambda tensor: tensor  # noqa: E731
    with torch.autograd.graph.saved_tensors_hooks(keep, unchanged):
        loss(torch.randn(batch, classes, requires_grad=True), taught).sum()
    return sum(kept.values())


def note_of(name: str, batch: int, classes: int) -> str:
    """Say what a loss of the logits keeps beside KL; nothing for others."""
    if name not in LOGIT_LOSSES:
        return ""
    own, kl = (kept_bytes(loss, batch, classes) for loss in (LOGIT_LOSSES[name], KL()))
    return f"keeps {own / 1e6:.2f} MB for its backward pass, KL {kl / 1e6:.2f}"
