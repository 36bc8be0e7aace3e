"""What callbacks that take part in a training step have in common."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, Literal

import lightning as L
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from ida_lightning.errors import InputError
from ida_lightning.label_mix import LabelMix
from ida_lightning.methods.row_means import RowMeans
from ida_lightning.metrics import moved_mass, violated_rows
from ida_lightning.supervision import Supervision


class JoiningCallback(L.Callback):
    """Joins a module while it fits: a subclass says in ``_join`` with which hooks and terms.

    Raises:
        InputError: for a module without the way of joining that is asked for.
    """

    def __init__(self) -> None:
        self._handles: list[RemovableHandle] = []

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Join the module."""
        # A fit that crashed never reached teardown; joining twice would count twice.
        self.teardown(trainer, pl_module, stage)
        if stage == "fit":
            self._join(trainer, pl_module)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Leave the module."""
        while self._handles:
            self._handles.pop().remove()

    @abstractmethod
    def _join(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Register whatever takes part."""

    def _register(
        self,
        module: L.LightningModule,
        way: Literal["register_supervision_hook", "register_loss_term"],
        *args: Any,
        **kwargs: Any,
    ) -> None:
        register: Callable[..., RemovableHandle] | None = getattr(module, way, None)
        if not callable(register):
            raise InputError(
                f"{type(self).__name__}: expected a module with {way}, such as DistillationModule, got "
                f"{type(module).__name__}"
            )
        self._handles.append(register(*args, **kwargs))


class SupervisionCallback(JoiningCallback):
    """Joins the supervision of a module while it fits, and logs means over the training rows of every epoch.

    A subclass says in ``_teach`` what it changes, and gives ``_measure`` values per row.

    Attributes:
        prefix: of the names that are logged, after ``train/``; two callbacks that log the same differ in it.

    Raises:
        InputError: for a module without ``register_supervision_hook``.
    """

    prefix = ""

    def __init__(self) -> None:
        super().__init__()
        self._means = RowMeans()

    def _join(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._register(module, "register_supervision_hook", self._teach)

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        """Begin an epoch's means; a run resumed from a checkpoint of an epoch's last step never saw that epoch end."""
        _, batch_idx = args
        if batch_idx == 0:
            self._means.begin()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Log the means over the epoch's rows."""
        means = {f"train/{self.prefix}{name}": value for name, value in self._means.take(trainer).items()}
        pl_module.log_dict(means, sync_dist=True)  # equal everywhere already; Lightning wants to hear it

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep the sums of an epoch that is not over."""
        checkpoint[f"{type(self).__name__}_means"] = self._means.state(trainer)

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Go on with them."""
        if state := checkpoint.get(f"{type(self).__name__}_means"):
            self._means.restore(state, trainer, trainer.strategy.root_device)

    @abstractmethod
    def _teach(self, supervision: Supervision) -> Supervision:
        """The supervision hook."""

    def _measure(self, rows: dict[str, Tensor]) -> None:
        self._means.add(rows)


def order_rows(violated: Tensor, before: Tensor, after: Tensor, mix: LabelMix) -> dict[str, Tensor]:
    """What is logged of a change of soft labels, row by row.

    Args:
        violated: bool ``(batch,)``, which rows broke their order before.
        before: soft labels ``(batch, classes)``.
        after: likewise.
        mix: their hard labels.
    """
    return {
        "violation_rate": violated,
        "violation_rate_corrected": violated_rows(after, mix),
        "moved_mass": moved_mass(before, after),
    }
