"""Revision of every training batch's wrong soft labels with the ground truth (LR)."""

from __future__ import annotations

from torch import Tensor

from ida_lightning.methods.base import SoftLabelMethod
from ida_lightning.revision_selection.revision import RevisionSpace, Which, check_revision, revise_soft_labels
from ida_lightning.supervision import Supervision


class LabelRevisionCallback(SoftLabelMethod):
    """Blends wrong soft labels with the hard label until its order holds with a margin, on the device, per batch.

    On an image of one class the target is lifted ``1 - eta`` above the class that the teacher had on top; on a mixed
    image every class keeps at least the share ``1 - eta`` of the hard label's lead over every lighter one. See
    :func:`ida_lightning.revise_soft_labels`. It stands beside :class:`IsotonicSoftLabelCallback` and acts on the soft
    label as the hooks before this one left it: whichever comes second finds nothing left to do.

    Logs epoch means over the training rows: ``train/revision_violation_rate`` (rows whose order was broken),
    ``train/revision_violation_rate_corrected`` (rows where it still is), ``train/revision_moved_mass``.

    Args:
        eta: between 0 and 1; what is not margin. The only known code uses 0.8.
        which: ``"wrong"`` revises rows that break their order; ``"all"`` blends the others too, with beta = eta.
            Whether the paper revises all is not known to us.
        space: ``"softened"`` revises the soft label itself, softmax(z / T), ``"probabilities"`` softmax(z), which is
            softened afterwards.
        name: see :class:`~ida_lightning.methods.base.Method`.

    Raises:
        InputError: for values out of range, and a module without the hook.

    Example:
        >>> from lightning import Trainer
        >>> trainer = Trainer(callbacks=[LabelRevisionCallback(eta=0.8)], logger=False)

    References:
        Lan et al., Improve Knowledge Distillation via Label Revision and Data Selection, arXiv 2404.03693.
    """

    prefix = "revision_"

    def __init__(
        self, eta: float = 0.8, which: Which = "wrong", space: RevisionSpace = "softened", name: str | None = None
    ) -> None:
        check_revision(eta, which, space)
        super().__init__(name)
        self.eta = eta
        self.which = which
        self.space = space

    def replace(self, supervision: Supervision) -> Tensor:
        """Revise the soft labels."""
        before, mix = supervision.soft_labels, supervision.label_mix
        return revise_soft_labels(before, mix, self.eta, self.which, supervision.temperature, self.space)
