"""The order penalty on the student (KD-p)."""

from __future__ import annotations

import lightning as L
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from ida_lightning.errors import InputError
from ida_lightning.losses import order_penalty
from ida_lightning.losses.order_penalty import PenaltyForm, check_penalty
from ida_lightning.supervision import Supervision


class OrderPenaltyCallback(L.Callback):
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
        self.sigma = sigma
        self.form = form
        self._handle: RemovableHandle | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Join the module's loss."""
        self.teardown(trainer, pl_module, stage)
        if stage != "fit":
            return
        register = getattr(pl_module, "register_loss_term", None)
        if not callable(register):
            raise InputError(
                "OrderPenaltyCallback: expected a module with register_loss_term, such as DistillationModule, got "
                f"{type(pl_module).__name__}"
            )
        self._handle = register("order_penalty", self._term)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Leave the module's loss."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def _term(self, student_logits: Tensor, supervision: Supervision) -> Tensor:
        # Rows that are left out of the other parts are left out of this one.
        counts = (supervision.soft_weight + supervision.hard_weight) > 0
        return order_penalty(student_logits, supervision.label_mix, self.sigma, self.form) * counts
