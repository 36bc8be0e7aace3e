"""Random plans: mixup, CutMix and mosaics."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.random import Generator

from ida_lightning.errors import InputError, at_least, flag, is_a, kind_of, one_of, positive, share
from ida_lightning.mixing.plan import MixPlan, Size

MixingKind = Literal["none", "mixup", "cutmix", "mosaic", "both"]


@dataclass(frozen=True)
class Mixing:
    """How training images are mixed: mixup, CutMix, a random choice of the two, or a mosaic.

    Args:
        kind: ``"mixup"`` (:func:`draw_mixup`), ``"cutmix"`` (:func:`draw_cutmix`), ``"mosaic"``
            (:func:`draw_mosaic`), ``"both"`` (mixup or CutMix) or ``"none"``.
        probability: of mixing at all.
        alpha: of the Beta or Dirichlet distribution that shares are drawn from; 1 is uniform.
        cutmix_share: with ``"both"``, the probability that CutMix is the one chosen.
        per_sample: draw shares, boxes and choice for every row instead of once for the batch.
        images: how many images one mixup blends.
        distinct: give a row partners that differ from it and from each other.

    Raises:
        InputError: for values outside their range.

    Example:
        >>> from ida_lightning.mixing import mix_images, mix_labels
        >>> plan = Mixing("mixup", images=3).draw(4, (8, 8), np.random.default_rng(0))
        >>> images = mix_images(torch.rand(4, 1, 8, 8), plan)
        >>> mix_labels(torch.tensor([0, 1, 2, 3]), plan).labels.shape
        torch.Size([4, 3])
    """

    kind: MixingKind = "cutmix"
    probability: float = 1.0
    alpha: float = 1.0
    cutmix_share: float = 0.5
    per_sample: bool = True
    images: int = 2
    distinct: bool = False

    def __post_init__(self) -> None:
        one_of("kind", self.kind, get_args(MixingKind))
        for name in ("probability", "cutmix_share"):
            share(name, vars(self)[name])
        for name in ("per_sample", "distinct"):
            flag(name, vars(self)[name])
        positive("alpha", self.alpha)
        at_least("images", self.images, 2)
        if self.images != 2 and self.kind not in ("mixup", "both"):
            raise InputError(f"images: expected 2 where kind is {self.kind}, got {self.images}")

    def draw(self, batch: int, size: Size, rng: Generator) -> MixPlan | None:
        """Draw the plan of one batch of ``batch`` images of ``size`` (height, width); None for no mixing.

        Raises:
            InputError: for a batch or size that is none, or ``rng`` that is no NumPy generator.
        """
        _check_draw(batch, rng, size=size)
        if self.kind == "none" or batch == 0:
            return None
        draws = batch if self.per_sample else 1
        mixed = rng.random(draws) < self.probability
        cut = mixed & (rng.random(draws) < {"both": self.cutmix_share, "mixup": 0.0}.get(self.kind, 1.0))
        common: Any = {"alpha": self.alpha, "per_sample": self.per_sample, "distinct": self.distinct}
        chosen = []
        if self.kind in ("mixup", "both"):
            chosen.append((mixed & ~cut, draw_mixup(batch, rng, images=self.images, **common)))
        if self.kind != "mixup":
            draw_boxes = draw_mosaic if self.kind == "mosaic" else draw_cutmix
            chosen.append((cut, draw_boxes(batch, size, rng, **common)))
        if len(chosen) == 1 and mixed.all():
            return chosen[0][1]
        # Rows and columns that nobody fills stay what they are here: the row itself, unmixed.
        alone = np.eye(1, max(plan.weight.shape[1] for _, plan in chosen))
        partner = np.arange(batch)[:, None].repeat(alone.shape[1] - 1, 1)
        whole = _plan(partner, alone, np.zeros((1, *partner.shape[1:], 4)), alone, size)
        for rows, plan in chosen:
            filled = np.broadcast_to(rows, batch)
            for field, drawn in zip(whole, plan, strict=True):
                field.numpy()[filled, : drawn.shape[1]] = drawn.numpy()[filled]
        return whole


def draw_mixup(
    batch: int, rng: Generator, *, alpha: float = 1.0, images: int = 2, per_sample: bool = True, distinct: bool = False
) -> MixPlan:
    """Blend ``images`` images with shares from Dirichlet(alpha, ..., alpha).

    Of two images that is Beta(alpha, alpha): mixup (Zhang et al. 2018, https://arxiv.org/abs/1710.09412).

    Args:
        batch: number of rows.
        rng: the source of all randomness.
        alpha: 1 is uniform; below, one image dominates; above, shares are alike.
        images: how many images one row shows.
        per_sample: draw shares for every row instead of once for the batch.
        distinct: no row is its own partner, and its partners differ, as far as the batch has rows enough.

    Raises:
        InputError: if ``alpha`` is not above 0, ``images`` not above 1, or another argument of the wrong kind.
    """
    _check_draw(batch, rng, alpha, images, per_sample, distinct)
    partner = _draw_partners(batch, images - 1, rng, distinct)
    shares = rng.dirichlet([alpha] * images, batch if per_sample else 1)
    return _plan(partner, shares, np.zeros((1, images - 1, 4)), shares)


def draw_cutmix(
    batch: int, size: Size, rng: Generator, *, alpha: float = 1.0, per_sample: bool = True, distinct: bool = False
) -> MixPlan:
    """Paste a rectangle of one partner: CutMix (Yun et al. 2019, https://arxiv.org/abs/1905.04899).

    Its area share is drawn from Beta(alpha, alpha) and its centre uniformly; what sticks out is clipped, and the
    label weight is what remains visible, to the pixel. ``size`` is (height, width), the rest as in :func:`draw_mixup`.
    """
    _check_draw(batch, rng, alpha, 2, per_sample, distinct, size)
    partner = _draw_partners(batch, 1, rng, distinct)
    area = rng.beta(alpha, alpha, (batch if per_sample else 1, 1))
    extent = np.asarray(size)
    sides = np.rint(extent * np.sqrt(area)).astype(np.int64)
    start = rng.integers(0, extent, sides.shape) - sides // 2
    box = np.hstack((start.clip(0, extent), (start + sides).clip(0, extent)))
    return _boxes_plan(partner, box[:, None], size)


def draw_mosaic(
    batch: int, size: Size, rng: Generator, *, alpha: float = 1.0, per_sample: bool = True, distinct: bool = False
) -> MixPlan:
    """Cut the picture in four at one point; three partners fill three of the quadrants.

    The point's coordinates are drawn from Beta(alpha, alpha) of height and width, and which quadrant stays the row's
    own is drawn too. A relative of RICAP (Takahashi et al. 2018, https://arxiv.org/abs/1811.09030), which fills every
    quadrant with a random crop; here all images keep their coordinates. Arguments as in :func:`draw_cutmix`.
    """
    _check_draw(batch, rng, alpha, 2, per_sample, distinct, size)
    draws = batch if per_sample else 1
    partner = _draw_partners(batch, 3, rng, distinct)
    y, x = np.rint(np.asarray(size) * rng.beta(alpha, alpha, (draws, 2))).astype(np.int64).T
    zero, bottom, right = (np.full(draws, edge) for edge in (0, *size))
    # Clockwise; the partners follow the row's own quadrant.
    corners = [(zero, zero, y, x), (zero, x, y, right), (y, x, bottom, right), (y, zero, bottom, x)]
    quadrants = np.array(corners).transpose(2, 0, 1)
    following = (rng.integers(0, 4, (draws, 1)) + np.arange(1, 4)) % 4
    return _boxes_plan(partner, np.take_along_axis(quadrants, following[:, :, None], 1), size)


def _check_draw(
    batch: int,
    rng: Generator,
    alpha: float = 1.0,
    images: int = 2,
    per_sample: bool = True,
    distinct: bool = False,
    size: Size = (1, 1),
) -> None:
    """Raise :class:`InputError` for arguments of a draw that cannot be used."""
    at_least("batch", batch, 0)
    is_a("rng", rng, Generator)
    positive("alpha", alpha)
    at_least("images", images, 2)
    flag("per_sample", per_sample)
    flag("distinct", distinct)
    if not isinstance(size, (tuple, list)) or len(size) != 2:
        raise InputError(f"size: expected (height, width), got {kind_of(size)}")
    for pixels in size:
        at_least("size", pixels, 1)


def _draw_partners(batch: int, count: int, rng: Generator, distinct: bool) -> np.ndarray:
    """Draw row numbers ``(batch, count)``: independent permutations, or the next rows on one random circle."""
    if not distinct:
        return np.stack([rng.permutation(batch) for _ in range(count)], 1)
    circle = rng.permutation(batch)
    ahead = 1 + np.arange(count) % max(1, batch - 1)
    partner = np.empty((batch, count), np.int64)
    partner[circle] = circle[(np.arange(batch)[:, None] + ahead) % batch]
    return partner


def _boxes_plan(partner: np.ndarray, box: np.ndarray, size: Size) -> MixPlan:
    """Make the plan of rectangles ``(draws, partners, 4)`` that do not overlap, with visible areas as weights."""
    pixels = (box[..., 2:] - box[..., :2]).prod(2)
    weight = np.hstack((size[0] * size[1] - pixels.sum(1, keepdims=True), pixels)) / (size[0] * size[1])
    return _plan(partner, weight, box, np.eye(1, weight.shape[1]), size)


def _plan(
    partner: np.ndarray, weight: np.ndarray, box: np.ndarray, opacity: np.ndarray, size: Size | None = None
) -> MixPlan:
    """Make a plan of tensors; what was drawn once for the batch is repeated for every row."""

    def as_tensor(field: np.ndarray, dtype: torch.dtype) -> torch.Tensor:
        return torch.tensor(np.broadcast_to(field, (len(partner), *field.shape[1:])), dtype=dtype)

    plan = MixPlan(
        as_tensor(partner, torch.int64),
        as_tensor(weight, torch.float32),
        as_tensor(box, torch.int64),
        as_tensor(opacity, torch.float32),
    )
    plan.size = size
    return plan
