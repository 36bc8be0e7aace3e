"""The order penalty on the student (KD-p)."""

from __future__ import annotations

from torch import Tensor

from ida_lightning.losses import order_penalty
from ida_lightning.losses.order_penalty import PenaltyForm, check_penalty
from ida_lightning.methods.base import LossMethod
from ida_lightning.supervision import Supervision


class OrderPenaltyCallback(LossMethod):
    """Adds a penalty to the loss where the student's own probabilities break the order of the mixed images' labels.

    The soft labels stay as they are. Logs the penalty as it enters the loss, ``train/order_penalty``.

    Args:
        sigma: weight of the penalty; the paper recommends 2.
        form: see :func:`ida_lightning.order_penalty`.
        name: see :class:`~ida_lightning.methods.base.Method`.

    Raises:
        InputError: for values out of range, and a module without ``register_loss_term``.

    Example:
        >>> from lightning import Trainer
        >>> trainer = Trainer(callbacks=[OrderPenaltyCallback(sigma=2.0)], logger=False)

    References:
        Cui and Yan, IJCAI 2021, arXiv 2107.01412, KD-p.
    """

    term = "order_penalty"

    def __init__(self, sigma: float = 2.0, form: PenaltyForm = "edges", name: str | None = None) -> None:
        check_penalty(sigma, form)
        super().__init__(name)
        self.sigma = sigma
        self.form = form

    def loss(self, student_logits: Tensor, supervision: Supervision) -> Tensor:
        """Compute the penalty of every row that counts in the loss."""
        penalty = order_penalty(student_logits, supervision.label_mix, self.sigma, self.form)
        return penalty * (supervision.weight > 0)
