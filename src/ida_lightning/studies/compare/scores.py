"""How good a network is: on validation and test images, raw and after temperature scaling, beside its teacher."""

from __future__ import annotations

from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.nn import functional as F

from ida_lightning.adapters import as_mixed_batch
from ida_lightning.metrics import expected_calibration_error, fit_temperature, prediction_agreement
from ida_lightning.modules.base import ClassifierBase


class _Collector(L.Callback):
    """Keeps the logits of every evaluated row, the teacher's too on test images."""

    def __init__(self, module: ClassifierBase) -> None:
        self.teacher = getattr(module, "teacher", None)
        self.num_classes = module.num_classes
        self.logits: list[Tensor] = []
        self.labels: list[Tensor] = []
        self.teacher_logits: list[Tensor] = []

    def hook(self, network: torch.nn.Module, args: Any, output: Tensor) -> None:
        self.logits.append(output.float().cpu())

    def on_validation_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, *args: Any) -> None:
        self.labels.append(as_mixed_batch(batch, self.num_classes).label_mix.labels[:, 0].cpu())

    def on_test_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, *args: Any) -> None:
        self.on_validation_batch_end(trainer, pl_module, outputs, batch)
        if self.teacher is not None:
            self.teacher_logits.append(self.teacher(as_mixed_batch(batch, self.num_classes).inputs).float().cpu())


def evaluate(trainer: L.Trainer, module: ClassifierBase, data: L.LightningDataModule) -> dict[str, float | None]:
    """Figures of a module after ``fit``, with its present weights.

    Args:
        trainer: the one that fitted it; loses its callbacks.
        module: whose network is evaluated.
        data: gives validation and test images.

    Returns:
        For ``val`` and ``test``: ``_acc``, ``_nll``, ``_ece`` (15 bins); for ``test`` also ``_nll_scaled`` and
        ``_ece_scaled``, after dividing the logits by ``temperature``, which is fitted on the validation images.
        These three are None where every validation image is right, so that no temperature is the best. With a
        teacher ``agreement`` (share of test images with the same prediction) and ``teacher_kl``, else None.
    """
    logits, labels, _ = _collect(trainer, module, data, "val")
    found: dict[str, float | None] = {**_figures("val", logits, labels)}
    scaled = bool((logits.argmax(1) != labels).any())
    temperature = fit_temperature(logits, labels) if scaled else None
    logits, labels, teacher_logits = _collect(trainer, module, data, "test")
    found |= _figures("test", logits, labels)
    after = _figures("test", logits / temperature, labels) if temperature is not None else {}
    found |= {"temperature": temperature}
    found |= {f"test_{name}_scaled": after.get(f"test_{name}") for name in ("nll", "ece")}
    agreement = prediction_agreement(logits, teacher_logits) if teacher_logits is not None else None
    found["agreement"] = None if agreement is None else float(agreement.same.double().mean())
    found["teacher_kl"] = None if agreement is None else float(agreement.kl.mean())
    return found


def _collect(
    trainer: L.Trainer, module: ClassifierBase, data: L.LightningDataModule, split: str
) -> tuple[Tensor, Tensor, Tensor | None]:
    collector = _Collector(module)
    trainer.callbacks = [collector]  # type: ignore[attr-defined]
    handle = module.network.register_forward_hook(collector.hook)
    try:
        (trainer.validate if split == "val" else trainer.test)(module, datamodule=data, verbose=False)
    finally:
        handle.remove()
    teacher = torch.cat(collector.teacher_logits) if collector.teacher_logits else None
    return torch.cat(collector.logits), torch.cat(collector.labels), teacher


def _figures(split: str, logits: Tensor, labels: Tensor) -> dict[str, float]:
    return {
        f"{split}_acc": float((logits.argmax(1) == labels).double().mean()),
        f"{split}_nll": float(F.cross_entropy(logits, labels)),
        f"{split}_ece": float(expected_calibration_error(logits.softmax(1), labels)),
    }
