"""Sorting of every training batch's soft labels into the order of their hard labels."""

from __future__ import annotations

from torch import Tensor

from ida_lightning.methods.base import SoftLabelMethod
from ida_lightning.supervision import Supervision
from ida_lightning.truth import exchange_values


class ValueExchangeCallback(SoftLabelMethod):
    """Sorts the values of every soft label into the order of its hard label, which makes no ties.

    See :func:`ida_lightning.exchange_values`. Logs ``train/exchange_violation_rate`` and the like, as
    :class:`~ida_lightning.methods.TruthBlendCallback` does.

    Args:
        name: see :class:`~ida_lightning.methods.base.Method`.

    Example:
        >>> from lightning import Trainer
        >>> trainer = Trainer(callbacks=[ValueExchangeCallback()], logger=False)
    """

    prefix = "exchange_"

    def replace(self, supervision: Supervision) -> Tensor:
        """Exchange the values."""
        return exchange_values(supervision.soft_labels, supervision.label_mix)
