"""A mixed batch, and the plan by which it is mixed."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ida_lightning.errors import InputError, kind_of, labels_in_range
from ida_lightning.inputs import Inputs
from ida_lightning.label_mix import LabelMix

Size = tuple[int, int]  # height, width


class MixedBatch(NamedTuple):
    """A batch as a data module yields it; every field has a leading batch dimension.

    Attributes:
        inputs: what networks are given: ``(batch, ...)``, or a mapping of such tensors (token ids and their mask, say),
            whose entries a network takes by name. Pictures are float ``(batch, channels, height, width)``, normalised.
        label_mix: the classes of every row and their weights.
        index: int64 ``(batch,)``, the position of the row's own input in its data set; -1 if unknown.
        partner: int64 ``(batch, partners)``, the rows of this batch that were mixed in; the row itself where none was.
        plain: one :class:`PlainImages` where the unmixed images were asked for (``keeps_plain`` of the data module),
            else empty, which costs nothing.
        inner: one :class:`InnerPlan` where inputs are unmixed and the networks mix them in a layer; else empty.
    """

    inputs: Inputs
    label_mix: LabelMix
    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which nobody needs here
    partner: Tensor
    plain: tuple[PlainImages, ...] = ()  # not None: Lightning would count that as a batch of one
    inner: tuple[InnerPlan, ...] = ()

    def mixed(self) -> Tensor:
        """Find the rows that were mixed, bool ``(batch,)``.

        They have another row as partner or a label of several classes.
        """
        itself = torch.arange(len(self.partner), device=self.partner.device)
        return (self.partner != itself[:, None]).any(1) | ((self.label_mix.weights > 0).sum(1) > 1)


class InnerPlan(NamedTuple):
    """How the rows of an unmixed batch are mixed inside a network, on the device of the batch.

    Attributes:
        partner: int64 ``(batch, k - 1)``, which rows are mixed in.
        weight: float32 ``(batch, k)``, share of the row itself and of each partner; rows sum to 1.
    """

    partner: Tensor
    weight: Tensor


class PlainImages(NamedTuple):
    """The unmixed images behind a mixed batch, with the augmentation that they were mixed with.

    Attributes:
        batch: the unmixed images, a batch of their own.
        rows: int64 ``(batch, k)``, which of them every mixed row was made of; its own one first.
        weight: float32 ``(batch, k)``, their shares of the mixed row's label; rows sum to 1.
    """

    batch: MixedBatch
    rows: Tensor
    weight: Tensor


class _Plan(NamedTuple):
    partner: Tensor
    weight: Tensor
    box: Tensor
    opacity: Tensor


class MixPlan(_Plan):
    """Everything random about one batch that mixes k images in every row, as CPU tensors.

    Column 0 is the row's own image, the others are its partners, read by row number from the unmixed batch.

    Attributes:
        partner: int64 ``(batch, k - 1)``, which rows are mixed in.
        weight: float32 ``(batch, k)``, share of the image, and so of the label; rows sum to 1.
        box: int64 ``(batch, k - 1, 4)``, top, left, bottom, right of the rectangle that a partner fills; empty where
            none is. Where rectangles overlap, the later partner is on top.
        opacity: float32 ``(batch, k)``, share of every pixel outside the rectangles; rows sum to 1.
        size: height and width of the images that the rectangles were drawn for; None if it was not drawn, or fits any
            size. No element of the tuple, so that a plan is four tensors to whoever takes it apart.
    """

    size: Size | None = None

    def check(self) -> None:
        """Raise :class:`InputError` unless the fields are CPU tensors of the shapes, types and rows above."""
        if not isinstance(self.partner, Tensor) or self.partner.dtype != torch.int64 or self.partner.ndim != 2:
            raise InputError(f"plan.partner: expected int64 (batch, k - 1), got {kind_of(self.partner)}")
        batch, partners = self.partner.shape
        shapes = {"weight": (batch, partners + 1), "box": (batch, partners, 4), "opacity": (batch, partners + 1)}
        fields = self._asdict()
        for name, shape in shapes.items():
            field = fields[name]
            kind = "int64" if name == "box" else "floating point"
            right = isinstance(field, Tensor) and field.shape == shape
            if not right or (field.dtype != torch.int64 if name == "box" else not field.is_floating_point()):
                raise InputError(f"plan.{name}: expected {kind} {shape}, got {kind_of(field)}")
        for name in ("partner", *shapes):
            if fields[name].device.type != "cpu":
                raise InputError(f"plan.{name}: expected a tensor on the CPU, got one on {fields[name].device}")
        labels_in_range("plan.partner", self.partner, batch, "rows")
