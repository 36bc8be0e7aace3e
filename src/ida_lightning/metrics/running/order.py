"""Order statistics and corrections over many batches."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from ida_lightning.errors import InputError
from ida_lightning.label_mix import LabelMix
from ida_lightning.metrics.distance import kl_divergence, moved_mass
from ida_lightning.metrics.order import OrderStatistics, order_statistics


class OrderMetrics(Metric):
    """How well soft labels keep the order of their hard labels, and how far a correction moved them: means over rows.

    The rates depend strongly on how even the mix is (near 0.5 a teacher can hardly know which class is first), so they
    can also be given by bins of the heaviest class's weight, lambda: say ``lambda_edges=(0.5, 0.6, 0.7, 0.8, 0.9, 1)``.

    :meth:`compute` returns a mean ``()`` for each name:

    * ``mix_reversed``, ``rest_above``, ``violated``, ``tau``, ``covers_any``, ``covers_all``: see
      :func:`~ida_lightning.metrics.order_statistics`; rows without a known pair are left out of ``tau``;
    * ``moved_mass``, total variation, and ``correction_kl``, KL(corrected || soft label) in nats, over the batches that
      came with corrected soft labels. A soft label of 0 counts as the smallest float32 there, so it stays finite;
    * the same with ``/0.5-0.6`` and so on behind the name, for each bin. A bin holds its lower edge, the last one
      both. Rows outside count in the mean of all rows only.

    A mean of no rows is NaN.

    Args:
        lambda_edges: edges of the bins, ascending; none for no bins.
        **kwargs: for ``torchmetrics.Metric``.

    Raises:
        InputError: for edges that do not ascend; in ``update`` for shapes and devices that do not fit.

    Example:
        >>> metric = OrderMetrics(lambda_edges=(0.5, 0.75, 1))
        >>> mix = LabelMix.pair(torch.tensor([0, 0]), torch.tensor([1, 1]), torch.tensor([0.6, 0.9]))
        >>> metric.update(torch.tensor([[0.5, 0.3, 0.2], [0.6, 0.1, 0.3]]), mix)
        >>> means = metric.compute()
        >>> means["violated"], means["violated/0.5-0.75"], means["violated/0.75-1"]
        (tensor(0.5000), tensor(0.), tensor(1.))
    """

    full_state_update = False
    names = (*OrderStatistics._fields, "moved_mass", "correction_kl")
    sums: Tensor
    rows: Tensor

    def __init__(self, lambda_edges: Sequence[float] = (), **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.lambda_edges = tuple(lambda_edges)
        if len(self.lambda_edges) == 1 or any(not low < high for low, high in pairwise(self.lambda_edges)):
            raise InputError(f"lambda_edges: expected none or at least two ascending numbers, got {self.lambda_edges}")
        bins = list(pairwise(self.lambda_edges))
        self.suffixes = ["", *(f"/{low:g}-{high:g}" for low, high in bins)]
        # The first line is all rows.
        shape = (len(self.suffixes), len(self.names))
        self.add_state("sums", torch.zeros(shape), "sum")
        self.add_state("rows", torch.zeros(shape, dtype=torch.int64), "sum")

    def update(self, soft_labels: Tensor, label_mix: LabelMix, corrected: Tensor | None = None) -> None:
        """Take in one batch.

        Args:
            soft_labels: probabilities ``(batch, classes)``, or anything else that is ordered if nothing is corrected.
            label_mix: ``(batch, k)``.
            corrected: the soft labels after correction, ``(batch, classes)``.
        """
        values = [field.float() for field in order_statistics(soft_labels, label_mix)]
        known = ~values[OrderStatistics._fields.index("tau")].isnan()
        counted = [known if name == "tau" else torch.ones_like(known) for name in OrderStatistics._fields]
        if corrected is not None:
            if corrected.shape != soft_labels.shape:
                expected = f"the soft labels' shape {tuple(soft_labels.shape)}"
                raise InputError(f"corrected: expected {expected}, got {tuple(corrected.shape)}")
            before, after = soft_labels.float(), corrected.float()
            logs = before.clamp_min(torch.finfo(torch.float32).tiny).log()
            values += [moved_mass(before, after), kl_divergence(after.log(), logs)]
            counted += [torch.ones_like(known)] * 2
        # (bins, batch, names)
        taken = torch.stack(counted, 1) & self._bins(label_mix)[:, :, None]
        given = len(values)
        self.sums[:, :given] += torch.where(taken, torch.stack(values, 1), 0).sum(1)
        self.rows[:, :given] += taken.sum(1)

    def _bins(self, label_mix: LabelMix) -> Tensor:
        """Bool ``(1 + bins, batch)``: all rows, then those of each bin."""
        first = label_mix.order().weights[:, 0].clamp(max=1)
        inside = [(first >= low) & (first < high) for low, high in pairwise(self.lambda_edges)]
        if inside:
            inside[-1] = inside[-1] | (first == self.lambda_edges[-1])
        return torch.stack([torch.ones_like(first, dtype=torch.bool), *inside])

    def compute(self) -> dict[str, Tensor]:
        """The means; see the class."""
        means = self.sums / self.rows
        return {
            name + suffix: means[line, column]
            for line, suffix in enumerate(self.suffixes)
            for column, name in enumerate(self.names)
        }
