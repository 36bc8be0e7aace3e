"""Which training images the teacher shall teach: a score for every one, a share of them, a file to keep the scores."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from ida_lightning.errors import InputError, float_vector, is_a, kind_of, not_nan, same_shape, share
from ida_lightning.files import replacing
from ida_lightning.revision_selection.influence import (
    curvature,
    influence,
    label_residuals,
    solve_gauss_newton,
    teaching_residuals,
)
from ida_lightning.supervision import Supervision

Score = Literal["influence", "random", "teacher_loss", "violation"]


class HeadBatch(NamedTuple):
    """What a classifier head is given and makes of a batch of unmixed images; rows without finite logits are blank.

    Attributes:
        labels: int64 ``(batch,)``.
        teacher_logits: ``(batch, classes)``.
        logits: ``(batch, classes)``, of the network whose head is scored with.
        features: ``(batch, features)``, what that head is given; a column of ones at the end if it has a bias.
        finite: bool ``(batch,)``.
    """

    labels: Tensor
    teacher_logits: Tensor
    logits: Tensor
    features: Tensor
    finite: Tensor


HeadBatches = Callable[[str, Sequence[int] | None], Iterator[HeadBatch]]
"""From a split and row numbers (None for all, in order) to what is seen, batch by batch."""


class InfluenceScores(NamedTuple):
    """What :func:`influence_scores` found.

    Attributes:
        scores: float32 ``(rows,)``, on the CPU.
        residual: of the linear system, as a share of its right-hand side.
        steps: that solving it took.
    """

    scores: Tensor
    residual: float
    steps: int


def influence_scores(
    batches_of: HeadBatches, rows: int, temperature: float, damping: float, hessian_rows: int
) -> InfluenceScores:
    """Score every training image by how much the teacher's teaching it lowers the validation loss of a head.

    See :func:`ida_lightning.revision_selection.influence.influence` for definition and sign. Three passes: over the
    validation images for their gradient, over ``hessian_rows`` training images, spread evenly, for the Hessian, whose
    features and logits are all that is kept, and over the training images for their scores (the last two are one if
    these are all).

    Args:
        batches_of: see :data:`HeadBatches`.
        rows: of the training split.
        temperature: of the distillation loss.
        damping: added to the Hessian's diagonal, as a share of its mean.
        hessian_rows: at most so many.

    Raises:
        InputError: if no row has finite logits.
    """
    gradient, count = None, 0
    for batch in batches_of("val", None):
        found = label_residuals(batch.logits.softmax(1), batch.labels).T @ batch.features  # blank rows add nothing
        gradient = found if gradient is None else gradient + found
        count += int(batch.finite.sum())
    if gradient is None or not count:
        raise InputError("teacher: expected finite logits on validation images, got none")
    used = min(rows, hessian_rows)
    sample = None if used == rows else [i * rows // used for i in range(used)]
    kept = list(batches_of("train", sample))
    features = torch.cat([batch.features[batch.finite] for batch in kept])
    probs = torch.cat([batch.logits.softmax(1)[batch.finite] for batch in kept])
    if not len(features):
        raise InputError(f"teacher: expected finite logits, got NaN or infinity in all {used} training images")
    # A saturated head has no curvature at all; scores are then the products of gradients, on any scale.
    mean = curvature(features, probs).mean().clamp_min(torch.finfo(features.dtype).tiny ** 0.5)
    solution = solve_gauss_newton(features, probs, gradient / count, damping * float(mean), tolerance=1e-6)
    parts = [
        torch.where(
            batch.finite,
            influence(
                solution.direction,
                batch.features,
                teaching_residuals(batch.logits, batch.teacher_logits, batch.labels, temperature),
            ),
            -torch.inf,
        ).cpu()
        for batch in (kept if sample is None else batches_of("train", None))
    ]
    return InfluenceScores(torch.cat(parts).float(), solution.residual, solution.steps)


def teacher_scores(score: Literal["teacher_loss", "violation"], batches_of: HeadBatches) -> Tensor:
    """Score every training image by how good the teacher is on it; high is good.

    Args:
        score: ``"teacher_loss"``: minus the teacher's cross-entropy with the ground truth; ``"violation"``: how far the
            probability of the image's class is above the largest other one, so minus the size of the violation where
            the order is broken. Both at temperature 1.
        batches_of: see :data:`HeadBatches`.

    Returns:
        float32 ``(rows,)`` on the CPU; minus infinity for rows without finite logits.
    """
    parts = []
    for batch in batches_of("train", None):
        if score == "teacher_loss":
            scores = -F.cross_entropy(batch.teacher_logits, batch.labels, reduction="none")
        else:
            probs, own = batch.teacher_logits.softmax(1), batch.labels[:, None]
            scores = (probs.gather(1, own) - probs.scatter(1, own, 0).amax(1, keepdim=True))[:, 0]
        parts.append(torch.where(batch.finite, scores, -torch.inf).cpu())
    return torch.cat(parts).float()


def trusted_rows(scores: Tensor, fraction: float) -> Tensor:
    """Choose the share ``fraction`` of the rows with the highest scores, bool ``(rows,)``; among equal ones the first.

    Raises:
        InputError: for scores that are not floating point ``(rows,)`` and a fraction that is not from 0 to 1.

    Example:
        >>> trusted_rows(torch.tensor([0.1, 0.9, -0.3, 0.5]), 0.5)
        tensor([False,  True, False,  True])
    """
    not_nan("scores", float_vector("scores", scores))
    share("fraction", fraction)
    chosen = scores.argsort(descending=True, stable=True)[: round(fraction * len(scores))]
    return torch.zeros_like(scores, dtype=torch.bool).index_fill_(0, chosen, True)


def teach_trusted_rows(supervision: Supervision, trusted: Tensor, transfer: float = 1.0) -> Supervision:
    """Let the teacher teach the trusted rows only, and the ground truth the others.

    Args:
        supervision: of a batch.
        trusted: bool ``(batch,)``.
        transfer: share of an untrusted row's soft weight that goes over to its hard weight, from 0 to 1.

    Raises:
        InputError: for a share out of range, and a mask of another kind or length.

    References:
        Lan et al., arXiv 2404.03693 (DS).
    """
    share("transfer", transfer)
    soft = is_a("supervision", supervision, Supervision).soft_weight
    if same_shape("trusted", trusted, "soft_weight", soft).dtype != torch.bool:
        raise InputError(f"trusted: expected bool ({len(soft)},), got {kind_of(trusted)}")
    return supervision._replace(
        soft_weight=soft * trusted, hard_weight=supervision.hard_weight + transfer * soft * ~trusted
    )


def scores_file(folder: str | Path, about: dict[str, Any]) -> Path:
    """Name the file of scores: the name holds the digest of all that they depend on."""
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
    return Path(folder) / f"{about['score']}-{digest[:16]}.safetensors"


def read_scores(path: Path, about: dict[str, Any], rows: int) -> Tensor | None:
    """Read the scores in a file; None if there is none, or it is damaged, NaN, or about something else."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            same = json.loads((file.metadata() or {}).get("about", "null")) == about
            scores: Tensor = file.get_tensor("scores")
    except (SafetensorError, OSError, ValueError):
        return None
    # -inf is the score of a row without finite logits.
    right = scores.shape == (rows,) and scores.dtype == torch.float32 and bool((scores < torch.inf).all())
    return scores if same and right else None


def write_scores(path: Path, about: dict[str, Any], scores: Tensor) -> None:
    """Write scores, whole or not at all."""
    with replacing(path) as unfinished:
        save_file({"scores": scores.contiguous()}, unfinished, {"about": json.dumps(about)})
