"""Evaluates a network on validation and test images, raw and after temperature scaling, beside its teacher."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from torch import Tensor
from torch.nn import functional as F

from ida_lightning.adapters import as_mixed_batch
from ida_lightning.inputs import Inputs
from ida_lightning.metrics import expected_calibration_error, fit_temperature, prediction_agreement
from ida_lightning.models import logits_of
from ida_lightning.modules import DistillationModule
from ida_lightning.modules.base import ClassifierBase


class _Collector(L.Callback):
    """Keeps logits and labels of every evaluated row; the teacher's logits too if there is a teacher."""

    def __init__(self, num_classes: int, teacher: Callable[[Inputs], Tensor] | None) -> None:
        self.num_classes, self.teacher = num_classes, teacher
        self.logits: list[Tensor] = []
        self.labels: list[Tensor] = []
        self.teacher_logits: list[Tensor] = []

    def keep_logits(self, network: torch.nn.Module, args: Any, output: Any) -> None:
        self.logits.append(logits_of(output, "network").float().cpu())

    def on_validation_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, *args: Any) -> None:
        batch = as_mixed_batch(batch, self.num_classes)
        self.labels.append(batch.label_mix.labels[:, 0].cpu())
        if self.teacher is not None:
            self.teacher_logits.append(self.teacher(batch.inputs).float().cpu())

    on_test_batch_end = on_validation_batch_end  # type: ignore[assignment]


def evaluate(trainer: L.Trainer, module: ClassifierBase, data: L.LightningDataModule) -> dict[str, float | None]:
    """Evaluate a module after ``fit``, with its present weights.

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
    teacher = module.teacher if isinstance(module, DistillationModule) else None
    validated, tested = _Collector(module.num_classes, None), _Collector(module.num_classes, teacher)
    for collector, run in ((validated, trainer.validate), (tested, trainer.test)):
        trainer.callbacks = [collector]  # type: ignore[attr-defined]
        handle = module.network.register_forward_hook(collector.keep_logits)
        try:
            run(module, datamodule=data, verbose=False)
        finally:
            handle.remove()
    logits, labels = torch.cat(validated.logits), torch.cat(validated.labels)
    figures: dict[str, float | None] = {**_figures("val", logits, labels)}
    temperature = fit_temperature(logits, labels) if (logits.argmax(1) != labels).any() else None
    logits, labels = torch.cat(tested.logits), torch.cat(tested.labels)
    scaled = {} if temperature is None else _figures("test", logits / temperature, labels)
    figures |= {**_figures("test", logits, labels), "temperature": temperature}
    figures |= {f"test_{name}_scaled": scaled.get(f"test_{name}") for name in ("nll", "ece")}
    figures |= {"agreement": None, "teacher_kl": None}
    if teacher is not None:
        agreement = prediction_agreement(logits, torch.cat(tested.teacher_logits))
        figures |= {"agreement": float(agreement.same.double().mean()), "teacher_kl": float(agreement.kl.mean())}
    return figures


def _figures(split: str, logits: Tensor, labels: Tensor) -> dict[str, float]:
    return {
        f"{split}_acc": float((logits.argmax(1) == labels).double().mean()),
        f"{split}_nll": float(F.cross_entropy(logits, labels)),
        f"{split}_ece": float(expected_calibration_error(logits.softmax(1), labels)),
    }
