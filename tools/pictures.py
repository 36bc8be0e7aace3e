"""Draw the pictures of the site, ``docs/images/*.png``: ``make pictures``.

Everything shown is computed by the package. The images are scikit-learn's digits, the teacher answers by the distance
to the mean image of every class: nothing is trained, and the pictures are the same on every machine.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from sklearn.datasets import load_digits
from torch import Tensor

from ida_lightning import (
    LabelMix,
    MixedBatch,
    Mixing,
    as_mixed_batch,
    blend_with_truth,
    correct_soft_labels,
    exchange_values,
    isotonic_soft_labels,
    isotonic_with_margin,
    mix_batch,
    moved_mass,
    prediction_entropy,
    revise_soft_labels,
)
from ida_lightning.inputs import as_pictures
from ida_lightning.plots import plot_corrections

FOLDER = Path(__file__).parents[1] / "docs" / "images"
T = 4.5
_GREY, _RED, _TEAL, _OCHRE, _VIOLET, _GREEN = "#c8c8c8", "#d1495b", "#00798c", "#edae49", "#6a4c93", "#5b7c33"


class Digits(NamedTuple):
    """Images ``(rows, 1, 32, 32)`` from 0 to 1 with their labels, and the mean image of every class."""

    images: Tensor
    labels: Tensor
    means: Tensor

    def teacher(self, images: Tensor) -> Tensor:
        """Return logits ``(rows, 10)``: the nearer to a class's mean, the larger."""
        return -3 * (images[:, None] - self.means).square().sum((2, 3, 4)).sqrt()


def digits() -> Digits:
    """Load the digits, at the size at which the shipped configs show them."""
    pixels, targets = load_digits(return_X_y=True)
    images = F.interpolate(torch.from_numpy(pixels).float().view(-1, 1, 8, 8) / 16, size=32, mode="bilinear")
    labels = torch.from_numpy(targets).long()
    return Digits(images, labels, torch.stack([images[labels == label].mean(0) for label in range(10)]))


def mixed(data: Digits, kind: Mixing, rows: int = 64, seed: int = 0) -> MixedBatch:
    """Mix the first images."""
    clean = as_mixed_batch((data.images[:rows], data.labels[:rows]))
    plan = kind.draw(rows, (32, 32), np.random.default_rng(seed))
    assert plan is not None
    return mix_batch(plan, clean)


def images_of(batch: MixedBatch) -> Tensor:
    """Return the images of a batch."""
    return as_pictures("batch", batch.inputs)


def _example(data: Digits) -> tuple[Tensor, LabelMix, Tensor]:
    """Return a CutMix image whose soft label breaks the order in both ways, its mix and the teacher's logits.

    Of such images it is the one whose correction moves most.
    """
    batch = mixed(data, Mixing("cutmix", alpha=2.0), rows=256)
    logits = data.teacher(images_of(batch))
    order = batch.label_mix.order()
    heavy, light = ((logits.gather(1, order.labels[:, n : n + 1]))[:, 0] for n in (0, 1))
    rest = logits.scatter(1, order.labels, -torch.inf).amax(1)
    several = order.present.sum(1) == 2
    clear = order.weights[:, 0] > 0.6
    soft = (logits / T).softmax(1)
    moved = moved_mass(soft, isotonic_soft_labels(soft, batch.label_mix))
    both_ways = several & clear & (light > rest) & (rest > heavy)
    chosen = torch.where(both_ways, moved, 0).argmax()[None]
    return images_of(batch)[chosen], batch.label_mix.select(chosen), logits[chosen]


def _bars(ax: Axes, names: Sequence[object], groups: dict[str, tuple[Tensor, str]], title: str = "") -> None:
    """Draw a group of bars for every name."""
    width = 0.86 / len(groups)
    for number, (label, (values, colour)) in enumerate(groups.items()):
        centres = np.arange(len(names)) + width * (number - (len(groups) - 1) / 2)
        ax.bar(centres, values.numpy(), width, color=colour, label=label)
    ax.set_xticks(np.arange(len(names)), [str(name) for name in names])
    ax.set_title(title, fontsize=11)
    ax.spines[["top", "right"]].set_visible(False)
    ax.tick_params(labelsize=9)
    if groups and len(groups) > 1:
        ax.legend(fontsize=9, frameon=False)


def _show(ax: Axes, image: Tensor, title: str, frame: str | None = None) -> None:
    ax.imshow(image.squeeze().numpy(), cmap="gray", vmin=0, vmax=1)
    ax.set_title(title, fontsize=10)
    ax.set_xticks([])
    ax.set_yticks([])
    for side in ax.spines.values():
        side.set_visible(frame is not None)
        side.set(color=frame or "none", linewidth=4)


