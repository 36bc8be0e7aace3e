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
from torch import Tensor, nn
from torch.nn import functional as F

from ida_lightning.errors import InputError
from ida_lightning.files import replacing
from ida_lightning.revision_selection.influence import (
    curvature,
    influence,
    label_residuals,
    solve_gauss_newton,
    teaching_residuals,
)

Score = Literal["influence", "random", "teacher_loss", "violation"]

# Of a data set that is not in memory.
_LOOKED_AT = 16


class Look(NamedTuple):
    """What is seen of a batch of unmixed images; rows without finite logits are blank and say so.

    Attributes:
        labels: int64 ``(batch,)``.
        teacher_logits: ``(batch, classes)``.
        logits: ``(batch, classes)``, of the network whose head is looked at.
        features: ``(batch, features)``, what that head is given; a column of ones at the end if it has a bias.
        finite: bool ``(batch,)``.
    """

    labels: Tensor
    teacher_logits: Tensor
    logits: Tensor
    features: Tensor
    finite: Tensor


Looks = Callable[[str, Sequence[int] | None], Iterator[Look]]
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


def influence_scores(looks: Looks, rows: int, temperature: float, damping: float, hessian_rows: int) -> InfluenceScores:
    """How much every training image's being taught by the teacher lowers the validation loss of a classifier head.

    See :func:`ida_lightning.revision_selection.influence.influence` for definition and sign. Three passes: over the
    validation images for their gradient, over ``hessian_rows`` training images, spread evenly, for the Hessian, whose
    features and logits are all that is kept, and over the training images for their scores (the last two are one if
    these are all).

    Args:
        looks: see :data:`Looks`.
        rows: of the training split.
        temperature: of the distillation loss.
        damping: added to the Hessian's diagonal, as a share of its mean.
        hessian_rows: at most so many.

    Raises:
        InputError: if no row has finite logits.
    """
    gradient, count = None, 0
    for look in looks("val", None):
        found = label_residuals(look.logits.softmax(1), look.labels).T @ look.features  # blank rows add nothing
        gradient = found if gradient is None else gradient + found
        count += int(look.finite.sum())
    if gradient is None or not count:
        raise InputError("teacher: expected finite logits on validation images, got none")
    used = min(rows, hessian_rows)
    sample = None if used == rows else [i * rows // used for i in range(used)]
    kept = list(looks("train", sample))
    features = torch.cat([look.features[look.finite] for look in kept])
    probs = torch.cat([look.logits.softmax(1)[look.finite] for look in kept])
    if not len(features):
        raise InputError(f"teacher: expected finite logits, got NaN or infinity in all {used} training images")
    # A saturated head has no curvature at all; scores are then the products of gradients, on any scale.
    mean = curvature(features, probs).mean().clamp_min(torch.finfo(features.dtype).tiny ** 0.5)
    solution = solve_gauss_newton(features, probs, gradient / count, damping * float(mean), tolerance=1e-6)
    parts = [
        torch.where(
            look.finite,
            influence(
                solution.direction,
                look.features,
                teaching_residuals(look.logits, look.teacher_logits, look.labels, temperature),
            ),
            -torch.inf,
        ).cpu()
        for look in (kept if sample is None else looks("train", None))
    ]
    return InfluenceScores(torch.cat(parts).float(), solution.residual, solution.steps)


def teacher_scores(score: Literal["teacher_loss", "violation"], looks: Looks) -> Tensor:
    """Scores that only ask how good the teacher is on a training image; high is good.

    Args:
        score: ``"teacher_loss"``: minus the teacher's cross-entropy with the ground truth; ``"violation"``: how far the
            probability of the image's class is above the largest other one, so minus the size of the violation where
            the order is broken. Both at temperature 1.
        looks: see :data:`Looks`.

    Returns:
        float32 ``(rows,)`` on the CPU; minus infinity for rows without finite logits.
    """
    parts = []
    for look in looks("train", None):
        if score == "teacher_loss":
            found = -F.cross_entropy(look.teacher_logits, look.labels, reduction="none")
        else:
            probs, own = look.teacher_logits.softmax(1), look.labels[:, None]
            found = (probs.gather(1, own) - probs.scatter(1, own, 0).amax(1, keepdim=True))[:, 0]
        parts.append(torch.where(look.finite, found, -torch.inf).cpu())
    return torch.cat(parts).float()


def trusted_rows(scores: Tensor, fraction: float) -> Tensor:
    """Bool ``(rows,)``: the share of the rows with the highest scores; among equal ones the first.

    Example:
        >>> trusted_rows(torch.tensor([0.1, 0.9, -0.3, 0.5]), 0.5)
        tensor([False,  True, False,  True])
    """
    chosen = scores.argsort(descending=True, stable=True)[: round(fraction * len(scores))]
    return torch.zeros_like(scores, dtype=torch.bool).index_fill_(0, chosen, True)


def classifier_head(network: nn.Module, num_classes: int) -> nn.Linear:
    """The linear layer that makes a network's logits.

    Raises:
        InputError: if it has none of that width.
    """
    get: Any = getattr(network, "get_classifier", None)  # of timm's networks
    head = None if get is None else get()
    if not isinstance(head, nn.Linear):
        layers = [layer for layer in network.modules() if isinstance(layer, nn.Linear)]
        head = layers[-1] if layers else None
    if head is None or head.out_features != num_classes:
        raise InputError(
            f"score: influence needs a network that ends in a linear layer for {num_classes} classes, got "
            f"{type(network).__name__} without"
        )
    return head


def head_input(head: nn.Linear, given: Tensor, logits: Tensor) -> Tensor:
    """The features ``(batch, features)`` behind logits, with a column of ones for a bias.

    Raises:
        InputError: if the logits are not what the head makes of them.
    """
    if given.ndim != 2 or len(given) != len(logits):
        raise InputError(f"score: influence needs a head that is given (batch, features), got {tuple(given.shape)}")
    with torch.no_grad():
        made = F.linear(given.to(head.weight.dtype), head.weight, head.bias).to(logits.dtype)
    finite = torch.isfinite(logits)
    off = float(torch.where(finite, made - logits, 0).abs().amax())
    if off > 0.05 * (1 + float(torch.where(finite, logits, 0).abs().amax())):  # half types come this near
        raise InputError("score: influence needs a network whose last linear layer makes its logits, got other logits")
    return given if head.bias is None else torch.cat((given, torch.ones_like(given[:, :1])), 1)


def data_fingerprint(dataset: Any) -> str:
    """SHA-256 of a data set: of everything if it is in memory, else of its length and sixteen spread items."""
    digest = hashlib.sha256(f"{type(dataset).__name__} {len(dataset)};".encode())
    tensors: list[Any] = [getattr(dataset, name, None) for name in ("images", "labels")]
    if not all(isinstance(tensor, Tensor) for tensor in tensors):
        count = min(_LOOKED_AT, len(dataset))
        batch = dataset.__getitems__([i * len(dataset) // count for i in range(count)])
        tensors = [batch.inputs, batch.label_mix.labels]
    for tensor in tensors:
        digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def scores_file(folder: str | Path, about: dict[str, Any]) -> Path:
    """Where scores are kept: the name holds the digest of all that they depend on."""
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
    return Path(folder) / f"{about['score']}-{digest[:16]}.safetensors"


def read_scores(path: Path, about: dict[str, Any], rows: int) -> Tensor | None:
    """The scores in a file; None if there is no such file, or it is damaged or about something else."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            same = json.loads((file.metadata() or {}).get("about", "null")) == about
            scores: Tensor = file.get_tensor("scores")
    except (SafetensorError, OSError, ValueError):
        return None
    return scores if same and scores.shape == (rows,) else None


def write_scores(path: Path, about: dict[str, Any], scores: Tensor) -> None:
    """Write scores, whole or not at all."""
    with replacing(path) as unfinished:
        save_file({"scores": scores.contiguous()}, unfinished, {"about": json.dumps(about)})
