"""Of a pool of mixed images, those that teach most (CutMixPick)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import get_args

import lightning as L
import torch
from torch import Tensor

from ida_lightning.data_facts import facts_of
from ida_lightning.errors import InputError, one_of, positive_share
from ida_lightning.inputs import Inputs, take_rows
from ida_lightning.lightning_internals import forward_precision
from ida_lightning.methods.base import SupervisionMethod
from ida_lightning.models import eval_mode
from ida_lightning.picking import ASKS_STUDENT, Criterion, keep_rows, pick, score_pool, split_pool
from ida_lightning.supervision import Supervision


class CutMixPickCallback(SupervisionMethod):
    """Drops the mixed images that have little to teach before the student sees them.

    Of the mixed rows of a batch it keeps those with the highest score; clean rows stay. It is for batches with a pool
    (``pool`` of the data module; any kind of mixing). The teacher's answers are those that it has given already, and
    the rows that are left keep theirs: with a pool of n mixes the teacher sees 1 + n batches a step and the student
    is trained on 1 + ratio * n. However few are kept, the mixed rows together count in the loss as much as before.

    Hooks run in the order of the callbacks. A correction of soft labels row by row gives the same before and after the
    pick, and costs less after it; only ``"kl"`` looks at soft labels as the hooks before it left them.

    With a pool the size of a batch says how many of its rows are clean, which is counted once for every size, so that
    no later step waits for an accelerator. Without one they are counted on every batch, and all of them stay. Every
    process picks from its own rows.

    Logs epoch means of the score: ``train/<criterion>`` over the pool and ``train/<criterion>_picked`` over what is
    kept.

    Args:
        criterion: the score, of one row.

            * ``"teacher_entropy"``: of softmax(teacher logits), in nats; the paper's last choice.
            * ``"student_entropy"``: of softmax(student logits). The student scores the pool in eval mode, which leaves
              its BatchNorm statistics and all random numbers alone, and costs a forward pass of the pool.
            * ``"kl"``: KL(soft label || softmax(student logits / T)), likewise; the choice of the ICLR version.
            * ``"dissimilarity"``: the least Euclidean distance of softmax(teacher logits) to that of a clean row.
            * ``"violation"``: the share of softmax(teacher logits / T) that an isotonic correction would move.
        ratio: share of the mixed rows that is kept, rounded, but at least one.
        name: see :class:`~ida_lightning.methods.base.Method`.

    Raises:
        InputError: for values out of range, a module without ``register_supervision_hook``, and, in training, a
            supervision that does not say which rows were mixed, or has no clean rows to be dissimilar to.

    Example:
        >>> from lightning import Trainer
        >>> from ida_lightning.methods import TeacherLabelCallback
        >>> trainer = Trainer(callbacks=[TeacherLabelCallback(), CutMixPickCallback(ratio=0.5)], logger=False)

    References:
        Wang et al., What Makes a "Good" Data Augmentation in Knowledge Distillation, NeurIPS 2022, arXiv 2012.02909.
    """

    prefix = ""

    def __init__(self, criterion: Criterion = "teacher_entropy", ratio: float = 0.5, name: str | None = None) -> None:
        super().__init__(name)
        self.criterion: Criterion = one_of("criterion", criterion, get_args(Criterion))
        self.ratio = positive_share("ratio", ratio)
        self._score_by_student: Callable[[Inputs], Tensor] | None = None
        self._has_pool = False
        self._clean: dict[int, int] = {}

    def register(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Register the transform, and how the student scores."""

        def student_logits(inputs: Inputs) -> Tensor:
            # Hooks run outside autocast; the student is to be scored in the precision in which it is trained.
            with eval_mode(module), nullcontext() if trainer is None else forward_precision(trainer):
                logits: Tensor = module(inputs)
            return logits

        self._score_by_student = student_logits
        self._has_pool = bool(facts_of(trainer).pool)
        self._clean.clear()
        super().register(trainer, module)

    def transform(self, supervision: Supervision) -> Supervision:
        """Keep the clean rows and the mixed rows with the highest scores, and measure the scores."""
        if supervision.mixed is None:
            raise InputError(f"{self}: expected a supervision that says which rows were mixed, got none")
        clean, pool = split_pool(supervision, self._clean_rows(supervision.mixed))
        if not len(pool):
            return supervision
        student_logits = None
        if self.criterion in ASKS_STUDENT:
            assert self._score_by_student is not None
            student_logits = self._score_by_student(take_rows(supervision.inputs, pool))
        scores = score_pool(self.criterion, supervision, clean, pool, student_logits)
        # A row without an answer of the teacher has the highest entropy there is, and counts in no loss.
        counts = supervision.weight[pool] > 0
        best = pick(scores.masked_fill(~counts, -torch.inf), self.ratio)
        picked = torch.zeros_like(scores).index_fill_(0, best, len(pool) / len(best))
        shown = torch.where(counts, scores, 0)
        self.measure({self.criterion: shown, f"{self.criterion}_picked": picked * shown})
        return keep_rows(supervision, clean, pool, best)

    def _clean_rows(self, mixed: Tensor) -> int | None:
        """Return how many rows are clean, or None where that has to be counted on every batch."""
        if not self._has_pool or mixed.device.type == "cpu":
            return None
        rows = len(mixed)
        if rows not in self._clean:
            self._clean[rows] = rows - int(mixed.sum())
        return self._clean[rows]
