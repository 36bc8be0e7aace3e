"""Isotonic correction of every training batch's soft labels (KD-i)."""

from __future__ import annotations

from typing import Any, Literal, get_args

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from ida_lightning.errors import InputError, one_of
from ida_lightning.errors import share as checked_share
from ida_lightning.isotonic import Solver, Space, choose, correct_soft_labels, tries_on
from ida_lightning.label_mix import LabelMix
from ida_lightning.methods.base import SupervisionMethod, order_rows
from ida_lightning.methods.ramp import Ramp, checked_ramp, value_now
from ida_lightning.metrics import violated_rows
from ida_lightning.supervision import Supervision, blend_soft_labels
from ida_lightning.truth import isotonic_with_margin


class IsotonicSoftLabelCallback(SupervisionMethod):
    """Makes the teacher's soft labels respect the order of the mixed images' labels, on the device, per batch.

    Works with any LightningModule that offers ``register_supervision_hook``. Logs epoch means over the training
    rows: ``train/violation_rate`` (rows that broke the order as the teacher gave them),
    ``train/violation_rate_corrected`` (rows that still do), ``train/moved_mass`` (share of the soft label that was
    moved); where only the largest logits were stored also ``train/inexact_rate``, see :func:`inexact_rows`. To add a
    second loss term with the corrected label instead of replacing the soft label, wrap it in
    :class:`AddedTermCallback`; for the choices of the code released with the paper there is
    :class:`AuthorsIsotonicCallback`.

    Args:
        solver: see :func:`ida_lightning.isotonic_soft_labels`; what ``"auto"`` was found to be by trial is kept in
            checkpoints.
        space: what is corrected. ``"softened"``: the soft label itself, softmax(z / T).
            ``"probabilities"``: softmax(z), which is softened afterwards, so mass moves where the teacher is sharp.
            ``"logits"``: z, as the code released with the paper does. All three are derived from the soft label as
            the hooks before this one left it.
        strength: from 0 (measure only) to 1 (replace): the soft label becomes
            ``(1 - strength) * soft_label + strength * corrected``, which has the gradient of two loss terms with
            these weights.
        share: of the rows that break the order, how many are corrected, from 0 to 1; the others are treated as if they
            were in order. An image's position in the data set decides, so an image is drawn in every epoch or in
            none, and a larger share holds the rows of a smaller one. Rows without a position, of batches
            ``(images, targets)``, are drawn by their place in the batch.
        margin: from 0 (the minimal repair, which makes ties) to 1 (the hard label), in the softened space only: the
            share of the hard label's lead that is kept, see :func:`ida_lightning.isotonic_with_margin`; or a
            :class:`~ida_lightning.methods.ramp.Ramp` over the epochs. Rows in order that do not keep it are
            corrected too.
        name: see :class:`~ida_lightning.methods.base.Method`.

    Raises:
        InputError: for values out of range or that exclude each other, and a module without the hook.

    Example:
        >>> from lightning import Trainer
        >>> trainer = Trainer(callbacks=[IsotonicSoftLabelCallback(space="softened")], logger=False)

    References:
        Cui and Yan, IJCAI 2021, arXiv 2107.01412, KD-i.
    """

    prefix = ""

    def __init__(
        self,
        solver: Solver = "auto",
        space: Space = "softened",
        strength: float = 1.0,
        share: float = 1.0,
        margin: float | Ramp = 0.0,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        self.solver: Solver = one_of("solver", solver, get_args(Solver))
        self.space: Space = one_of("space", space, get_args(Space))
        self.strength = checked_share("strength", strength)
        self.share = checked_share("share", share)
        self.margin = checked_ramp("margin", margin)
        if space != "softened" and margin != 0:
            raise InputError(f"margin: expected 0 in {space} space, where a share of the hard label has no meaning")
        self._margin_now = margin.start if isinstance(margin, Ramp) else margin
        self._chosen: dict[str, Solver] = {}  # what "auto" was where it is a matter of trial
        self._resumed: dict[str, Solver] = {}

    def state_dict(self) -> dict[str, Any]:
        """Return what ``solver="auto"`` was found to be by trial, so that a resumed run computes the same."""
        return {"solvers": self._chosen} if self._chosen else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the solvers of the run that goes on."""
        self._resumed = dict(state_dict.get("solvers", {}))
        self._chosen = {}

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        """Move the margin along its ramp."""
        super().on_train_batch_start(trainer, pl_module, *args)
        self._margin_now = value_now(self.margin, trainer)

    def transform(self, supervision: Supervision) -> Supervision:
        """Correct the rows that break their order, or do not keep the margin, and measure."""
        before, mix = supervision.soft_labels, supervision.label_mix
        violated = violated_rows(before, mix)
        after = before
        if self.strength > 0:
            corrected = self._corrected(supervision)
            after = blend_soft_labels(before, corrected, self.strength)
            # Rows in order stay as they are, bit for bit.
            wrong = violated if self._margin_now == 0 else (corrected != before).any(1)
            after = torch.where(self._corrects(wrong, supervision.index)[:, None], after, before)
        rows = order_rows(violated, before, after, mix)
        if supervision.kept_from is not None:
            rows["inexact_rate"] = inexact_rows(supervision, after, violated)
        self.measure(rows)
        return supervision._replace(soft_labels=after)

    def _corrected(self, supervision: Supervision) -> Tensor:
        before, mix = supervision.soft_labels, supervision.label_mix
        if self._margin_now > 0:
            return isotonic_with_margin(before, mix, self._margin_now, self._solver(before, mix, "margin"))
        solver = self._solver(before, mix, "plain")
        return correct_soft_labels(before, mix, supervision.temperature, self.space, solver)

    def _solver(self, values: Tensor, mix: LabelMix, form: Literal["plain", "margin"]) -> Solver:
        """Return the solver of this run: once chosen by trial, it stays."""
        if self.solver != "auto" or not tries_on(values):
            return self.solver
        if form not in self._chosen:
            before = self._resumed.get(form)
            now: Solver = "threshold" if before == "threshold" else choose(values, mix, form)
            if before is not None and before != now:
                rank_zero_warn(
                    f"{self}: the run that goes on used solver {before}, which fails here: from here on {now}"
                )
            self._chosen[form] = now
        return self._chosen[form]

    def _corrects(self, wrong: Tensor, index: Tensor) -> Tensor:
        return wrong if self.share == 1 else wrong & drawn_rows(index, self.share)


def inexact_rows(supervision: Supervision, corrected: Tensor, violated: Tensor) -> Tensor:
    """Find rows whose correction may differ from that of the whole soft label, bool ``(batch,)``.

    Where only the largest logits were stored, the correction is exact as long as its level, the lowest class of the
    mix afterwards, is above the smallest class of the rest that was kept: what is below is left alone anyway.

    Args:
        supervision: with ``kept_from``.
        corrected: soft labels ``(batch, classes)``.
        violated: bool ``(batch,)``, rows that were corrected.
    """
    assert supervision.kept_from is not None
    kept_from, (labels, weights) = supervision.kept_from[:, None], supervision.label_mix
    last_kept = torch.where(supervision.teacher_logits == kept_from, corrected, -1).amax(1)
    level = torch.where(weights > 0, corrected.gather(1, labels), torch.inf).amin(1)
    return violated & ((last_kept >= level) | kept_from.isposinf()[:, 0])


def drawn_rows(index: Tensor, share: float) -> Tensor:
    """Tell which rows are in a share of the data set, bool ``(batch,)``; a matter of their index alone.

    Fibonacci hashing: the fractional parts of multiples of the golden ratio fill 0 ... 1 evenly, whatever stretch or
    step of positions is looked at, and in integers they are the same on every device.

    Args:
        index: int64 ``(batch,)``, positions in the data set; negative ones go by their place in the batch.
        share: from 0 to 1.

    Example:
        >>> drawn_rows(torch.arange(8), 0.5).tolist()
        [True, False, True, False, True, True, False, True]
    """
    index = torch.where(index < 0, torch.arange(len(index), device=index.device), index)
    return (index * 2_654_435_769 & 0xFFFF_FFFF) < round(share * 2**32)
