"""Isotonic correction of every training batch's soft labels (KD-i)."""

from __future__ import annotations

from typing import Literal, get_args

import lightning as L
import torch
from torch import Tensor

from ida_lightning.errors import InputError
from ida_lightning.isotonic import Solver, Space, correct_soft_labels
from ida_lightning.label_mix import LabelMix
from ida_lightning.losses import distillation_loss
from ida_lightning.methods.base import SupervisionCallback, order_rows
from ida_lightning.metrics import violated_rows
from ida_lightning.supervision import Supervision

Role = Literal["replace", "add"]


class IsotonicSoftLabelCallback(SupervisionCallback):
    """Makes the teacher's soft labels respect the order of the mixed images' labels, on the device, per batch.

    Works with any LightningModule that offers ``register_supervision_hook``. Logs epoch means over the training
    rows: ``train/violation_rate`` (rows that broke the order as the teacher gave them),
    ``train/violation_rate_corrected`` (rows that still do), ``train/moved_mass`` (share of the soft label that was
    moved).

    Args:
        solver: see :func:`ida_lightning.isotonic_soft_labels`.
        space: what is corrected. ``"softened"``: the soft label itself, softmax(z / T).
            ``"probabilities"``: softmax(z), which is softened afterwards, so mass moves where the teacher is sharp.
            ``"logits"``: z, as the code released with the paper does. All three are derived from the soft label as
            the hooks before this one left it.
        strength: from 0 (measure only) to 1 (replace): the soft label becomes
            ``(1 - strength) * soft_label + strength * corrected``, which has the gradient of two loss terms with
            these weights.
        role: ``"replace"`` as above, or ``"add"``: the uncorrected term stays with its weight, and a second one
            with the corrected label and ``added_weight`` joins it. Both go through one soft label, which has the
            gradient of the two; a row's ``soft_weight`` grows by ``added_weight``.
        added_weight: with ``"add"``, the weight of the corrected term; the paper is quoted with 3, the README of the
            released code with 2.
        student_softmax: with ``"add"``, how the corrected term sees the student: ``"once"``, or ``"twice"`` as in the
            released code, which passes probabilities where logits are expected, so that the term can hardly pull; it
            is then logged apart, as ``train/corrected_loss``.
        same_class: what is done where both images are of one class: ``"one"`` puts that class above the rest;
            ``"arbitrary"`` ranks a second class that ``torch.topk`` happens to return, as the released code does.
        share: of the rows that break the order, how many are corrected, from 0 to 1; the others are treated as if they
            were in order. An image's position in the data set decides, so an image is drawn in every epoch or in
            none, and a larger share holds the rows of a smaller one. Rows without a position, of batches
            ``(images, targets)``, are drawn by their place in the batch.
        compat: ``"authors"`` is the released code in all of these: logits, add with weight 2, softmax twice,
            arbitrary second class. The other arguments must then be left alone.

    Raises:
        InputError: for values out of range or that exclude each other, and a module without the hook.

    Example:
        >>> from lightning import Trainer
        >>> trainer = Trainer(callbacks=[IsotonicSoftLabelCallback(space="softened")], logger=False)

    References:
        Cui and Yan, IJCAI 2021, arXiv 2107.01412, KD-i.
    """

    def __init__(
        self,
        solver: Solver = "auto",
        space: Space = "softened",
        strength: float = 1.0,
        role: Role = "replace",
        added_weight: float = 2.0,
        student_softmax: Literal["once", "twice"] = "once",
        same_class: Literal["one", "arbitrary"] = "one",
        share: float = 1.0,
        compat: Literal["paper", "authors"] = "paper",
    ) -> None:
        for name, value, choices in (
            ("solver", solver, get_args(Solver)),
            ("space", space, get_args(Space)),
            ("role", role, get_args(Role)),
            ("student_softmax", student_softmax, ("once", "twice")),
            ("same_class", same_class, ("one", "arbitrary")),
            ("compat", compat, ("paper", "authors")),
        ):
            if value not in choices:
                raise InputError(f"{name}: expected one of {', '.join(choices)}, got {value!r}")
        if not 0 <= strength <= 1:
            raise InputError(f"strength: expected a number from 0 to 1, got {strength}")
        if not 0 <= share <= 1:
            raise InputError(f"share: expected a number from 0 to 1, got {share}")
        if not added_weight >= 0:
            raise InputError(f"added_weight: expected a number >= 0, got {added_weight}")
        if compat == "authors":
            given = (space, strength, role, added_weight, student_softmax, same_class, share)
            if given != ("softened", 1.0, "replace", 2.0, "once", "one", 1.0):
                raise InputError("compat: expected nothing but solver beside authors, which sets all the rest")
            space, role, student_softmax, same_class = "logits", "add", "twice", "arbitrary"
        if role == "add" and strength != 1:
            raise InputError(f"strength: expected 1 with role add, whose measure is added_weight, got {strength}")
        if student_softmax == "twice" and role != "add":
            raise InputError("student_softmax: expected once with role replace, got 'twice'")
        if student_softmax == "twice" and share != 1:
            raise InputError(f"share: expected 1 with student_softmax twice, which corrects no soft label, got {share}")
        super().__init__()
        self.solver = solver
        self.space = space
        self.strength = strength
        self.role = role
        self.added_weight = added_weight
        self.student_softmax = student_softmax
        self.same_class = same_class
        self.share = share

    def _join(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        super()._join(trainer, module)
        if self.student_softmax == "twice":
            self._register(module, "register_loss_term", "corrected_loss", self._twice)

    def _teach(self, supervision: Supervision) -> Supervision:
        before, mix, soft_weight = supervision.soft_labels, supervision.label_mix, supervision.soft_weight
        violated = violated_rows(before, mix)
        after = before
        if self.strength > 0 and self.student_softmax == "once":
            after = self._corrected(supervision)
            if self.role == "add":
                added = self.added_weight * (soft_weight > 0)
                part = added / (soft_weight + added).clamp_min(torch.finfo(added.dtype).tiny)
                after = torch.lerp(before, after, part[:, None])
                soft_weight = soft_weight + added
            elif self.strength < 1:
                after = torch.lerp(before, after, self.strength)
            if self.same_class == "one":  # rows in order stay as they are, bit for bit
                after = torch.where(violated[:, None], after, before)
            if self.share < 1:
                after = torch.where(_drawn(supervision.index, self.share)[:, None], after, before)
        self._measure(order_rows(violated, before, after, mix))
        return supervision._replace(soft_labels=after, soft_weight=soft_weight)

    def _corrected(self, supervision: Supervision) -> Tensor:
        mix, temperature = self._order(supervision), supervision.temperature
        return correct_soft_labels(supervision.soft_labels, mix, temperature, self.space, self.solver)

    def _order(self, supervision: Supervision) -> LabelMix:
        """The label mix that the correction goes by."""
        if self.same_class == "one":
            return supervision.label_mix
        hard = supervision.label_mix.dense(supervision.soft_labels.shape[1])
        weights, labels = hard.topk(2, dim=1)
        paired = weights[:, 1] > 0
        # Any weight that ranks the second below the first.
        return LabelMix.pair(labels[:, 0], labels[:, 1], torch.where(paired, weights[:, 0], 0.75))

    def _twice(self, student_logits: Tensor, supervision: Supervision) -> Tensor:
        with torch.no_grad():
            corrected = self._corrected(supervision)
        student_probs = student_logits.softmax(1, dtype=torch.promote_types(student_logits.dtype, torch.float32))
        loss = distillation_loss(student_probs, corrected, supervision.temperature)
        return self.added_weight * (supervision.soft_weight > 0) * loss


def _drawn(index: Tensor, share: float) -> Tensor:
    """Which rows are in a share of the data set, bool ``(batch,)``; a matter of their index alone.

    Fibonacci hashing: the fractional parts of multiples of the golden ratio fill 0 ... 1 evenly, whatever stretch or
    step of positions is looked at, and in integers they are the same on every device.
    """
    index = torch.where(index < 0, torch.arange(len(index), device=index.device), index)
    return (index * 2_654_435_769 & 0xFFFF_FFFF) < round(share * 2**32)
