"""The problems that are timed: soft labels of mixed images, a chosen share of which break their order."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from benchmarks import _baselines as outside
from ida_lightning.label_mix import LabelMix
from ida_lightning.metrics import violated_rows

TEMPERATURE = 4.5


class Cell(NamedTuple):
    """One problem: teacher and student on a batch of mixed images."""

    teacher_logits: Tensor
    student_logits: Tensor
    soft_labels: Tensor
    mix: LabelMix


def make_cell(rows: int, classes: int, rate: float, dtype: torch.dtype, device: torch.device, seed: int = 0) -> Cell:
    """Draw a batch of which exactly ``round(rate * rows)`` soft labels break their order.

    The teacher sees both classes of a mixed image, the heavier one better, among noise: its logits are
    ``3 * randn`` plus a bonus that grows with the weight. Rows that shall break the order and do not, or the other
    way round, get a few of their own values swapped, so that rows of every rate are equally peaked. Both classes are
    drawn independently: a share of 1 / classes of the rows shows one class only.
    """
    random = torch.Generator().manual_seed(seed)
    weight = 0.505 + 0.49 * torch.rand(rows, generator=random)  # never a tie, never a pure image
    mix = LabelMix.pair(*torch.randint(classes, (2, rows), generator=random), weight)
    logits = 3 * torch.randn(rows, classes, generator=random)
    student = torch.randn(rows, classes, generator=random)
    # About what the largest of the others reaches by chance.
    bonus = 3 * (2 * torch.tensor(float(classes)).log()).sqrt()
    logits.scatter_add_(1, mix.labels, bonus * (0.4 + mix.weights))
    logits = logits.to(dtype)
    wrong = torch.zeros(rows, dtype=torch.bool)
    wrong[torch.randperm(rows, generator=random)[: round(rate * rows)]] = True
    soft_labels = _with_order(torch.softmax(logits / TEMPERATURE, 1), mix, wrong)
    # What the softmax is timed on gives these soft labels, up to rounding.
    logits = (soft_labels.float().log() * TEMPERATURE).to(dtype)
    if not torch.equal(violated_rows(soft_labels, mix), wrong):
        raise RuntimeError(f"could not make {rate:g} of {rows} rows with {classes} classes break their order")
    student = student.to(device, dtype).requires_grad_()
    return Cell(logits.to(device), student, soft_labels.to(device), LabelMix(*(field.to(device) for field in mix)))


def _with_order(values: Tensor, mix: LabelMix, wrong: Tensor) -> Tensor:
    """Swap values within rows until exactly the rows ``wrong`` break their order."""
    first, second = mix.order().labels.unbind(1)  # equal where the row shows one class only
    each = torch.arange(len(values))

    def swap(labels: Tensor, others: Tensor, where: Tensor) -> None:
        at, left, right = each[where], labels[where], others[where]
        values[at, left], values[at, right] = values[at, right], values[at, left]

    swap(first, values.argmax(1), ~wrong)
    below = values.scatter(1, first[:, None], -torch.inf).argmax(1)
    swap(second, torch.where(second == first, first, below), ~wrong)
    # The mildest breach there is: the lighter class and the best of the rest change places.
    rest_top = values.scatter(1, mix.labels, -torch.inf).argmax(1)
    swap(second, rest_top, wrong & ~violated_rows(values, mix))
    # Nothing gained where those two were equal.
    swap(first, values.argmin(1), wrong & ~violated_rows(values, mix))
    return values


def error_of(result: Tensor, cell: Cell, rows: int = 4) -> float:
    """Largest difference from SciPy in float64 on the first rows, relative to each row's largest value."""
    mix = LabelMix(cell.mix.labels[:rows].cpu(), cell.mix.weights[:rows].cpu())
    raw = cell.soft_labels[:rows].cpu().double()
    difference = (result[:rows].detach().cpu().double() - outside.scipy_rows(raw, mix)).abs()
    return float((difference / raw.amax(1, keepdim=True)).max())


def allowed_error(dtype: torch.dtype) -> float:
    """What :func:`error_of` may be: the result's own rounding, and some of float32, in which sums are taken."""
    return torch.finfo(dtype).eps + 16 * torch.finfo(torch.float32).eps
