"""Pictures of what a correction does."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from torch import Tensor

from ida_lightning.label_mix import LabelMix

_HARD, _TEACHER, _CORRECTED = "#c8c8c8", "#d1495b", "#00798c"


def plot_corrections(
    images: Tensor,
    label_mix: LabelMix,
    soft_labels: Tensor,
    corrected: Tensor,
    class_names: Sequence[str],
    title: str,
) -> Figure:
    """Show mixed images above their hard label, the teacher's soft label and the corrected one.

    Args:
        images: pixel values from 0 to 1, ``(rows, channels, height, width)`` with 1 or 3 channels.
        label_mix: the label mix of every row.
        soft_labels: the teacher's, ``(rows, classes)``.
        corrected: after correction, ``(rows, classes)``.
        class_names: one for every class.
        title: above the picture.

    Returns:
        The figure; the caller saves it.
    """
    images, soft_labels, corrected = (tensor.detach().float().cpu() for tensor in (images, soft_labels, corrected))
    label_mix = LabelMix(label_mix.labels.cpu(), label_mix.weights.cpu())
    rows, classes = soft_labels.shape
    order = label_mix.order()
    hard = label_mix.dense(classes)
    figure = Figure(figsize=(2.9 * rows, 4.9), layout="constrained")
    figure.suptitle(title, fontsize=12)
    axes = figure.subplots(2, rows, squeeze=False, height_ratios=(1.0, 1.15))
    place = np.arange(classes)
    for row in range(rows):
        picture, bars = axes[:, row]
        picture.imshow(images[row].permute(1, 2, 0).numpy().squeeze(), cmap="gray", vmin=0, vmax=1)
        picture.axis("off")
        mixed = zip(order.weights[row], order.labels[row], order.present[row], strict=True)
        parts = [f"{weight:.2f} × “{class_names[label]}”" for weight, label, present in mixed if present]
        picture.set_title(" + ".join(parts), fontsize=11)
        bars.bar(place, hard[row].numpy(), 0.92, color=_HARD, label="hard label")
        bars.bar(place - 0.21, soft_labels[row].numpy(), 0.4, color=_TEACHER, label="teacher's soft label")
        bars.bar(place + 0.21, corrected[row].numpy(), 0.4, color=_CORRECTED, label="corrected soft label")
        bars.set_xticks(place, class_names)
        bars.set_ylim(0, 1.05 * max(float(soft_labels.max()), float(hard.max())))
        bars.spines[["top", "right"]].set_visible(False)
        bars.tick_params(labelsize=9)
        if row > 0:
            bars.set_yticklabels([])
    handles, names = axes[1, 0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3, frameon=False, fontsize=11)
    return figure
