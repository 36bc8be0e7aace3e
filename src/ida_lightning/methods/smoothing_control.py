"""The control of the isotonic correction: as much mass moved, without using the order."""

from __future__ import annotations

import torch
from torch import Tensor

from ida_lightning.isotonic import Solver, Space
from ida_lightning.methods.isotonic import IsotonicSoftLabelCallback, Role
from ida_lightning.metrics import moved_mass, violated_rows
from ida_lightning.supervision import Supervision


class SmoothingControlCallback(IsotonicSoftLabelCallback):
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
        role: ``"replace"`` or ``"add"``, as for the correction.
        added_weight: with ``"add"``, the weight of the second term.

    Raises:
        InputError: for values out of range or that exclude each other, and a module without the hook.

    Example:
        >>> from lightning import Trainer
        >>> trainer = Trainer(callbacks=[SmoothingControlCallback(space="logits")], logger=False)
    """

    def __init__(
        self,
        solver: Solver = "auto",
        space: Space = "softened",
        strength: float = 1.0,
        role: Role = "replace",
        added_weight: float = 2.0,
    ) -> None:
        super().__init__(solver, space, strength, role, added_weight)
        self._capped: Tensor | None = None

    def _measure(self, rows: dict[str, Tensor]) -> None:
        capped = torch.zeros_like(rows["violation_rate"]) if self._capped is None else self._capped
        super()._measure({**rows, "capped_rate": capped})

    def _corrected(self, supervision: Supervision) -> Tensor:
        before, mix = supervision.soft_labels, supervision.label_mix
        wanted = moved_mass(before, super()._corrected(supervision))
        hard = mix.dense(before.shape[1]).to(before.dtype)
        share = wanted / moved_mass(before, hard).clamp_min(torch.finfo(before.dtype).tiny)
        self._capped = (share > 1) & violated_rows(before, mix)
        return torch.lerp(before, hard, share.clamp_max(1)[:, None])
