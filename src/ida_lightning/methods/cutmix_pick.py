"""Of a pool of mixed images, those that teach most (CutMixPick)."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any, Literal, get_args

import lightning as L
import torch
from torch import Tensor

from ida_lightning.errors import InputError
from ida_lightning.isotonic import isotonic_soft_labels
from ida_lightning.methods.base import SupervisionCallback
from ida_lightning.metrics import kl_divergence, moved_mass, prediction_entropy
from ida_lightning.models import eval_mode
from ida_lightning.supervision import Supervision

Criterion = Literal["teacher_entropy", "student_entropy", "kl", "dissimilarity", "violation"]


class CutMixPickCallback(SupervisionCallback):
    """Drops the mixed images that have little to teach before the student sees them.

    Of the mixed rows of a batch it keeps those with the highest score; clean rows stay. It is for batches with a pool
    (``pool`` of the data module; any kind of mixing). The teacher's answers are those that it has given already, and
    the rows that are left keep theirs: with a pool of n mixes the teacher sees 1 + n batches a step and the student
    is trained on 1 + ratio * n. However few are kept, the mixed rows together count in the loss as much as before.

    Hooks run in the order of the callbacks. A correction of soft labels row by row gives the same before and after the
    pick, and costs less after it; only ``"kl"`` looks at soft labels as the hooks before it left them.

    How many rows are clean is looked up once for every size of batch, so that no later step waits for an
    accelerator: the number of rows kept depends on the size of the batch alone. Every process picks from its own rows.

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

    def __init__(self, criterion: Criterion = "teacher_entropy", ratio: float = 0.5) -> None:
        if criterion not in get_args(Criterion):
            raise InputError(f"criterion: expected one of {', '.join(get_args(Criterion))}, got {criterion!r}")
        if not 0 < ratio <= 1:
            raise InputError(f"ratio: expected a number above 0 and up to 1, got {ratio}")
        super().__init__()
        self.criterion = criterion
        self.ratio = ratio
        self._clean: dict[int, int] = {}

    def _join(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        # Hooks run outside autocast; the student is to be scored in the precision in which it is trained.
        precision = getattr(trainer, "precision_plugin", None)
        context = nullcontext if precision is None else precision.forward_context
        self._clean.clear()
        hook = partial(self._pick, module=module, precision=context)
        self._register(module, "register_supervision_hook", hook)

    def _pick(
        self,
        supervision: Supervision,
        module: L.LightningModule,
        precision: Callable[[], AbstractContextManager[Any]],
    ) -> Supervision:
        mixed = supervision.mixed
        if mixed is None:
            raise InputError("CutMixPickCallback: expected a supervision that says which rows were mixed, got none")
        rows = len(mixed)
        if rows not in self._clean:
            self._clean[rows] = rows - int(mixed.sum())
        clean = self._clean[rows]
        if clean == rows:
            return supervision
        by_kind = mixed.int().argsort(stable=True)
        first, pool = by_kind[:clean], by_kind[clean:]
        scores = self._score(supervision, first, pool, module, precision)
        # A row without an answer of the teacher has the highest entropy there is, and counts in no loss.
        weight = supervision.soft_weight + supervision.hard_weight
        counts = weight[pool] > 0
        best = pick(scores.masked_fill(~counts, -torch.inf), self.ratio)
        chosen = torch.zeros_like(scores).index_fill_(0, best, len(pool) / len(best))
        scores = torch.where(counts, scores, 0)
        self._means.add({self.criterion: scores, f"{self.criterion}_picked": chosen * scores})
        kept = supervision.select(torch.cat((first, pool[best])))
        # The loss is a mean over rows: what each kind adds up to in it stays.
        before, after = weight[pool].sum(), weight[pool[best]].sum()
        factor = torch.where(kept.mixed & (after > 0), before / after, 1) * (len(kept.inputs) / rows)  # type: ignore[operator]
        return kept._replace(soft_weight=factor * kept.soft_weight, hard_weight=factor * kept.hard_weight)

    def _score(
        self,
        supervision: Supervision,
        clean: Tensor,
        pool: Tensor,
        module: L.LightningModule,
        precision: Callable[[], AbstractContextManager[Any]],
    ) -> Tensor:
        teacher_logits, temperature = supervision.teacher_logits, supervision.temperature
        if self.criterion == "teacher_entropy":
            return prediction_entropy(teacher_logits[pool])
        if self.criterion == "dissimilarity":
            if not len(clean):
                raise InputError("criterion: expected clean rows to be dissimilar to (data.pool: 1 or more), got none")
            probs = teacher_logits.softmax(1)
            return torch.cdist(probs[pool], probs[clean], compute_mode="donot_use_mm_for_euclid_dist").amin(1)
        if self.criterion == "violation":
            before = (teacher_logits[pool] / temperature).softmax(1)
            return moved_mass(before, isotonic_soft_labels(before, supervision.label_mix.select(pool)))
        with eval_mode(module), precision():
            student_logits = module(supervision.inputs[pool])
        if self.criterion == "student_entropy":
            return prediction_entropy(student_logits)
        student_logits = student_logits.to(supervision.soft_labels.dtype)
        return kl_divergence(supervision.soft_labels[pool].log(), (student_logits / temperature).log_softmax(1))


def pick(scores: Tensor, ratio: float) -> Tensor:
    """The places of the highest ``scores`` ``(rows,)``, in their order; NaN is lowest.

    Their number, ``ratio`` of the rows, rounded, but at least one, does not depend on the scores.

    Example:
        >>> pick(torch.tensor([0.3, float("nan"), 0.7, 0.5]), ratio=0.5)
        tensor([2, 3])
    """
    keep = max(1, round(ratio * len(scores)))
    return scores.masked_fill(scores.isnan(), -torch.inf).topk(keep).indices.sort().values
