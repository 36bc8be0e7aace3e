"""Blending of every training batch's soft labels with the truth."""

from __future__ import annotations

from typing import Any, Literal, get_args

import lightning as L
from torch import Tensor

from ida_lightning.errors import one_of
from ida_lightning.methods.base import SoftLabelMethod
from ida_lightning.methods.ramp import Ramp, value_now
from ida_lightning.supervision import Supervision
from ida_lightning.truth import Rows, blend_with_truth, checked_auto_share, truth_needed


class TruthBlendCallback(SoftLabelMethod):
    """Blends soft labels with their hard labels: the weaker the teacher, the larger the share of truth it needs.

    See :func:`ida_lightning.blend_with_truth`. Logs epoch means over the training rows:
    ``train/blend_violation_rate`` (rows whose order was broken), ``train/blend_violation_rate_corrected`` (rows where
    it still is), ``train/blend_moved_mass``, and with ``"auto"`` ``train/blend_share``.

    Args:
        share: of the truth, from 0 to 1, a :class:`~ida_lightning.methods.ramp.Ramp` over the epochs, or ``"auto"``:
            on every batch what :func:`ida_lightning.truth_needed` says of the teacher's answers to it, which needs no
            validation images and no earlier pass.
        rows: ``"all"``; ``"wrong"``: those that break their order; ``"missed"``: those whose heaviest class is not in
            the image.
        name: see :class:`~ida_lightning.methods.base.Method`.

    Raises:
        InputError: for values out of range, and a module without the hook.

    Example:
        >>> from lightning import Trainer
        >>> trainer = Trainer(callbacks=[TruthBlendCallback(share=0.3)], logger=False)
    """

    prefix = "blend_"

    def __init__(
        self, share: float | Ramp | Literal["auto"] = 0.3, rows: Rows = "all", name: str | None = None
    ) -> None:
        super().__init__(name)
        self.share = share if isinstance(share, Ramp) else checked_auto_share("share", share)
        self.rows: Rows = one_of("rows", rows, get_args(Rows))
        self._present: float | Literal["auto"] = share.start if isinstance(share, Ramp) else share

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        """Move the share along its ramp."""
        super().on_train_batch_start(trainer, pl_module, *args)
        if isinstance(self.share, Ramp):
            self._present = value_now(self.share, trainer)

    def replace(self, supervision: Supervision) -> Tensor:
        """Blend the soft labels with the truth."""
        return blend_with_truth(supervision.soft_labels, supervision.label_mix, self._present, self.rows)

    def measured_rows(self, supervision: Supervision, after: Tensor) -> dict[str, Tensor]:
        """Return what is logged of a batch, the share that was found for it among it."""
        rows = super().measured_rows(supervision, after)
        if self._present == "auto":
            needed = truth_needed(supervision.soft_labels, supervision.label_mix)
            rows["share"] = needed.expand(len(after))
        return rows
