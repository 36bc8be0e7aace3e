"""KD-i as the code released with the paper computes it, in every choice in which that departs from the paper."""

from __future__ import annotations

from typing import get_args

import torch
from torch import Tensor

from ida_lightning.errors import one_of
from ida_lightning.isotonic import Solver, correct_soft_labels
from ida_lightning.label_mix import LabelMix
from ida_lightning.losses import distillation_loss
from ida_lightning.methods.base import LossMethod, order_rows
from ida_lightning.metrics import violated_rows
from ida_lightning.supervision import Supervision

_WEIGHT = 2.0


class AuthorsIsotonicCallback(LossMethod):
    """Adds the corrected term of the code released with the IDA paper, term for term.

    It corrects logits; it adds the corrected term with weight 2 beside the uncorrected one; it takes the student's
    softmax twice (probabilities are passed where logits are expected, so the term can hardly pull); and where both
    images are of one class it ranks a second class that ``torch.topk`` happens to return. For what the paper describes
    use :class:`IsotonicSoftLabelCallback`; the two are never mixed.

    Logs ``train/corrected_loss`` as it enters the loss and, as :class:`IsotonicSoftLabelCallback` does,
    ``train/violation_rate``, ``train/violation_rate_corrected`` and ``train/moved_mass`` of the soft label, which this
    one leaves as it is.

    Args:
        solver: see :func:`ida_lightning.isotonic_soft_labels`.
        name: see :class:`~ida_lightning.methods.base.Method`.

    Raises:
        InputError: for an unknown solver, and a module without ``register_loss_term``.

    Example:
        >>> from lightning import Trainer
        >>> trainer = Trainer(callbacks=[AuthorsIsotonicCallback()], logger=False)

    References:
        Cui and Yan, IJCAI 2021, arXiv 2107.01412; its released code as described in docs/paper_figures.md.
    """

    prefix = ""
    term = "corrected_loss"

    def __init__(self, solver: Solver = "auto", name: str | None = None) -> None:
        super().__init__(name)
        self.solver: Solver = one_of("solver", solver, get_args(Solver))

    def loss(self, student_logits: Tensor, supervision: Supervision) -> Tensor:
        """Compute the corrected term of every row that is distilled."""
        mix, soft_labels, temperature = supervision.label_mix, supervision.soft_labels, supervision.temperature
        with torch.no_grad():
            order = authors_order(mix, soft_labels.shape[1])
            corrected = correct_soft_labels(soft_labels, order, temperature, "logits", self.solver)
            self.measure(order_rows(violated_rows(soft_labels, mix), soft_labels, soft_labels, mix))
        student_probs = student_logits.softmax(1, dtype=torch.promote_types(student_logits.dtype, torch.float32))
        loss = distillation_loss(student_probs, corrected, temperature)
        return _WEIGHT * (supervision.soft_weight > 0) * loss


def authors_order(label_mix: LabelMix, num_classes: int) -> LabelMix:
    """Return the pair of classes that the released code ranks in every row, also where a row has only one class."""
    weights, labels = label_mix.dense(num_classes).topk(2, dim=1)
    # Any weight that ranks the second below the first.
    return LabelMix.pair(labels[:, 0], labels[:, 1], torch.where(weights[:, 1] > 0, weights[:, 0], 0.75))
