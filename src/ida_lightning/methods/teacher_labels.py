"""Mixed images that only the teacher labels, beside clean ones (TLmixup, TLCutMix)."""

from __future__ import annotations

import lightning as L
import torch

from ida_lightning.errors import InputError
from ida_lightning.methods.base import JoiningCallback
from ida_lightning.supervision import Supervision


class TeacherLabelCallback(JoiningCallback):
    """Takes the hard label away from mixed images: what a mix shows, the teacher knows better than its lambda.

    For batches that hold clean images and mixes of them (``pool`` of the data module). With C clean and M mixed rows
    the loss is, in the words of :class:`~ida_lightning.modules.DistillationModule`::

        mean over C (soft_weight * distillation loss + hard_weight * cross-entropy)
        + mean over M (soft_weight * distillation loss)

    as in the released code, where it is 0.9 and 0.1: so the soft part weighs twice what it does without mixed rows.
    Since the module takes the mean over all rows, the weights of clean rows are multiplied by (C + M) / C and those of
    mixed rows by (C + M) / M: each kind then has the weight that all rows had together, also where a hook before this
    one has dropped rows. The student sees all rows in one pass, so its BatchNorm does too.

    Args:
        hard_label: keep the hard label of mixed rows, with the module's ``hard_weight``: the variant that the paper
            finds worse ("KD + CutMix").

    Raises:
        InputError: for a module without ``register_supervision_hook``, a data module whose batches have no clean
            rows, and, in training, a supervision that does not say which rows were mixed.

    Example:
        >>> from lightning import Trainer
        >>> trainer = Trainer(callbacks=[TeacherLabelCallback()], logger=False)

    References:
        Wang et al., What Makes a "Good" Data Augmentation in Knowledge Distillation, NeurIPS 2022, arXiv 2012.02909,
        section 3.2 of its version "Understanding the Success of KD" (TLmixup, TLCutMix).
    """

    def __init__(self, hard_label: bool = False) -> None:
        super().__init__()
        self.hard_label = hard_label

    def _join(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        # A row that chance mixed with itself would be all the clean rows there are, and weigh as much as a batch.
        if getattr(getattr(trainer, "datamodule", None), "pool", None) == 0:
            raise InputError(
                "TeacherLabelCallback: expected clean rows beside the mixed ones, data.pool: 1 or more, got 0"
            )
        self._register(module, "register_supervision_hook", self._weigh)

    def _weigh(self, supervision: Supervision) -> Supervision:
        mixed = supervision.mixed
        if mixed is None:
            raise InputError("TeacherLabelCallback: expected a supervision that says which rows were mixed, got none")
        # By weights and not by numbers of rows, so that it comes to the same where rows were picked before.
        weight = supervision.soft_weight + supervision.hard_weight
        of_kind = torch.where(mixed, (weight * mixed).sum(), (weight * ~mixed).sum())
        factor = torch.where(of_kind > 0, weight.sum() / of_kind, 0)
        hard_weight = factor * supervision.hard_weight
        return supervision._replace(
            soft_weight=factor * supervision.soft_weight,
            hard_weight=hard_weight if self.hard_label else hard_weight.masked_fill(mixed, 0),
        )