def _words(mix: LabelMix, row: int) -> str:
    order = mix.order()
    kept = order.present[row]
    parts = zip(order.weights[row][kept].tolist(), order.labels[row][kept].tolist(), strict=True)
    terms = [f"{weight:.2f} × “{label}”" for weight, label in parts]
    return "\n+ ".join(" + ".join(terms[first : first + 2]) for first in range(0, len(terms), 2))


def draw_mixing(data: Digits) -> Figure:
    """Draw one image mixed in every way."""
    kinds = {
        "mixup": Mixing("mixup", alpha=4.0),
        "CutMix": Mixing("cutmix", alpha=4.0),
        "mosaic": Mixing("mosaic"),
        "mixup of three": Mixing("mixup", images=3, alpha=4.0),
    }
    figure = Figure(figsize=(12, 3.3), layout="constrained")
    axes = figure.subplots(1, 5)
    _show(axes[0], data.images[3], f"as it is\n1.00 × “{int(data.labels[3])}”")
    for ax, (name, kind) in zip(axes[1:], kinds.items(), strict=True):
        batch = mixed(data, kind)
        _show(ax, images_of(batch)[3], f"{name}\n{_words(batch.label_mix, 3)}")
    return figure


def draw_order(data: Digits) -> Figure:
    """Draw a soft label that breaks the order of its hard label, beside the levels of that order."""
    image, mix, logits = _example(data)
    soft = (logits / T).softmax(1)[0]
    figure = Figure(figsize=(12, 3.2), layout="constrained")
    picture, hard, taught = figure.subplots(1, 3, width_ratios=(0.7, 1.2, 1.2))
    _show(picture, image[0], _words(mix, 0))
    levels = mix.order().levels(10)[0]
    colours = (_TEAL, _OCHRE, _GREY)
    names = ("first: the heavier class", "second: the lighter one", "rest: all others, in any order")
    label_bars = mix.dense(10)[0]
    for ax, values, title in (
        (hard, label_bars, "hard label: the order it promises"),
        (taught, soft, "the teacher's soft label, in the same colours"),
    ):
        for colour, name, level in zip(colours, names, sorted(set(levels.tolist()), reverse=True), strict=True):
            inside = torch.nonzero(levels == level)[:, 0].numpy()
            ax.bar(inside, values.numpy()[inside], 0.8, color=colour, label=name)
        ax.set_xticks(range(10))
        ax.set_title(title, fontsize=11)
        ax.spines[["top", "right"]].set_visible(False)
    hard.legend(fontsize=9, frameon=False)
    return figure


def draw_temperature(data: Digits) -> Figure:
    """Draw one answer at three temperatures."""
    _, _, logits = _example(data)
    figure = Figure(figsize=(12, 2.8), layout="constrained")
    for ax, temperature in zip(figure.subplots(1, 3), (1.0, T, 20.0), strict=True):
        _bars(ax, range(10), {"": ((logits / temperature).softmax(1)[0], _RED)}, f"T = {temperature:g}")
    return figure


def _variants(data: Digits, variants: dict[str, Callable[[Tensor, LabelMix], Tensor]], unchanged: str) -> Figure:
    """Draw the teacher's soft label, and beside it what functions of it make."""
    image, mix, logits = _example(data)
    soft = (logits / T).softmax(1)
    figure = Figure(figsize=(2.4 + 3.4 * len(variants), 3), layout="constrained")
    picture, *axes = figure.subplots(1, 1 + len(variants), width_ratios=(0.75, *[1.2] * len(variants)))
    _show(picture, image[0], _words(mix, 0))
    top = max(float(soft.max()), *(float(change(soft, mix).max()) for change in variants.values()))
    for ax, (title, change) in zip(axes, variants.items(), strict=True):
        groups = {unchanged: (soft[0], _RED), "taught": (change(soft, mix)[0], _TEAL)}
        _bars(ax, range(10), groups, title)
        ax.set_ylim(0, 1.25 * top)
    return figure


def draw_correction(data: Digits) -> Figure:
    """Draw the nearest soft label in the right order."""
    return _variants(data, {"isotonic correction": isotonic_soft_labels}, "teacher")


def draw_spaces(data: Digits) -> Figure:
    """Draw the correction in the three spaces."""

    def corrected(space: str) -> Callable[[Tensor, LabelMix], Tensor]:
        return lambda soft, mix: correct_soft_labels(soft, mix, T, space)  # type: ignore[arg-type]

    return _variants(data, {space: corrected(space) for space in ("softened", "probabilities", "logits")}, "teacher")


