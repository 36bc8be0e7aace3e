"""Mixed images that only the teacher labels, beside clean ones (TLmixup, TLCutMix)."""

from __future__ import annotations

import lightning as L

from ida_lightning.data_facts import facts_of
from ida_lightning.errors import InputError, flag
from ida_lightning.methods.base import SupervisionMethod
from ida_lightning.picking import label_by_teacher
from ida_lightning.supervision import Supervision


class TeacherLabelCallback(SupervisionMethod):
    """Takes the hard label away from mixed images: the teacher knows better than lambda what a mix shows.

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
        name: see :class:`~ida_lightning.methods.base.Method`.

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

    def __init__(self, hard_label: bool = False, name: str | None = None) -> None:
        super().__init__(name)
        self.hard_label = flag("hard_label", hard_label)

    def register(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Register the transform with a module whose batches have clean rows."""
        # A row that chance mixed with itself would be all the clean rows there are, and weigh as much as a batch.
        if facts_of(trainer).pool == 0:
            raise InputError(f"{self}: expected clean rows beside the mixed ones, data.pool: 1 or more, got 0")
        super().register(trainer, module)

    def transform(self, supervision: Supervision) -> Supervision:
        """Weigh clean and mixed rows, and take the hard label from the mixed ones."""
        if supervision.mixed is None:
            raise InputError(f"{self}: expected a supervision that says which rows were mixed, got none")
        return label_by_teacher(supervision, self.hard_label)
