"""The order penalty on the student (KD-p)."""

from __future__ import annotations

import lightning as L
from torch import Tensor

from ida_lightning.losses import order_penalty
from ida_lightning.losses.order_penalty import PenaltyForm, check_penalty
from ida_lightning.methods.base import JoiningCallback
from ida_lightning.supervision import Supervision


class OrderPenaltyCallback(JoiningCallback):
    """Makes the student pay where its own probabilities break the order of the mixed images' labels.

    The soft labels stay as they are. Logs the penalty as it enters the loss, ``train/order_penalty``.

    Args:
        sigma: weight of the penalty; the paper recommends 2.
        form: see :func:`ida_lightning.order_penalty`.

    Raises:
        InputError: for values out of range, and a module without ``register_loss_term``.

    Example:
        >>> from lightning import Trainer
        >>> trainer = Trainer(callbacks=[OrderPenaltyCallback(sigma=2.0)], logger=False)

    References:
        Cui and Yan, IJCAI 2021, arXiv 2107.01412, KD-p.
    """

    def __init__(self, sigma: float = 2.0, form: PenaltyForm = "edges") -> None:
        check_penalty(sigma, form)
        super().__init__()
        self.sigma = sigma
        self.form = form

    def _join(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._register(module, "register_loss_term", "order_penalty", self._term)

    def _term(self, student_logits: Tensor, supervision: Supervision) -> Tensor:
        # Rows that are left out of the other parts are left out of this one.
        counts = (supervision.soft_weight + supervision.hard_weight) > 0
        return order_penalty(student_logits, supervision.label_mix, self.sigma, self.form) * counts
