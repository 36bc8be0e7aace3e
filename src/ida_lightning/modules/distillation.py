"""Distil a student from a frozen teacher."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from itertools import islice
from typing import Any, Literal, get_args

import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, nn

from ida_lightning.adapters import as_mixed_batch
from ida_lightning.errors import InputError
from ida_lightning.losses import distillation_loss, mixed_cross_entropy
from ida_lightning.mixing import MixedBatch
from ida_lightning.models import build_model
from ida_lightning.modules.base import ClassifierBase, LRSchedulerCallable, OptimizerCallable, rows_that_count, update
from ida_lightning.modules.guards import FiniteRows
from ida_lightning.modules.hooks import SupervisionHooks
from ida_lightning.modules.teacher import FrozenTeacher, Precision
from ida_lightning.supervision import Supervision


class DistillationModule(SupervisionHooks, ClassifierBase):
    """Teaches a student with the soft labels of a frozen teacher on (mixed) images.

    One step: the teacher looks at the batch, its logits become a :class:`Supervision`, the registered hooks
    change it in their order, and the student pays, per row, ``soft_weight`` times the distillation loss plus
    ``hard_weight`` times the cross-entropy with the mixed hard label. Callbacks join in through
    :meth:`register_supervision_hook`. Batches of other pipelines, ``(images, targets)``, are taken too: see
    :func:`ida_lightning.as_mixed_batch`.

    The teacher is built when fitting starts: checkpoints do not hold it, testing and predicting do not need it.
    Its validation metrics ``teacher/val_acc`` and ``teacher/val_nll`` are reported before the first step. Logs
    ``train/kd_loss`` and ``train/hard_loss`` as they enter ``train/loss``, their sum, and ``student/val_acc``,
    ``student/val_nll`` and the same for test.

    Args:
        teacher: a timm name, or a module that maps images to logits ``(batch, num_classes)``.
        student: likewise.
        num_classes: classes of the data set. The command line fills this and the next two in.
        in_channels: channels of the images.
        image_size: pixels of the images; with them the teacher is tried before training starts.
        teacher_checkpoint: the teacher's weights: safetensors, a state dict or a Lightning checkpoint.
        teacher_args: further arguments of :func:`ida_lightning.models.build_model`.
        student_args: likewise.
        temperature: T of the softened softmax, for both.
        soft_weight: weight of the distillation loss (alpha of the paper).
        hard_weight: weight of the cross-entropy (1 - alpha of the paper).
        nonfinite: what to do about rows for which the teacher's logits are NaN or infinite: stop, or leave them
            out of both losses.
        optimizer: from parameters to optimiser.
        lr_scheduler: from optimiser to a scheduler stepped once an epoch; None is warm-up and cosine.
        lr_reference_batch: the batch that the learning rate is meant for: it is scaled in proportion to the rows
            that all processes and accumulated batches make up together. None leaves it as it is.
        compile_args: compile student, teacher and loss for training with these arguments of ``torch.compile``;
            None for eager.
        teacher_precision: of the teacher's forward pass; None is that of the Trainer.
        allow_other_teacher: resume a run although the teacher's weights are not those it was started with.

    Raises:
        InputError: for values out of range, networks that cannot be built, and, when fitting starts, for a
            teacher that is missing, damaged, untrained or made for other classes.

    Example:
        >>> module = DistillationModule(nn.Flatten(), "test_resnet", num_classes=10, in_channels=1)
        >>> module(torch.zeros(2, 1, 32, 32)).shape
        torch.Size([2, 10])

    References:
        Hinton, Vinyals, Dean 2015, arXiv 1503.02531; Cui and Yan, IJCAI 2021, arXiv 2107.01412 (KD-aug, KD-i).
    """

    owner = "student"

    def __init__(
        self,
        teacher: str | nn.Module,
        student: str | nn.Module,
        num_classes: int,
        in_channels: int = 3,
        image_size: int = 32,
        teacher_checkpoint: str | None = None,
        teacher_args: dict[str, Any] | None = None,
        student_args: dict[str, Any] | None = None,
        temperature: float = 4.5,
        soft_weight: float = 0.95,
        hard_weight: float = 0.05,
        nonfinite: Literal["raise", "skip"] = "raise",
        optimizer: OptimizerCallable = lambda p: torch.optim.SGD(
            p, lr=0.05, momentum=0.9, weight_decay=5e-4, nesterov=True
        ),
        lr_scheduler: LRSchedulerCallable | None = None,
        lr_reference_batch: int | None = None,
        compile_args: dict[str, Any] | None = None,
        teacher_precision: Precision | None = None,
        allow_other_teacher: bool = False,
    ) -> None:
        super().__init__(num_classes, optimizer, lr_scheduler, lr_reference_batch, compile_args)
        if not temperature > 0:
            raise InputError(f"temperature: expected a number > 0, got {temperature}")
        if not (soft_weight >= 0 and hard_weight >= 0 and soft_weight + hard_weight > 0):
            raise InputError(
                f"soft_weight, hard_weight: expected numbers >= 0, not both 0, got {soft_weight} and {hard_weight}"
            )
        if teacher_precision not in (None, *get_args(Precision)):
            raise InputError(
                f"teacher_precision: expected {', '.join(get_args(Precision))} or none, got {teacher_precision!r}"
            )
        modules = {"teacher": teacher, "student": student}
        self._save_plain_hyperparameters(*(n for n, m in modules.items() if isinstance(m, nn.Module)))
        self.student = build_model(student, num_classes, in_channels, **(student_args or {}))
        self.temperature = temperature
        self.soft_weight = soft_weight
        self.hard_weight = hard_weight
        self.finite_rows = FiniteRows(nonfinite)
        self.allow_other_teacher = allow_other_teacher
        self.teacher = FrozenTeacher(
            teacher,
            num_classes,
            in_channels,
            image_size,
            teacher_checkpoint,
            teacher_args or {},
            teacher_precision,
            compile_args,
        )
        self._pay = _pay

    @property
    def network(self) -> nn.Module:
        """The student."""
        return self.student

    def setup(self, stage: str) -> None:
        """Build the teacher when fitting starts."""
        super().setup(stage)
        if stage != "fit":
            return
        self.teacher.prepare(self.class_names(), self.image_input())
        if self.compile_args is not None:
            self._pay = torch.compile(_pay, **self.compile_args)

    def trained_parameters(self) -> list[nn.Parameter]:
        """Return the student's parameters and those that methods bring."""
        return [*super().trained_parameters(), *self.method_networks.parameters()]

    def supervise(self, batch: MixedBatch) -> Supervision:
        """What the student is taught on ``batch``: the teacher's answer after all hooks."""
        teacher_logits = self.teacher(batch.inputs)
        with torch.no_grad(), torch.autocast(teacher_logits.device.type, enabled=False):
            finite = torch.isfinite(teacher_logits).all(1)
            self.finite_rows.note(finite)
            teacher_logits = torch.where(finite[:, None], teacher_logits, 0)
            supervision = Supervision(
                batch.inputs,
                batch.label_mix,
                batch.index,
                teacher_logits,
                (teacher_logits / self.temperature).softmax(1),
                self.soft_weight * finite.float(),
                self.hard_weight * finite.float(),
                self.temperature,
                batch.mixed(),
            )
        return self.apply_supervision_hooks(supervision)

    def training_step(self, batch: MixedBatch, batch_idx: int) -> Tensor:
        """One batch: supervise, look, pay."""
        batch = as_mixed_batch(batch, self.num_classes)
        supervision = self.supervise(batch)
        student_logits = self(supervision.inputs)
        parts = self.loss_parts(student_logits, supervision)
        loss = torch.stack(list(parts.values())).sum()
        self.watch(loss, batch, supervision)
        if self.shows_loss():
            self.log("train/loss", loss, prog_bar=True)
            self.log_dict({f"train/{name}": value.detach() for name, value in parts.items()})
        return loss

    def loss_parts(self, student_logits: Tensor, supervision: Supervision) -> dict[str, Tensor]:
        """The named parts whose sum is the loss; each the mean over rows, weights included."""
        kd_loss, hard_loss = self._pay(student_logits, supervision)
        parts = {"kd_loss": kd_loss, "hard_loss": hard_loss}
        for name in self.replaced_parts():
            del parts[name]
        return parts | self.loss_terms(student_logits, supervision)

    def on_train_start(self) -> None:
        """Report how good the teacher is on the validation images."""
        loaders = self.trainer.val_dataloaders
        if not loaders:
            return
        accuracy, nll = deepcopy(self.val_acc), deepcopy(self.val_nll)
        accuracy.reset()
        nll.reset()
        # The data module decides by the stage whether it mixes.
        self.trainer.validating = True
        loaders = loaders if isinstance(loaders, list) else [loaders]
        for loader, batches in zip(loaders, self.trainer.num_val_batches, strict=True):
            for number, fetched in enumerate(islice(loader, None if batches == float("inf") else int(batches))):
                batch = as_mixed_batch(self.trainer.strategy.batch_to_device(fetched), self.num_classes)
                rows = rows_that_count(loader, number, len(batch.inputs))
                update(accuracy, nll, self.teacher(batch.inputs), batch, rows)
        self.trainer.training = True
        for logger in self.trainer.loggers:
            logger.log_hyperparams({"teacher_fingerprint": self.teacher.fingerprint})
        values = {"teacher/val_acc": float(accuracy.compute()), "teacher/val_nll": float(nll.compute())}
        for logger in self.trainer.loggers:
            logger.log_metrics(values, step=self.trainer.global_step)
        rank_zero_info(f"teacher: {values['teacher/val_acc']:.2%} validation accuracy")
        if values["teacher/val_acc"] < 2 / self.num_classes:
            rank_zero_warn(f"teacher: {values['teacher/val_acc']:.2%} validation accuracy is close to chance")

    def on_train_batch_end(self, outputs: Any, batch: MixedBatch, batch_idx: int) -> None:
        """Look, where it costs no stall, whether the teacher's logits were finite."""
        every: int = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        if (batch_idx + 1) % every == 0 or self.trainer.is_last_batch:
            self.finite_rows.check()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Write which teacher this student has, not the teacher."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["teacher_fingerprint"] = self.teacher.fingerprint

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse to go on with another teacher."""
        super().on_load_checkpoint(checkpoint)
        before, now = checkpoint.get("teacher_fingerprint"), self.teacher.fingerprint
        if before is None or now is None or before == now or self.allow_other_teacher:
            return
        raise InputError(
            f"teacher: expected the weights that this run was started with, {before[:12]}, got {now[:12]}; "
            "allow_other_teacher: true goes on with them"
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> DistillationModule:
        self.teacher.move(fn)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self


def _pay(student_logits: Tensor, supervision: Supervision) -> tuple[Tensor, Tensor]:
    """The soft and the hard part of the loss; a function of tensors alone, so that it compiles to one graph."""
    kd = distillation_loss(student_logits, supervision.soft_labels, supervision.temperature)
    hard = mixed_cross_entropy(student_logits, supervision.label_mix)
    return (supervision.soft_weight * kd).mean(), (supervision.hard_weight * hard).mean()
