"""The mixed images whose soft labels a correction would change most: what an audit shows first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor

from ida_lightning.inputs import Inputs
from ida_lightning.isotonic import Space, correct_soft_labels
from ida_lightning.label_mix import LabelMix
from ida_lightning.metrics import moved_mass, violated_rows
from ida_lightning.mixing import InnerPlan, MixedBatch
from ida_lightning.plots import plot_corrections

COUNT = 6
OTHERS = 3  # classes beside those of an image
_WIDTH = 1.9  # inches that an image takes: six are readable at 1080 pixels


class Examples(NamedTuple):
    """Images with their labels, the most changed first.

    Attributes:
        images: pixel values from 0 to 1, ``(rows, 1 or 3, height, width)``, or a text for every row.
        label_mix: their hard labels.
        soft_labels: the teacher's, ``(rows, classes)``.
        corrected: after correction, ``(rows, classes)``.
        moved: the share of the soft label that the correction moves, ``(rows,)``.
        class_names: of all classes.
    """

    images: Tensor | list[str]
    label_mix: LabelMix
    soft_labels: Tensor
    corrected: Tensor
    moved: Tensor
    class_names: Sequence[str]

    def select(self, rows: Tensor) -> Examples:
        """Return these rows."""
        images, mix, soft_labels, corrected, moved, names = self
        chosen = images[rows] if isinstance(images, Tensor) else [images[row] for row in rows.tolist()]
        return Examples(chosen, mix.select(rows), soft_labels[rows], corrected[rows], moved[rows], names)

    def parts(self, row: int) -> list[tuple[float, str]]:
        """Return the classes of an image by name, each behind its weight, the heaviest first."""
        order = self.label_mix.order()
        present = order.present[row]
        names = [self.class_names[label] for label in order.labels[row][present].tolist()]
        return list(zip(order.weights[row][present].tolist(), names, strict=True))

    def text(self, row: int) -> str:
        """Return the text of a row, nothing for an image."""
        return "" if isinstance(self.images, Tensor) else self.images[row]

    def cpu(self) -> Examples:
        """Return the same on the CPU."""
        mix = LabelMix(self.label_mix.labels.cpu(), self.label_mix.weights.cpu())
        images = self.images.cpu() if isinstance(self.images, Tensor) else self.images
        soft_labels, corrected, moved = (tensor.cpu() for tensor in (self.soft_labels, self.corrected, self.moved))
        return Examples(images, mix, soft_labels, corrected, moved, self.class_names)


class MostChanged:
    """Keeps, of all batches that it is shown, the images whose soft label the correction changes most.

    Args:
        mixing: the way of mixing that is looked at; batches of another one are passed over.
        space: in which the correction acts.
        temperature: of the soft labels.
        class_names: of all classes.
        show: makes pictures or texts of inputs; see :meth:`ida_lightning.data_facts.DataFacts.shown`.

    Attributes:
        examples: what was kept; None before the first batch, and without rows if the correction changed nothing.
    """

    def __init__(
        self,
        mixing: str,
        space: Space,
        temperature: float,
        class_names: Sequence[str],
        show: Callable[[Inputs, Tensor, Sequence[InnerPlan]], Tensor | list[str]],
    ) -> None:
        self.mixing, self.space, self.temperature = mixing, space, temperature
        self.class_names, self.show = class_names, show
        self.examples: Examples | None = None

    def __call__(self, mixing: str, batch: MixedBatch, logits: Tensor) -> None:
        """Look at one batch of mixed images and the teacher's logits ``(batch, classes)`` of it."""
        if mixing != self.mixing:
            return
        finite = torch.isfinite(logits).all(1)
        mix = batch.label_mix.select(finite)
        soft_labels = (logits[finite] / self.temperature).softmax(1)
        corrected = correct_soft_labels(soft_labels, mix, self.temperature, self.space)
        corrected = torch.where(violated_rows(soft_labels, mix)[:, None], corrected, soft_labels)
        moved = moved_mass(soft_labels, corrected)
        ranked = most_changed(moved, COUNT)
        images = self.show(batch.inputs, finite.nonzero()[ranked, 0], batch.inner)
        fields = (mix.select(ranked), soft_labels[ranked], corrected[ranked], moved[ranked])
        new = Examples(images, *fields, self.class_names).cpu()
        joined = new if self.examples is None else _joined(self.examples, new)
        self.examples = joined.select(most_changed(joined.moved, COUNT))


def most_changed(moved: Tensor, count: int) -> Tensor:
    """Return the numbers of the ``count`` rows with most mass moved, those where nothing moves left out.

    Args:
        moved: ``(rows,)``; of equal ones the first are taken.
        count: how many at most.
    """
    ranked = moved.argsort(descending=True, stable=True)[:count]
    return ranked[moved[ranked] > 0]


def _joined(first: Examples, second: Examples) -> Examples:
    """Return the rows of both; a mix of fewer classes gets further ones without weight."""
    if isinstance(first.images, Tensor) and isinstance(second.images, Tensor):
        images: Tensor | list[str] = torch.cat((first.images, second.images))
    else:
        images = [*first.images, *second.images]
    widest = max(rows.label_mix.labels.shape[1] for rows in (first, second))
    mixes = [
        LabelMix(*(F.pad(part, (0, widest - part.shape[1])) for part in rows.label_mix)) for rows in (first, second)
    ]
    return Examples(
        images,
        LabelMix(*(torch.cat(parts) for parts in zip(*mixes, strict=True))),
        torch.cat((first.soft_labels, second.soft_labels)),
        torch.cat((first.corrected, second.corrected)),
        torch.cat((first.moved, second.moved)),
        first.class_names,
    )


def draw_examples(examples: Examples) -> Figure:
    """Draw each image above its hard label, the teacher's soft label and the corrected one, as bars."""
    images, mix, soft_labels, corrected, _, names = examples
    return plot_corrections(images, mix, soft_labels, corrected, names, "", OTHERS, _WIDTH)