def draw_margin(data: Digits) -> Figure:
    """Draw the correction with margins."""

    def with_margin(margin: float) -> Callable[[Tensor, LabelMix], Tensor]:
        return lambda soft, mix: isotonic_with_margin(soft, mix, margin)

    return _variants(data, {f"margin {margin:g}": with_margin(margin) for margin in (0.0, 0.2, 0.5)}, "teacher")


def draw_truth(data: Digits) -> Figure:
    """Draw blends with the hard label."""

    def blended(share: float) -> Callable[[Tensor, LabelMix], Tensor]:
        return lambda soft, mix: blend_with_truth(soft, mix, share)

    return _variants(data, {f"share of truth {share:g}": blended(share) for share in (0.1, 0.3, 0.6)}, "teacher")


def draw_exchange(data: Digits) -> Figure:
    """Draw the exchange of values."""
    return _variants(data, {"values exchanged": exchange_values}, "teacher")


def draw_revision(data: Digits) -> Figure:
    """Draw label revision."""

    def revised(eta: float) -> Callable[[Tensor, LabelMix], Tensor]:
        return lambda soft, mix: revise_soft_labels(soft, mix, eta)

    return _variants(data, {f"eta {eta:g}": revised(eta) for eta in (0.95, 0.8)}, "teacher")


def draw_pool(data: Digits) -> Figure:
    """Draw a pool of mixes with the teacher's entropy, and frame the half that is kept."""
    batch = mixed(data, Mixing("cutmix"), rows=10)
    entropy = prediction_entropy(data.teacher(images_of(batch)))
    kept = set(entropy.topk(5).indices.tolist())
    figure = Figure(figsize=(12, 2.1), layout="constrained")
    for row, ax in enumerate(figure.subplots(1, 10)):
        _show(ax, images_of(batch)[row], f"{entropy[row]:.2f} nats", _TEAL if row in kept else None)
    return figure


def draw_repairs(data: Digits) -> Figure:
    """Draw the most changed of a batch, as the demo does."""
    batch = mixed(data, Mixing("cutmix", alpha=2.0))
    soft = (data.teacher(images_of(batch)) / T).softmax(1)
    corrected = isotonic_soft_labels(soft, batch.label_mix)
    rows = (corrected - soft).abs().sum(1).topk(5).indices
    mix, names = batch.label_mix.select(rows), [str(label) for label in range(10)]
    return plot_corrections(images_of(batch)[rows], mix, soft[rows], corrected[rows], names, "", 3)


def draw_flow(_: Digits) -> Figure:
    """Draw how a batch becomes a loss."""
    boxes = [
        ("images,\nlabels", "your data", _GREY),
        ("MixedBatch", "images + LabelMix,\nmixed on the device", _OCHRE),
        ("teacher", "frozen, in evaluation mode,\nin no checkpoint", _VIOLET),
        ("Supervision", "soft labels, weights\nof every row", _OCHRE),
        ("methods", "correct, blend, revise,\npick, select: in your order", _TEAL),
        ("student", "the only one\nthat is trained", _GREEN),
        ("loss", "named parts,\neach logged", _RED),
    ]
    figure = Figure(figsize=(13, 1.9))
    ax = figure.add_axes((0, 0, 1, 1))
    ax.set(xlim=(0, len(boxes)), ylim=(0, 1))
    ax.axis("off")
    for number, (name, text, colour) in enumerate(boxes):
        ax.add_patch(FancyBboxPatch((number + 0.12, 0.56), 0.76, 0.3, "round,pad=0.02", color=colour, alpha=0.35))
        ax.text(number + 0.5, 0.71, name, ha="center", va="center", fontsize=12, weight="bold")
        ax.text(number + 0.5, 0.28, text, ha="center", va="center", fontsize=9.5, color="#444444")
        if number:
            ends = ((number - 0.1, 0.71), (number + 0.1, 0.71))
            ax.add_patch(FancyArrowPatch(*ends, arrowstyle="-|>", mutation_scale=14, color="#444444"))
    return figure


PICTURES: dict[str, Callable[[Digits], Figure]] = {
    "mixing": draw_mixing,
    "order": draw_order,
    "temperature": draw_temperature,
    "correction": draw_correction,
    "spaces": draw_spaces,
    "margin": draw_margin,
    "truth": draw_truth,
    "exchange": draw_exchange,
    "revision": draw_revision,
    "pool": draw_pool,
    "repairs": draw_repairs,
    "flow": draw_flow,
}


def main(folder: Path = FOLDER) -> None:
    """Write every picture."""
    folder.mkdir(parents=True, exist_ok=True)
    data = digits()
    for name, draw in PICTURES.items():
        draw(data).savefig(folder / f"{name}.png", dpi=80, metadata={"Software": None})


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
