"""The losses of label revision: other terms where the teacher is wrong than where it is right."""

from __future__ import annotations

from typing import Literal, get_args

import lightning as L
from torch import Tensor

from ida_lightning.errors import InputError
from ida_lightning.losses import logit_loss, mixed_cross_entropy, probability_loss
from ida_lightning.methods.base import JoiningCallback
from ida_lightning.metrics import violated_rows
from ida_lightning.supervision import Supervision

RevisionForm = Literal["mse", "kl"]


class RevisionLossCallback(JoiningCallback):
    """Lets the student pay as in label revision: the ground truth and the logits where the teacher is right.

    A row is *wrong* where the teacher's own logits break the order of its hard label, and *taught* where its
    ``soft_weight`` is not 0; the others are left to the ground truth (by :class:`DataSelectionCallback`, for example).
    Instead of the module's own two parts a row pays, with form ``"mse"``,

    * ``label_loss``: ``hard_weight`` times the cross-entropy, on all rows but those that are wrong and taught;
    * ``logit_loss``: ``soft_weight * logit_weight`` times the mean square difference to the teacher's logits, where it
      is right;
    * ``probability_loss``: ``soft_weight * probability_weight`` times the mean square difference between the student's
      probabilities and the soft label, where it is wrong. :class:`LabelRevisionCallback` is what revises that label.

    Form ``"kl"`` has the ``label_loss`` and keeps the module's ``kd_loss`` with the soft label on all taught rows. Each
    part is the mean over all rows of the batch, so that what a row counts does not depend on how many others are wrong.
    The order of the callbacks does not matter.

    With the default weights, ``soft_weight: 1``, ``hard_weight: 1`` and ``temperature: 1`` this is the loss of the only
    known code, up to its means over the rows of each kind. At many classes nearly all mixed images are wrong, and the
    squares of probabilities are small: use ``"kl"`` there.

    Args:
        form: see above.
        logit_weight: lambda 1.
        probability_weight: lambda 2.

    Raises:
        InputError: for values out of range, and a module without ``register_loss_term``.

    Example:
        >>> from lightning import Trainer
        >>> trainer = Trainer(callbacks=[RevisionLossCallback()], logger=False)

    References:
        Lan et al., arXiv 2404.03693; the weights are those of a re-implementation (Sun et al., ICCV 2025, 2408.07703).
    """

    def __init__(self, form: RevisionForm = "mse", logit_weight: float = 4.0, probability_weight: float = 1.0) -> None:
        if form not in get_args(RevisionForm):
            raise InputError(f"form: expected one of {', '.join(get_args(RevisionForm))}, got {form!r}")
        for name, weight in (("logit_weight", logit_weight), ("probability_weight", probability_weight)):
            if not weight >= 0:
                raise InputError(f"{name}: expected a number >= 0, got {weight}")
        super().__init__()
        self.form = form
        self.logit_weight = logit_weight
        self.probability_weight = probability_weight

    def _join(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._register(module, "register_loss_term", "label_loss", self._label, replaces="hard_loss")
        if self.form == "mse":
            self._register(module, "register_loss_term", "logit_loss", self._logit, replaces="kd_loss")
            self._register(module, "register_loss_term", "probability_loss", self._probability)

    def _label(self, student_logits: Tensor, supervision: Supervision) -> Tensor:
        revised = _wrong(supervision) & (supervision.soft_weight > 0)
        return supervision.hard_weight * ~revised * mixed_cross_entropy(student_logits, supervision.label_mix)

    def _logit(self, student_logits: Tensor, supervision: Supervision) -> Tensor:
        weight = self.logit_weight * supervision.soft_weight * ~_wrong(supervision)
        return weight * logit_loss(student_logits, supervision.teacher_logits)

    def _probability(self, student_logits: Tensor, supervision: Supervision) -> Tensor:
        weight = self.probability_weight * supervision.soft_weight * _wrong(supervision)
        return weight * probability_loss(student_logits, supervision.soft_labels, supervision.temperature)


def _wrong(supervision: Supervision) -> Tensor:
    return violated_rows(supervision.teacher_logits, supervision.label_mix)
