"""A second distillation term, with the soft label that any method makes."""

from __future__ import annotations

import lightning as L
from torch import nn

from ida_lightning.errors import InputError, kind_of, non_negative
from ida_lightning.methods.base import SupervisionMethod
from ida_lightning.supervision import Supervision, add_soft_labels


class AddedTermCallback(SupervisionMethod):
    """Adds a distillation term with the soft label of a method, beside the term with the teacher's own.

    Both go through one soft label, which has the gradient of the two, and the weight of every distilled row grows by
    ``weight``: see :func:`ida_lightning.add_soft_labels`. Of the method only the soft label counts. What it measures
    is logged as if it stood in the list itself, so ``train/moved_mass`` is that of the added term's label.

    Args:
        method: whose soft label is added, such as ``IsotonicSoftLabelCallback(space="logits")``. It must keep all rows.
        weight: of the added term, >= 0; the IDA paper is quoted with 3, the README of its code with 2.
        name: see :class:`~ida_lightning.methods.base.Method`; None is that of the method.

    Raises:
        InputError: for something else than a method or a negative weight; in training, for a method that drops rows.

    Example:
        >>> from ida_lightning.methods import IsotonicSoftLabelCallback
        >>> added = AddedTermCallback(IsotonicSoftLabelCallback(space="logits"), weight=3.0)

    References:
        Cui and Yan, IJCAI 2021, arXiv 2107.01412.
    """

    def __init__(self, method: SupervisionMethod, weight: float = 2.0, name: str | None = None) -> None:
        super().__init__(name)
        if not isinstance(method, SupervisionMethod):
            raise InputError(f"method: expected a SupervisionMethod, got {kind_of(method)}")
        self.method = method
        self.weight = non_negative("weight", weight)
        method.measure = self.measure  # type: ignore[method-assign]  # it stands in no list, so this one logs for it

    @property
    def log_prefix(self) -> str:
        """That of the method, if no name was given."""
        return self.method.log_prefix if self._name is None else super().log_prefix

    def build_network(self, module: L.LightningModule) -> nn.Module | None:
        """Build what the method trains."""
        return self.method.build_network(module)

    def transform(self, supervision: Supervision) -> Supervision:
        """Add the term with the soft label of the method."""
        taught = self.method.transform(supervision)
        if not isinstance(taught, Supervision) or taught.soft_labels.shape != supervision.soft_labels.shape:
            came = kind_of(taught.soft_labels if isinstance(taught, Supervision) else taught)
            wanted = f"soft labels of all rows, {tuple(supervision.soft_labels.shape)}"
            raise InputError(f"{self.method}: expected {wanted}, to add a term with them, got {came}")
        return add_soft_labels(supervision, taught.soft_labels, self.weight)
