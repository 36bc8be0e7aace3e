"""Sorting of every training batch's soft labels into the order of their hard labels."""

from __future__ import annotations

from ida_lightning.methods.base import SupervisionMethod, order_rows
from ida_lightning.metrics import violated_rows
from ida_lightning.supervision import Supervision
from ida_lightning.truth import exchange_values


class ValueExchangeCallback(SupervisionMethod):
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

    def transform(self, supervision: Supervision) -> Supervision:
        """Exchange the values, and measure."""
        before, mix = supervision.soft_labels, supervision.label_mix
        after = exchange_values(before, mix)
        self.measure(order_rows(violated_rows(before, mix), before, after, mix))
        return supervision._replace(soft_labels=after)
