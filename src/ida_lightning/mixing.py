"""Mixing images with the label order kept: draw a plan, then apply it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from ida_lightning.errors import InputError, kind_of
from ida_lightning.label_mix import LabelMix

MixingKind = Literal["none", "mixup", "cutmix", "mosaic", "both"]
Size = tuple[int, int]  # height, width


class MixedBatch(NamedTuple):
    """What a data module yields; every field has a leading batch dimension.

    Attributes:
        inputs: float ``(batch, channels, height, width)``, normalised.
        label_mix: the classes of every image and their weights.
        index: int64 ``(batch,)``, the position of the row's own image in its data set; -1 where nobody knows.
        partner: int64 ``(batch, partners)``, the rows of this batch that were mixed in; the row itself where none was.
    """

    inputs: Tensor
    label_mix: LabelMix
    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which nobody needs here
    partner: Tensor

    def mixed(self) -> Tensor:
        """Which rows were mixed, bool ``(batch,)``: those with another row as partner or a label of several classes."""
        itself = torch.arange(len(self.partner), device=self.partner.device)
        return (self.partner != itself[:, None]).any(1) | ((self.label_mix.weights > 0).sum(1) > 1)


class MixPlan(NamedTuple):
    """Everything random about one batch that mixes k images in every row, as CPU tensors.

    Column 0 is the row's own image, the others are its partners, read by row number from the unmixed batch.

    Attributes:
        partner: int64 ``(batch, k - 1)``, which rows are mixed in.
        weight: float32 ``(batch, k)``, share of the image, and so of the label; rows sum to 1.
        box: int64 ``(batch, k - 1, 4)``, top, left, bottom, right of the rectangle that a partner fills; empty where
            none is. Where rectangles overlap, the later partner is on top.
        opacity: float32 ``(batch, k)``, share of every pixel outside the rectangles; rows sum to 1.
    """

    partner: Tensor
    weight: Tensor
    box: Tensor
    opacity: Tensor


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
        if self.kind not in get_args(MixingKind):
            raise InputError(f"kind: expected one of {', '.join(get_args(MixingKind))}, got {self.kind!r}")
        for name in ("probability", "cutmix_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise InputError(f"{name}: expected a probability from 0 to 1, got {getattr(self, name)}")
        _check_shares(self.alpha, self.images)
        if self.images != 2 and self.kind not in ("mixup", "both"):
            raise InputError(f"images: expected 2 where kind is {self.kind}, got {self.images}")

    def draw(self, batch: int, size: Size, rng: Generator) -> MixPlan | None:
        """Draw the plan of one batch of ``batch`` images of ``size`` (height, width); None for no mixing."""
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
        whole = _plan(partner, alone, np.zeros((1, *partner.shape[1:], 4)), alone)
        for rows, plan in chosen:
            taken = np.broadcast_to(rows, batch)
            for field, part in zip(whole, plan, strict=True):
                field.numpy()[taken, : part.shape[1]] = part.numpy()[taken]
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
        InputError: if ``alpha`` is not above 0 or ``images`` not above 1.
    """
    _check_shares(alpha, images)
    partner = _draw_partners(batch, images - 1, rng, distinct)
    share = rng.dirichlet([alpha] * images, batch if per_sample else 1)
    return _plan(partner, share, np.zeros((1, images - 1, 4)), share)


def draw_cutmix(
    batch: int, size: Size, rng: Generator, *, alpha: float = 1.0, per_sample: bool = True, distinct: bool = False
) -> MixPlan:
    """Paste a rectangle of one partner: CutMix (Yun et al. 2019, https://arxiv.org/abs/1905.04899).

    Its area share is drawn from Beta(alpha, alpha) and its centre uniformly; what sticks out is clipped, and the
    label weight is what remains visible, to the pixel. ``size`` is (height, width), the rest as in :func:`draw_mixup`.
    """
    _check_shares(alpha)
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
    _check_shares(alpha)
    draws = batch if per_sample else 1
    partner = _draw_partners(batch, 3, rng, distinct)
    y, x = np.rint(np.asarray(size) * rng.beta(alpha, alpha, (draws, 2))).astype(np.int64).T
    zero, bottom, right = (np.full(draws, edge) for edge in (0, *size))
    # Clockwise; the partners follow the row's own quadrant.
    corners = [(zero, zero, y, x), (zero, x, y, right), (y, x, bottom, right), (y, zero, bottom, x)]
    quadrants = np.array(corners).transpose(2, 0, 1)
    following = (rng.integers(0, 4, (draws, 1)) + np.arange(1, 4)) % 4
    return _boxes_plan(partner, np.take_along_axis(quadrants, following[:, :, None], 1), size)


