"""The control of the isotonic correction: as much mass moved, without using the order."""

from __future__ import annotations

import torch
from torch import Tensor

from ida_lightning.isotonic import Solver, Space
from ida_lightning.methods.base import SupervisionMethod, order_rows
from ida_lightning.methods.isotonic import IsotonicSoftLabelCallback
from ida_lightning.metrics import moved_mass, violated_rows
from ida_lightning.supervision import Supervision


class SmoothingControlCallback(SupervisionMethod):
    """Moves in every row as much mass as the isotonic correction would, straight towards the hard label.

    A corrected soft label is ordered, and it is also nearer to the hard label. To tell the two apart, the soft label
    becomes ``soft_label + t * (hard_label - soft_label)``, where t is chosen row by row so that the moved mass (half
    the L1 distance) is that of the correction. Rows that respect the order are left alone, as the correction leaves
    them. What comes out may break the order still.

    Logs what :class:`IsotonicSoftLabelCallback` logs, so that the moved masses can be compared, and
    ``train/capped_rate``: no row can go further than its hard label, so t is at most 1, and this share of the rows
    moves less than the correction would.

    Args:
        solver: of the correction that is matched; see :func:`ida_lightning.isotonic_soft_labels`.
        space: of the correction that is matched; see :class:`IsotonicSoftLabelCallback`. The mass is always that of
            the softened soft label, which is what the student sees.
        strength: of the correction that is matched, from 0 to 1.
        name: see :class:`~ida_lightning.methods.base.Method`.

    Raises:
        InputError: for values out of range, and a module without the hook.

    Example:
        >>> from lightning import Trainer
        >>> trainer = Trainer(callbacks=[SmoothingControlCallback(space="logits")], logger=False)
    """

    prefix = ""

    def __init__(
        self, solver: Solver = "auto", space: Space = "softened", strength: float = 1.0, name: str | None = None
    ) -> None:
        super().__init__(name)
        self.correction = IsotonicSoftLabelCallback(solver, space, strength)

    def transform(self, supervision: Supervision) -> Supervision:
        """Move the mass of the correction towards the hard label, and measure."""
        before, mix = supervision.soft_labels, supervision.label_mix
        corrected = self.correction.transform(supervision).soft_labels
        after, capped = smooth_towards(before, mix.dense(before.shape[1]), moved_mass(before, corrected))
        rows = order_rows(violated_rows(before, mix), before, after, mix)
        self.measure({**rows, "capped_rate": capped})
        return supervision._replace(soft_labels=after)


def smooth_towards(soft_labels: Tensor, hard_labels: Tensor, mass: Tensor) -> tuple[Tensor, Tensor]:
    """Move a given mass of every row straight towards its hard label.

    Args:
        soft_labels: ``(batch, classes)``.
        hard_labels: ``(batch, classes)``.
        mass: half the L1 distance to move, ``(batch,)``; a row with 0 comes back bit for bit.

    Returns:
        The moved rows, and bool ``(batch,)``: those that reached their hard label first.

    Example:
        >>> smooth_towards(torch.tensor([[0.2, 0.8]]), torch.tensor([[1.0, 0.0]]), torch.tensor([0.4]))
        (tensor([[0.6000, 0.4000]]), tensor([False]))
    """
    hard_labels = hard_labels.to(soft_labels.dtype)
    ratio = mass / moved_mass(soft_labels, hard_labels).clamp_min(torch.finfo(soft_labels.dtype).tiny)
    return torch.lerp(soft_labels, hard_labels, ratio.clamp_max(1)[:, None]), ratio > 1
