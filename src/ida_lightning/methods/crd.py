"""Contrastive representation distillation (CRD), with its memory of features, for mixed images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import lightning as L
import torch
from torch import Tensor, distributed, nn
from torch.nn import functional as F

from ida_lightning.data_facts import facts_of
from ida_lightning.errors import InputError, at_least, is_a, positive, share
from ida_lightning.losses.contrast import Compared, contrastive_loss, move_bank
from ida_lightning.methods.feature_loss import PENULTIMATE, FeatureLoss, pooled
from ida_lightning.mixing import MixedBatch
from ida_lightning.supervision import Supervision

_SEED = 20200419


@runtime_checkable
class _Labelled(Protocol):
    """A data set that knows the label of every image."""

    labels: Tensor


@dataclass(frozen=True)
class Contrast:
    """How features are contrasted.

    Args:
        dimensions: of the space that both networks' features are projected to.
        negatives: stored features that a batch is compared with, at most one less than there are images.
        temperature: > 0.
        momentum: of the stored features, from 0 to 1.

    Raises:
        InputError: for values out of range.
    """

    dimensions: int = 128
    negatives: int = 16384
    temperature: float = 0.07
    momentum: float = 0.5

    def __post_init__(self) -> None:
        at_least("dimensions", self.dimensions, 1)
        at_least("negatives", self.negatives, 1)
        positive("temperature", self.temperature)
        share("momentum", self.momentum)


class CRDCallback(FeatureLoss):
    """Adds the contrastive loss between the student's features of an image and the teacher's of the same image.

    Both are projected to one space. A bank stores what was last seen there of every training image, by each network; a
    row's student features must find the teacher's of its images among those of others, and the other way round.

    **Mixed images.** The positives of a mix are the images in it, each counted by its share, so that a row of one image
    has the published loss. The share of an image is the weight of its class in the row's label; images of one class
    divide it evenly. A row moves the stored features of its images by their shares. Negatives show no class of the row.

    They are drawn once for a batch and not for each row, which makes a product of matrices of it. The bank goes by
    positions in the training set, is the same on all processes, and is in checkpoints: ``2 * images * dimensions``
    numbers, 51 MB for CIFAR.

    Args:
        student_layers: one layer; see :class:`FeatureLoss`.
        teacher_layers: likewise.
        weight: of the term; 0.8 is the paper's.
        contrast: how features are contrasted; None is :class:`Contrast` with its defaults.
        name: see :class:`~ida_lightning.methods.base.Method`.

    Raises:
        InputError: see :class:`FeatureLoss`; when a fit starts, for data without labels by position and more negatives
            than there are other images.

    Example:
        >>> crd = CRDCallback(contrast=Contrast(negatives=4096))

    References:
        Tian, Krishnan, Isola, ICLR 2020, arXiv 1910.10699.
    """

    term = "crd"

    def __init__(
        self,
        student_layers: str | list[str] = PENULTIMATE,
        teacher_layers: str | list[str] = PENULTIMATE,
        weight: float = 0.8,
        contrast: Contrast | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(student_layers, teacher_layers, weight, name)
        if len(self.student_layers) != 1:
            raise InputError(f"student_layers: expected one, got {len(self.student_layers)}")
        self.contrast = Contrast() if contrast is None else is_a("contrast", contrast, Contrast)
        self.banks: dict[str, Tensor] = {}
        self.constants: dict[str, float] = {}
        self._labels = torch.zeros(0, dtype=torch.int64)
        self._batch: MixedBatch | None = None
        self._run: L.Trainer | None = None

    def build_projector(self, student: list[Tensor], teacher: list[Tensor]) -> Mapping[str, nn.Module]:
        """Build a projector for each network."""
        widths = {"student": pooled(student[0]).shape[1], "teacher": pooled(teacher[0]).shape[1]}
        return {owner: nn.Linear(width, self.contrast.dimensions) for owner, width in widths.items()}

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Register with the module, and fill the bank at random when a fit starts."""
        super().setup(trainer, pl_module, stage)
        if stage != "fit":
            return
        splits = facts_of(trainer).splits
        train = None if splits is None else splits.get("train")
        labels = train.labels if isinstance(train, _Labelled) else None
        if not isinstance(labels, Tensor):
            raise InputError(f"{self}: expected a MixingDataModule, which knows every image by its position")
        if self.contrast.negatives >= len(labels):
            raise InputError(
                f"negatives: expected fewer than the {len(labels)} training images, got {self.contrast.negatives}"
            )
        self._run, self._labels, self.constants = trainer, labels.cpu(), {}
        generator = torch.Generator().manual_seed(_SEED)  # the same on every process
        reach, shape = (3 / self.contrast.dimensions) ** 0.5, (len(labels), self.contrast.dimensions)
        self.banks = {
            owner: reach * (2 * torch.rand(shape, generator=generator, dtype=torch.float32) - 1)
            for owner in ("student", "teacher")
        }

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        """Keep which images the batch shows."""
        super().on_train_batch_start(trainer, pl_module, *args)
        self._batch = args[0] if isinstance(args[0], MixedBatch) else None

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep the bank beside the sums."""
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        banks = {owner: bank.cpu().clone() for owner, bank in self.banks.items()}
        checkpoint[f"{self.name}_bank"] = {"banks": banks, "constants": dict(self.constants)}

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Go on with the bank."""
        super().on_load_checkpoint(trainer, pl_module, checkpoint)
        kept = checkpoint.get(f"{self.name}_bank")
        if kept is None or not self.banks:
            return
        for owner, bank in self.banks.items():
            if kept["banks"][owner].shape != bank.shape:
                was, now = tuple(kept["banks"][owner].shape), tuple(bank.shape)
                raise InputError(f"ckpt_path: expected a bank of {now} features (images, dimensions), got {was}")
        self.banks = {owner: bank.clone() for owner, bank in kept["banks"].items()}
        self.constants = dict(kept["constants"])

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Let go of the batch and of the Trainer."""
        super().teardown(trainer, pl_module, stage)
        self._batch = self._run = None

    def compare(self, student: list[Tensor], teacher: list[Tensor], supervision: Supervision) -> Tensor:
        """Compute the loss of both directions, then move the bank."""
        device = student[0].device
        self.banks = {owner: bank.to(device) for owner, bank in self.banks.items()}
        self._labels = self._labels.to(device)
        features = {
            owner: F.normalize(self.project(owner, pooled(given[0])))
            for owner, given in (("student", student), ("teacher", teacher))
        }
        positions = self._positions(supervision)
        weights = supervision.label_mix.dense(supervision.soft_labels.shape[1]).float()
        shares = self._shares(positions, weights)
        drawn = torch.randint(len(self._labels), (self.contrast.negatives,), device=device)
        valid = weights[:, self._labels[drawn]] <= 0
        rows = torch.zeros_like(shares[:, 0])
        for owner, other in (("student", "teacher"), ("teacher", "student")):
            bank = self.banks[other]
            compared = Compared(bank[positions], shares, bank[drawn], valid)
            constant = self._constant(owner, features[owner], compared)
            temperature = self.contrast.temperature
            rows = rows + contrastive_loss(features[owner], compared, len(bank), temperature, constant)
        self._move(positions, shares * (supervision.soft_weight > 0)[:, None], features)
        return rows

    def _positions(self, supervision: Supervision) -> Tensor:
        """Return the positions of the images of every row, its own first."""
        batch, rows = self._batch, supervision.rows
        if batch is None or (rows is None and len(batch.index) != len(supervision.index)):
            return supervision.index[:, None]
        positions = torch.cat((batch.index[:, None], batch.index[batch.partner]), 1)
        return positions if rows is None else positions[rows]

    def _shares(self, positions: Tensor, weights: Tensor) -> Tensor:
        labels = self._labels[positions]
        alike = (labels[:, :, None] == labels[:, None, :]).sum(2)
        shares = weights.gather(1, labels) / alike
        return shares / shares.sum(1, keepdim=True).clamp_min(torch.finfo(shares.dtype).tiny)

    def _constant(self, owner: str, features: Tensor, compared: Compared) -> float:
        """Return what normalises the likeness, which the first batch decides; the same on all processes."""
        if owner not in self.constants:
            with torch.no_grad():
                seen = (features @ compared.negatives.T / self.contrast.temperature).exp().mean() * len(self._labels)
                self.constants[owner] = float(self._gathered(seen[None]).mean())
        return self.constants[owner]

    @torch.no_grad()
    def _move(self, positions: Tensor, shares: Tensor, features: dict[str, Tensor]) -> None:
        positions, shares = self._gathered(positions), self._gathered(shares)
        for owner, seen in features.items():
            given = self._gathered(seen.detach())
            move_bank(self.banks[owner], positions, shares, given, self.contrast.momentum)

    def _gathered(self, values: Tensor) -> Tensor:
        """Return the rows of all processes, in the order of the processes."""
        if self._run is None or self._run.world_size == 1:
            return values
        parts = [torch.empty_like(values, memory_format=torch.contiguous_format) for _ in range(self._run.world_size)]
        distributed.all_gather(parts, values.contiguous())
        return torch.cat(parts)