def mix_images(images: Tensor, plan: MixPlan) -> Tensor:
    """Apply a plan to images ``(batch, channels, height, width)`` of any float dtype; returns new ones, same dtype."""
    if not images.is_floating_point() or images.ndim != 4 or len(images) != len(plan.partner):
        wanted = f"floating point ({len(plan.partner)}, channels, height, width), the batch of the plan"
        raise InputError(f"images: expected {wanted}, got {kind_of(images)}")
    # Decisions look at the plan on the host, so that nothing waits for an accelerator.
    partner, box = (field.to(images.device, non_blocking=True) for field in (plan.partner, plan.box))
    mixed = images
    # Every step writes over the partners that it gathers: on CPUs, fresh memory costs more than the arithmetic.
    if bool((plan.opacity[:, 0] < 1).any()):
        # What the partners up to each one leave of the images before it. In float32: half precision rounds shares.
        so_far = plan.opacity.cumsum(1)
        kept = (so_far[:, :-1] / so_far[:, 1:]).nan_to_num_(1)
        mixed = images.to(torch.promote_types(images.dtype, kept.dtype))
        for column in range(kept.shape[1]):
            if bool((kept[:, column] < 1).any()):
                share = kept[:, column, None, None, None].to(mixed, non_blocking=True)
                mixed = images.index_select(0, partner[:, column]).to(mixed.dtype).lerp_(mixed, share)
        mixed = mixed.to(images.dtype)
    rows, columns = (torch.arange(side, device=images.device) for side in images.shape[2:])
    for column in range(box.shape[1]):
        if bool((plan.box[:, column, 2:] > plan.box[:, column, :2]).all(1).any()):
            top, left, bottom, right = box[:, column, :, None].unbind(1)
            beside = ((columns < left) | (columns >= right)).to(images.dtype)[:, None, None, :]
            above_or_below = ((rows < top) | (rows >= bottom)).to(images.dtype)[:, None, :, None]
            # Shares of exactly 0 and 1: on CPUs several times as fast as torch.where.
            share = torch.maximum(beside, above_or_below)
            mixed = images.index_select(0, partner[:, column]).lerp_(mixed, share)
    return images.clone() if mixed is images else mixed


def mix_labels(labels: Tensor, plan: MixPlan) -> LabelMix:
    """The label mix, heaviest class first, of rows with own labels ``(batch,)`` under a plan."""
    partner, weight = (field.to(labels.device, non_blocking=True) for field in (plan.partner, plan.weight))
    return LabelMix(torch.cat((labels[:, None], labels[partner]), 1), weight).canonical()


def _check_shares(alpha: float, images: int = 2) -> None:
    if not 0 < alpha < float("inf"):
        raise InputError(f"alpha: expected a number > 0, got {alpha}")
    if not images >= 2:
        raise InputError(f"images: expected at least 2, got {images}")


def _draw_partners(batch: int, count: int, rng: Generator, distinct: bool) -> np.ndarray:
    """Row numbers ``(batch, count)``: independent permutations, or the next rows on one random circle."""
    if not distinct:
        return np.stack([rng.permutation(batch) for _ in range(count)], 1)
    circle = rng.permutation(batch)
    ahead = 1 + np.arange(count) % max(1, batch - 1)
    partner = np.empty((batch, count), np.int64)
    partner[circle] = circle[(np.arange(batch)[:, None] + ahead) % batch]
    return partner


def _boxes_plan(partner: np.ndarray, box: np.ndarray, size: Size) -> MixPlan:
    """The plan of rectangles ``(draws, partners, 4)`` that do not overlap, with visible areas as weights."""
    pixels = (box[..., 2:] - box[..., :2]).prod(2)
    weight = np.hstack((size[0] * size[1] - pixels.sum(1, keepdims=True), pixels)) / (size[0] * size[1])
    return _plan(partner, weight, box, np.eye(1, weight.shape[1]))


def _plan(partner: np.ndarray, weight: np.ndarray, box: np.ndarray, opacity: np.ndarray) -> MixPlan:
    """As tensors; what was drawn once for the batch is repeated for every row."""
    fields = (partner, torch.int64), (weight, torch.float32), (box, torch.int64), (opacity, torch.float32)
    return MixPlan(
        *(
            torch.tensor(np.broadcast_to(field, (len(partner), *field.shape[1:])), dtype=dtype)
            for field, dtype in fields
        )
    )
