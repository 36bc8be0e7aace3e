"""Isotonic correction of every training batch's soft labels (KD-i)."""

from __future__ import annotations

from typing import get_args

import lightning as L
import torch
from torch.utils.hooks import RemovableHandle

from ida_lightning.errors import InputError
from ida_lightning.isotonic import Solver, Space, correct_soft_labels
from ida_lightning.metrics import moved_mass, violated_rows
from ida_lightning.supervision import Supervision


class IsotonicSoftLabelCallback(L.Callback):
    """Makes the teacher's soft labels respect the order of the mixed images' labels, on the device, per batch.

    Works with any LightningModule that offers ``register_supervision_hook``. Logs epoch means over the training
    rows: ``train/violation_rate`` (rows that broke the order as the teacher gave them),
    ``train/violation_rate_corrected`` (rows that still do), ``train/moved_mass`` (share of the soft label that was
    moved).

    Args:
        solver: see :func:`ida_lightning.isotonic_soft_labels`.
        space: what is corrected. ``"softened"``: the soft label itself, softmax(z / T).
            ``"probabilities"``: softmax(z), which is softened afterwards, so mass moves where the teacher is sharp.
            ``"logits"``: z, as the code released with the paper does. All three are derived from the soft label as
            the hooks before this one left it.
        strength: from 0 (measure only) to 1 (replace): the soft label becomes
            ``(1 - strength) * soft_label + strength * corrected``, which has the gradient of two loss terms with
            these weights.

    Raises:
        InputError: for an unknown solver or space, a strength out of range, and a module without the hook.

    Example:
        >>> from lightning import Trainer
        >>> trainer = Trainer(callbacks=[IsotonicSoftLabelCallback(space="softened")], logger=False)

    References:
        Cui and Yan, IJCAI 2021, arXiv 2107.01412, KD-i.
    """

    def __init__(self, solver: Solver = "auto", space: Space = "softened", strength: float = 1.0) -> None:
        for name, value, choices in (("solver", solver, Solver), ("space", space, Space)):
            if value not in get_args(choices):
                raise InputError(f"{name}: expected one of {', '.join(get_args(choices))}, got {value!r}")
        if not 0 <= strength <= 1:
            raise InputError(f"strength: expected a number from 0 to 1, got {strength}")
        self.solver = solver
        self.space = space
        self.strength = strength
        self._handle: RemovableHandle | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Join the module's supervision."""
        # A fit that crashed never reached teardown; joining twice would correct twice.
        self.teardown(trainer, pl_module, stage)
        if stage != "fit":
            return
        register = getattr(pl_module, "register_supervision_hook", None)
        if not callable(register):
            raise InputError(
                "IsotonicSoftLabelCallback: expected a module with register_supervision_hook, such as "
                f"DistillationModule, got {type(pl_module).__name__}"
            )

        def hook(supervision: Supervision) -> Supervision:
            return self._correct(pl_module, supervision)

        self._handle = register(hook)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Leave the module's supervision."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None

    def _correct(self, module: L.LightningModule, supervision: Supervision) -> Supervision:
        before, mix = supervision.soft_labels, supervision.label_mix
        violated = violated_rows(before, mix)
        after = before
        if self.strength > 0:
            corrected = correct_soft_labels(before, mix, supervision.temperature, self.space, self.solver)
            after = corrected if self.strength == 1 else torch.lerp(before, corrected, self.strength)
            after = torch.where(violated[:, None], after, before)
        values = {
            "train/violation_rate": violated.float().mean(),
            "train/violation_rate_corrected": violated_rows(after, mix).float().mean(),
            "train/moved_mass": moved_mass(before, after).mean(),
        }
        module.log_dict(values, on_step=False, on_epoch=True, sync_dist=True, batch_size=len(before))
        return supervision._replace(soft_labels=after)
