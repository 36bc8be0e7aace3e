"""The losses of label revision: other terms where the teacher is wrong than where it is right."""

from __future__ import annotations

from functools import partial
from typing import Literal, get_args

import lightning as L

from ida_lightning.errors import InputError, non_negative, one_of
from ida_lightning.methods.base import Method
from ida_lightning.revision_selection.losses import (
    revision_label_loss,
    revision_logit_loss,
    revision_probability_loss,
)
from ida_lightning.supervision import LossTerm

RevisionForm = Literal["mse", "kl"]


class RevisionLossCallback(Method):
    """Computes the student's loss as label revision does: other terms where the teacher is wrong than where right.

    A row is *wrong* where the teacher's own logits break the order of its hard label, and *taught* where its
    ``soft_weight`` is not 0; the others are left to the ground truth (by :class:`DataSelectionCallback`, for example).
    Instead of the module's own two parts the loss of a row is, with form ``"mse"``, the sum of

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
        logit_weight: lambda 1, of form ``"mse"`` only; None is 4.
        probability_weight: lambda 2, likewise; None is 1.
        name: see :class:`~ida_lightning.methods.base.Method`; the three terms have it before their names.

    Raises:
        InputError: for values out of range, and a module without ``register_loss_term``.

    Example:
        >>> from lightning import Trainer
        >>> trainer = Trainer(callbacks=[RevisionLossCallback()], logger=False)

    References:
        Lan et al., arXiv 2404.03693; the weights are those of a re-implementation (Sun et al., ICCV 2025, 2408.07703).
    """

    prefix = ""

    def __init__(
        self,
        form: RevisionForm = "mse",
        logit_weight: float | None = None,
        probability_weight: float | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        self.form: RevisionForm = one_of("form", form, get_args(RevisionForm))
        for argument, weight in (("logit_weight", logit_weight), ("probability_weight", probability_weight)):
            if weight is not None and form == "kl":
                raise InputError(f"{argument}: expected none with form kl, which has no such term, got {weight}")
        self.logit_weight = non_negative("logit_weight", 4.0 if logit_weight is None else logit_weight)
        self.probability_weight = non_negative(
            "probability_weight", 1.0 if probability_weight is None else probability_weight
        )

    def register(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Register the terms in the places of the module's own two parts."""
        self._register_term(module, "label_loss", revision_label_loss, replaces="hard_loss")
        if self.form == "mse":
            logit = partial(revision_logit_loss, weight=self.logit_weight)
            probability = partial(revision_probability_loss, weight=self.probability_weight)
            self._register_term(module, "logit_loss", logit, replaces="kd_loss")
            self._register_term(module, "probability_loss", probability)

    def _register_term(self, module: L.LightningModule, name: str, term: LossTerm, replaces: str | None = None) -> None:
        self.register_with(module, "register_loss_term", f"{self.log_prefix}{name}", term, replaces=replaces)
