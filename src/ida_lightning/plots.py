"""Figures of what a correction does to soft labels."""

from __future__ import annotations

from collections.abc import Sequence
from textwrap import wrap
from typing import Literal, cast

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Text
from torch import Tensor

from ida_lightning.errors import InputError, at_least, float_matrix, floats_like, is_tensor, kind_of, positive
from ida_lightning.label_mix import LabelMix, check_label_mix
from ida_lightning.texts import printable

_HARD, _TEACHER, _CORRECTED = "#c8c8c8", "#d1495b", "#00798c"
_LINE, _NAME, _PARTS = 34, 18, 4  # letters of a title's line and of a class name, classes that a title counts up
_LINES, _NARROW = 8, 4  # of a text in the place of a picture; how many times as long as wide is narrow
_UPRIGHT = 3  # letters of class names that need not be turned


def plot_corrections(
    images: Tensor | Sequence[str],
    label_mix: LabelMix,
    soft_labels: Tensor,
    corrected: Tensor,
    class_names: Sequence[str],
    title: str,
    others: int | None = None,
    width: float = 2.9,
) -> Figure:
    """Draw mixed images above their hard label, the teacher's soft label and the corrected one.

    Args:
        images: pixel values from 0 to 1, ``(rows, channels, height, width)`` with 1 or 3 channels, or a text for every
            row.
        label_mix: the label mix of every row.
        soft_labels: the teacher's, ``(rows, classes)``.
        corrected: after correction, ``(rows, classes)``.
        class_names: one for every class.
        title: above the picture.
        others: where classes are many, show those of the image, heaviest first, and this many others that have most
            of the two soft labels; None shows all in their order.
        width: of each image's column, in inches; a title longer than that has a line for every class.

    Returns:
        The figure; the caller saves it.

    Raises:
        InputError: for tensors that do not fit each other, or a name too few.
    """
    float_matrix("soft_labels", soft_labels)
    floats_like("corrected", corrected, "soft_labels", soft_labels)
    check_label_mix(label_mix, soft_labels, "soft_labels")
    words = _words("images", images, len(soft_labels))
    if not isinstance(class_names, Sequence) or len(class_names) != soft_labels.shape[1]:
        raise InputError(
            f"class_names: expected {soft_labels.shape[1]}, one of every class, got {kind_of(class_names)}"
        )
    if others is not None:
        at_least("others", others, 0)
    positive("width", width)
    soft_labels, corrected = (tensor.detach().float().cpu() for tensor in (soft_labels, corrected))
    label_mix = LabelMix(label_mix.labels.cpu(), label_mix.weights.cpu())
    rows, classes = soft_labels.shape
    class_names = [printable(str(name)) for name in class_names]
    order = label_mix.order()
    hard = label_mix.dense(classes)
    figure = Figure(figsize=(width * rows, 4.9), layout="constrained")
    figure.suptitle(printable(title), fontsize=12)
    axes = figure.subplots(2, rows, squeeze=False, height_ratios=(1.0, 1.15))
    most = torch.maximum(soft_labels, corrected)
    top = 1.05 * max(float(most.max()), float(hard.max()))
    for row in range(rows):
        picture, bars = axes[:, row]
        if words is not None:
            picture.text(
                0.5, 0.5, _wrapped(words[row], round(_LINE * width / 2.9)), ha="center", va="center", fontsize=9
            )
        else:
            _draw_pixels(picture, cast(Tensor, images)[row].detach().float().cpu())
        picture.axis("off")
        mix_classes = order.labels[row][order.present[row]].tolist()
        parts = [f"{hard[row, label]:.2f} × “{class_names[label]}”" for label in mix_classes]
        picture.set_title(_one_title(parts, round(_LINE * width / 2.9)), fontsize=11)
        shown = list(range(classes)) if others is None else _with_others(mix_classes, most[row], others)
        positions = np.arange(len(shown))
        bars.bar(positions, hard[row, shown].numpy(), 0.92, color=_HARD, label="hard label")
        bars.bar(positions - 0.21, soft_labels[row, shown].numpy(), 0.4, color=_TEACHER, label="teacher's soft label")
        bars.bar(positions + 0.21, corrected[row, shown].numpy(), 0.4, color=_CORRECTED, label="corrected soft label")
        names = [class_names[label] for label in shown]
        if others is None:
            bars.set_xticks(positions, names)
        else:
            short = [shortened(name, _NAME) for name in names]
            turned = {} if max(map(len, short)) <= _UPRIGHT else {"rotation": 40, "ha": "right"}
            bars.set_xticks(positions, short, **turned)
        bars.set_ylim(0, top)
        bars.spines[["top", "right"]].set_visible(False)
        bars.tick_params(labelsize=9)
        if row > 0:
            bars.set_yticklabels([])
    handles, legend = axes[1, 0].get_legend_handles_labels()
    figure.legend(handles, legend, loc="outside lower center", ncols=3, frameon=False, fontsize=11)
    return plain_text(figure)


def _words(name: str, images: object, rows: int) -> list[str] | None:
    """Return the texts that are given in the place of pictures, None for pictures, which must be such."""
    expected = f"({rows}, 1 or 3, height, width), or {rows} texts"
    if isinstance(images, (list, tuple)) and len(images) == rows and all(isinstance(text, str) for text in images):
        return list(images)
    pixels = is_tensor(name, images, expected)
    if pixels.ndim != 4 or len(pixels) != rows or pixels.shape[1] not in (1, 3):
        raise InputError(f"{name}: expected {expected}, got {kind_of(images)}")
    return None


def _wrapped(text: str, letters: int) -> str:
    """Break the lines of a text so that none has more letters; the last of many is cut."""
    lines = [line for given in text.splitlines() for line in wrap(printable(given), letters)]
    return "\n".join(lines if len(lines) <= _LINES else [*lines[: _LINES - 1], "…"])


def _draw_pixels(axes: Axes, image: Tensor) -> None:
    """Draw one image; what is very narrow, such as a vector, fills its place."""
    height, width = image.shape[1:]
    aspect: Literal["auto", "equal"] = "auto" if max(height, width) > _NARROW * min(height, width) else "equal"
    pixels = image[0] if len(image) == 1 else image.permute(1, 2, 0)
    axes.imshow(pixels.numpy(), cmap="gray", vmin=0, vmax=1, aspect=aspect)


def _with_others(mix_classes: list[int], values: Tensor, others: int) -> list[int]:
    """Return the classes of the mix and the ``others`` ones that have the largest values."""
    ranked: list[int] = values.argsort(descending=True, stable=True).tolist()
    return mix_classes + [label for label in ranked if label not in mix_classes][:others]


def _one_title(parts: list[str], letters: int) -> str:
    """Join a sum's terms, on one line if it has no more letters than this."""
    if len(parts) > _PARTS:
        parts = [*parts[:_PARTS], "…"]
    line = " + ".join(parts)
    return line if len(line) <= letters else "\n+ ".join(parts)


def shortened(name: str, letters: int) -> str:
    """Return a class name of at most so many letters for a picture.

    Example:
        >>> shortened("dog", 14), shortened("$dog$", 4)
        ('dog', '$do…')
    """
    name = printable(name)
    return name if len(name) <= letters else name[: letters - 1] + "…"


def plain_text(figure: Figure) -> Figure:
    """Return ``figure``, none of whose texts is a formula: class names may hold dollars."""
    for text in figure.findobj(Text):
        text.set_parse_math(False)
    return figure
