"""KDA's two steps as functions: let the teacher alone label mixed images, and pick the most informative of them."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor

from ida_lightning.errors import (
    InputError,
    check_rows,
    float_vector,
    floats_like,
    is_a,
    one_of,
    positive,
    positive_share,
)
from ida_lightning.isotonic import isotonic_soft_labels
from ida_lightning.metrics import kl_divergence, moved_mass, prediction_entropy
from ida_lightning.supervision import Supervision

Criterion = Literal["teacher_entropy", "student_entropy", "kl", "dissimilarity", "violation"]
ASKS_STUDENT: tuple[Criterion, ...] = ("student_entropy", "kl")


def label_by_teacher(supervision: Supervision, hard_label: bool = False) -> Supervision:
    """Take the hard label away from mixed rows, and give clean and mixed rows the weight of a batch each.

    With C clean and M mixed rows the loss becomes ``mean over C (soft + hard part) + mean over M (soft part)``. Since
    a loss is the mean over all rows, the weights of clean rows are multiplied by (C + M) / C and those of mixed rows
    by (C + M) / M. It goes by weights and not by numbers of rows, so it comes to the same after rows were picked.

    Args:
        supervision: of clean and mixed rows; ``mixed`` must be known.
        hard_label: keep the hard label of mixed rows.

    Raises:
        InputError: if the supervision does not say which rows were mixed.

    References:
        Wang et al., NeurIPS 2022, arXiv 2012.02909, TLmixup and TLCutMix.
    """
    mixed, weight = _mixed(supervision), supervision.weight
    of_kind = torch.where(mixed, (weight * mixed).sum(), (weight * ~mixed).sum())
    factor = torch.where(of_kind > 0, weight.sum() / of_kind, 0)
    hard_weight = factor * supervision.hard_weight
    return supervision._replace(
        soft_weight=factor * supervision.soft_weight,
        hard_weight=hard_weight if hard_label else hard_weight.masked_fill(mixed, 0),
    )


def pick(scores: Tensor, ratio: float) -> Tensor:
    """Return the positions of the highest ``scores`` ``(rows,)``, in their order; NaN is lowest.

    Their number, ``ratio`` of the rows, rounded, but at least one, does not depend on the scores.

    Raises:
        InputError: for a ratio that is not above 0 and up to 1.

    Example:
        >>> pick(torch.tensor([0.3, float("nan"), 0.7, 0.5]), ratio=0.5)
        tensor([2, 3])
    """
    positive_share("ratio", ratio)
    float_vector("scores", scores)
    if not len(scores):
        return torch.zeros(0, dtype=torch.int64, device=scores.device)
    keep = max(1, round(ratio * len(scores)))
    return scores.masked_fill(scores.isnan(), -torch.inf).topk(keep).indices.sort().values


def split_pool(supervision: Supervision, clean: int | None = None) -> tuple[Tensor, Tensor]:
    """Return the positions of the clean rows and of the mixed rows, each in their order.

    Args:
        supervision: ``mixed`` must be known.
        clean: how many rows are clean; None counts them, which waits for an accelerator.

    Raises:
        InputError: if the supervision does not say which rows were mixed.
    """
    mixed = _mixed(supervision)
    if clean is None:
        clean = len(mixed) - int(mixed.sum())
    by_kind = mixed.int().argsort(stable=True)
    return by_kind[:clean], by_kind[clean:]


def score_pool(
    criterion: Criterion, supervision: Supervision, clean: Tensor, pool: Tensor, student_logits: Tensor | None = None
) -> Tensor:
    """Score how much every mixed row has to teach; high is much. For the criteria see
    :class:`~ida_lightning.methods.CutMixPickCallback`.

    Args:
        criterion: which score.
        supervision: of all rows.
        clean: positions of the clean rows.
        pool: positions of the mixed rows.
        student_logits: of the mixed rows, ``(len(pool), classes)``, for the criteria that ask the student.

    Returns:
        ``(len(pool),)``.

    Raises:
        InputError: for an unknown criterion, no clean rows to be dissimilar to, and student logits that are missing.
    """  # noqa: D205
    one_of("criterion", criterion, get_args(Criterion))
    is_a("supervision", supervision, Supervision)
    for name, rows in (("clean", clean), ("pool", pool)):
        check_rows(name, rows, len(supervision.soft_labels))
    teacher_logits, temperature = supervision.teacher_logits, positive("temperature", supervision.temperature)
    if criterion == "teacher_entropy":
        return prediction_entropy(teacher_logits[pool])
    if criterion == "dissimilarity":
        if not len(clean):
            raise InputError("criterion: expected clean rows to be dissimilar to (data.pool: 1 or more), got none")
        probs = teacher_logits.softmax(1)
        return torch.cdist(probs[pool], probs[clean], compute_mode="donot_use_mm_for_euclid_dist").amin(1)
    if criterion == "violation":
        before = (teacher_logits[pool] / temperature).softmax(1)
        return moved_mass(before, isotonic_soft_labels(before, supervision.label_mix.select(pool)))
    if student_logits is None:
        raise InputError(f"student_logits: expected those of the mixed rows for criterion {criterion}, got None")
    if criterion == "student_entropy":
        return prediction_entropy(student_logits)
    student_logits = student_logits.to(supervision.soft_labels.dtype)
    return kl_divergence(supervision.soft_labels[pool].log(), (student_logits / temperature).log_softmax(1))


def keep_rows(supervision: Supervision, clean: Tensor, pool: Tensor, best: Tensor) -> Supervision:
    """Keep the clean rows and some of the mixed ones, which together count as much as all mixed rows did.

    The loss is a mean over rows: what the mixed rows add up to in it stays, however few are kept.

    Args:
        supervision: of all rows.
        clean: positions of the clean rows.
        pool: positions of the mixed rows.
        best: which of the pool are kept, positions in ``pool``.

    Returns:
        The clean rows and then the kept ones.
    """
    weight = supervision.weight
    kept = supervision.select(torch.cat((clean, pool[best])))
    before, after = weight[pool].sum(), weight[pool[best]].sum()
    factor = torch.where(_mixed(kept) & (after > 0), before / after, 1) * (len(kept.soft_labels) / len(weight))
    return kept._replace(soft_weight=factor * kept.soft_weight, hard_weight=factor * kept.hard_weight)


def pick_rows(supervision: Supervision, scores: Tensor, ratio: float = 0.5) -> Supervision:
    """Keep the clean rows and, of the mixed ones, the share ``ratio`` with the highest scores (CutMixPick).

    A row that counts in no loss (without an answer of the teacher) is kept last. For a loop of one's own; the callback
    :class:`~ida_lightning.methods.CutMixPickCallback` does the same with the scores of :func:`score_pool`.

    Args:
        supervision: of a batch; ``mixed`` must be known.
        scores: of every row, ``(batch,)``; those of clean rows are not looked at.
        ratio: above 0 and up to 1.

    Returns:
        The clean rows and then the kept ones.

    Raises:
        InputError: for a ratio out of range, and a supervision that does not say which rows were mixed.

    References:
        Wang et al., NeurIPS 2022, arXiv 2012.02909.
    """
    is_a("supervision", supervision, Supervision)
    floats_like("scores", scores, "supervision.soft_weight", supervision.soft_weight)
    clean, pool = split_pool(supervision)
    if not len(pool):
        return supervision
    usable = scores[pool].masked_fill(supervision.weight[pool] <= 0, -torch.inf)
    return keep_rows(supervision, clean, pool, pick(usable, ratio))


def _mixed(supervision: Supervision) -> Tensor:
    is_a("supervision", supervision, Supervision)
    if supervision.mixed is None:
        raise InputError("supervision: expected one that says which rows were mixed, got mixed=None")
    return supervision.mixed
