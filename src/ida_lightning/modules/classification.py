"""Train a classifier with hard labels: a teacher, or a student on its own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import Unpack

from ida_lightning.errors import at_least, is_a, positive
from ida_lightning.losses import mixed_cross_entropy
from ida_lightning.mixing import MixedBatch
from ida_lightning.models import build_model
from ida_lightning.modules.base import ClassifierBase
from ida_lightning.modules.options import Optimisation, OptimizerCallable, check_args, check_network, picklable
from ida_lightning.modules.short_names import OptimisationFields, check_names, merge_fields, plain_fields


class ClassificationModule(ClassifierBase):
    """Trains a network with the hard labels of the same batches that distillation uses.

    Logs ``train/loss``, ``model/val_acc``, ``model/val_nll`` and the same for test.

    Args:
        model: a timm name, or a module that maps inputs to logits ``(batch, num_classes)``.
        num_classes: classes of the data set. The command line fills this and the next two in.
        in_channels: channels of the images, for a timm name.
        image_size: pixels of the images, taken so that both modules are configured alike; the network is tried on
            inputs of the data module.
        model_args: further arguments of :func:`ida_lightning.models.build_model`, such as ``stem: small``.
        optimizer: from parameters to optimiser.
        optimisation: schedule, learning rate and compilation.
        hard_temperature: T of the softmax in the cross-entropy, which is multiplied by its square, so that the gradient
            keeps its size: labels alone beside a student that is distilled at this temperature.
        fields: single fields of ``optimisation``: ``lr_scheduler``, ``lr_reference_batch``, ``compile_args``,
            ``warmup``, ``lr_interval``, ``lr_monitor``, ``layout``, ``allow_inexact_resume``.

    Raises:
        InputError: for a network that cannot be built, and a temperature that is not > 0.

    Example:
        >>> module = ClassificationModule("test_resnet", num_classes=10, in_channels=1)
        >>> module(torch.zeros(2, 1, 32, 32)).shape
        torch.Size([2, 10])
    """

    owner = "model"

    def __init__(
        self,
        model: str | nn.Module,
        num_classes: int,
        in_channels: int = 3,
        image_size: int = 32,
        model_args: dict[str, Any] | None = None,
        optimizer: OptimizerCallable = lambda p: torch.optim.SGD(
            p, lr=0.05, momentum=0.9, weight_decay=5e-4, nesterov=True
        ),
        optimisation: Optimisation = Optimisation(),  # noqa: B008 (frozen)
        hard_temperature: float = 1.0,
        **fields: Unpack[OptimisationFields],
    ) -> None:
        optimizer = picklable(optimizer, ClassificationModule.__init__.__defaults__)
        check_names(type(self).__name__, fields, OptimisationFields.__annotations__)
        optimisation = merge_fields("optimisation", is_a("optimisation", optimisation, Optimisation), fields)
        super().__init__(num_classes, optimizer, optimisation)
        for name, count in (("in_channels", in_channels), ("image_size", image_size)):
            at_least(name, count, 1)
        self.hard_temperature = positive("hard_temperature", hard_temperature)
        check_network("model", model)
        check_args("model_args", model_args)
        plain = plain_fields(optimisation=optimisation)
        left_out = "optimizer", "optimisation", "lr_scheduler", *(["model"] if isinstance(model, nn.Module) else [])
        self._save_plain_hyperparameters(plain, left_out)
        self.model = build_model(model, num_classes, in_channels, **check_args("model_args", model_args))
        self.note_drawn(model, model_args)

    @property
    def network(self) -> nn.Module:
        """The network that is trained."""
        return self.model

    def training_step(self, batch: MixedBatch, batch_idx: int) -> Tensor:
        """Compute the cross-entropy of one batch with its hard labels, mixed or not."""
        self.guard_step()
        batch = self.take_batch(batch)
        loss = mixed_cross_entropy(self(batch.inputs), batch.label_mix, self.hard_temperature).mean()
        if self.logs_loss():
            self.log("train/loss", loss, prog_bar=True)
        return loss
