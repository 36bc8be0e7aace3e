"""Mixing images with the label order kept: draw a plan, then apply it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from ida_lightning.errors import InputError
from ida_lightning.label_mix import LabelMix

MixingKind = Literal["none", "mixup", "cutmix", "both"]


class MixedBatch(NamedTuple):
    """What a data module yields; every field has a leading batch dimension.

    Attributes:
        images: float ``(batch, channels, height, width)``, normalised.
        label_mix: the classes of every image and their weights.
        index: int64 ``(batch,)``, the position of the row's own image in its data set.
        partner: int64 ``(batch,)``, the row of this batch that was mixed in; the row itself where nothing was.
    """

    images: Tensor
    label_mix: LabelMix
    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which nobody needs here
    partner: Tensor


class MixPlan(NamedTuple):
    """Everything random about one mixed batch, as CPU tensors.

    Attributes:
        partner: int64 ``(batch,)``, which row is mixed in.
        weight: float32 ``(batch,)``, the row's own share of the image, and so of the label.
        box: int64 ``(batch, 4)``, top, left, bottom, right of the pasted CutMix rectangle; empty where none is.
        opacity: float32 ``(batch,)``, the own image's share of every pixel outside the box: ``weight`` for mixup,
            1 otherwise.
    """

    partner: Tensor
    weight: Tensor
    box: Tensor
    opacity: Tensor


@dataclass(frozen=True)
class Mixing:
    """How training images are mixed: mixup, CutMix, or a random choice of the two.

    Args:
        kind: ``"mixup"`` (Zhang et al. 2018), ``"cutmix"`` (Yun et al. 2019), ``"both"`` or ``"none"``.
        probability: of mixing at all.
        alpha: lambda is drawn from Beta(alpha, alpha); 1 is uniform.
        cutmix_share: with ``"both"``, the probability that CutMix is the one chosen.
        per_sample: draw lambda, box and choice for every row instead of once for the batch.

    Raises:
        InputError: for values outside their range.

    Example:
        >>> plan = Mixing("mixup").draw(4, (8, 8), np.random.default_rng(0))
        >>> images = mix_images(torch.rand(4, 1, 8, 8), plan)
        >>> mix_labels(torch.tensor([0, 1, 2, 3]), plan).labels.shape
        torch.Size([4, 2])
    """

    kind: MixingKind = "cutmix"
    probability: float = 1.0
    alpha: float = 1.0
    cutmix_share: float = 0.5
    per_sample: bool = True

    def __post_init__(self) -> None:
        if self.kind not in get_args(MixingKind):
            raise InputError(f"kind: expected one of {', '.join(get_args(MixingKind))}, got {self.kind!r}")
        for name in ("probability", "cutmix_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name}: expected a probability from 0 to 1, got {getattr(self, name)}")
        if not self.alpha > 0:
            raise InputError(f"alpha: expected a number > 0, got {self.alpha}")

    def draw(self, batch: int, size: tuple[int, int], rng: np.random.Generator) -> MixPlan | None:
        """Draw the plan of one batch of ``batch`` images of ``size`` (height, width); None for no mixing."""
        if self.kind == "none" or batch == 0:
            return None
        draws = batch if self.per_sample else 1
        partner = rng.permutation(batch)
        lam = rng.beta(self.alpha, self.alpha, draws)
        mixed = rng.random(draws) < self.probability
        chance = {"mixup": 0.0, "cutmix": 1.0, "both": self.cutmix_share}[self.kind]
        cut = mixed & (rng.random(draws) < chance)
        blend = mixed & ~cut

        box = np.where(cut[:, None], _draw_boxes(lam, size, rng), 0)
        pasted = (box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1]) / (size[0] * size[1])
        opacity = np.where(blend, lam, 1.0)
        weight = np.where(cut, 1 - pasted, opacity)
        partner = np.where(mixed, partner, np.arange(batch))

        def rows(values: np.ndarray, dtype: torch.dtype) -> Tensor:
            return torch.tensor(np.broadcast_to(values, (batch, *values.shape[1:])), dtype=dtype)

        return MixPlan(
            rows(partner, torch.int64),
            rows(weight, torch.float32),
            rows(box, torch.int64),
            rows(opacity, torch.float32),
        )


def _draw_boxes(lam: np.ndarray, size: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Rectangles ``(draws, 4)`` of area share 1 - lam around a uniform centre, clipped to the image."""
    extent = np.asarray(size)
    sides = np.rint(extent * np.sqrt(1 - lam)[:, None]).astype(np.int64)
    centre = rng.integers(0, extent, (len(lam), 2))
    start = centre - sides // 2
    return np.hstack((start.clip(0, extent), (start + sides).clip(0, extent)))


def mix_images(images: Tensor, plan: MixPlan) -> Tensor:
    """Apply a plan to float images ``(batch, channels, height, width)``; returns new images, same dtype."""
    partners = images[plan.partner.to(images.device, non_blocking=True)]
    mixed = images
    if bool((plan.opacity < 1).any()):
        opacity = plan.opacity.to(images.device, images.dtype, non_blocking=True)
        mixed = torch.lerp(partners, images, opacity[:, None, None, None])
    if bool((plan.box[:, 2:] > plan.box[:, :2]).all(1).any()):
        box = plan.box.to(images.device, non_blocking=True)[:, :, None]
        rows = torch.arange(images.shape[2], device=images.device)
        columns = torch.arange(images.shape[3], device=images.device)
        in_rows = (rows >= box[:, 0]) & (rows < box[:, 2])
        in_columns = (columns >= box[:, 1]) & (columns < box[:, 3])
        inside = in_rows[:, None, :, None] & in_columns[:, None, None, :]
        mixed = torch.where(inside, partners, mixed)
    return mixed


def mix_labels(labels: Tensor, plan: MixPlan) -> LabelMix:
    """The label mix, heaviest class first, of rows with own labels ``(batch,)`` under a plan."""
    partner, weight = (field.to(labels.device, non_blocking=True) for field in (plan.partner, plan.weight))
    return LabelMix.pair(labels, labels[partner], weight).canonical()
