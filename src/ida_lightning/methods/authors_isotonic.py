"""KD-i as the code released with the paper computes it, in every choice in which that departs from the paper."""

from __future__ import annotations

from typing import get_args

import torch
from torch import Tensor

from ida_lightning.errors import one_of
from ida_lightning.isotonic import Solver, isotonic_soft_labels
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
            corrected = isotonic_soft_labels(logits_behind(supervision), order, self.solver)
            corrected = (corrected / temperature).softmax(1)
            self.measure(order_rows(violated_rows(soft_labels, mix), soft_labels, soft_labels, mix))
        student_probs = student_logits.softmax(1, dtype=torch.promote_types(student_logits.dtype, torch.float32))
        loss = distillation_loss(student_probs, corrected, temperature)
        return _WEIGHT * (supervision.soft_weight > 0) * loss


def logits_behind(supervision: Supervision) -> Tensor:
    """Return the logits that are corrected ``(batch, classes)``: read back from the soft labels, as hooks left them.

    Where a class is so far below the others that its soft label underflowed, nothing can be read back. Such rows are
    the teacher's own logits, as long as no hook has changed the row.
    """
    soft_labels, temperature = supervision.soft_labels, supervision.temperature
    tiny = torch.finfo(soft_labels.dtype).tiny
    teacher_logits = supervision.teacher_logits
    unchanged = ((teacher_logits / temperature).softmax(1) == soft_labels).all(1, keepdim=True)
    lost = unchanged & (soft_labels < tiny).any(1, keepdim=True)
    return torch.where(lost, teacher_logits, soft_labels.clamp_min(tiny).log() * temperature)


def authors_order(label_mix: LabelMix, num_classes: int) -> LabelMix:
    """Return the pair of classes that the released code ranks in every row.

    They are the two largest entries of the target, so that a row of one class has a second one too, and of two classes
    of equal weight one lies above the other.
    """
    labels = label_mix.dense(num_classes).topk(2, dim=1).indices
    # Any weight that ranks the second below the first.
    return LabelMix.pair(labels[:, 0], labels[:, 1], 0.75)
