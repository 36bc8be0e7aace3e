"""Distil a student from a frozen teacher."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from copy import deepcopy
from itertools import islice
from typing import Any, Literal

import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from torchmetrics import MeanMetric

from ida_lightning.errors import InputError
from ida_lightning.losses import distillation_loss, mixed_cross_entropy
from ida_lightning.mixing import MixedBatch
from ida_lightning.models import build_model
from ida_lightning.modules.base import ClassifierBase, LRSchedulerCallable, OptimizerCallable
from ida_lightning.modules.teacher import FrozenTeacher
from ida_lightning.supervision import Supervision, SupervisionHook


class DistillationModule(ClassifierBase):
    """Teaches a student with the soft labels of a frozen teacher on (mixed) images.

    One step: the teacher looks at the batch, its logits become a :class:`Supervision`, the registered hooks
    change it in their order, and the student pays, per row, ``soft_weight`` times the distillation loss plus
    ``hard_weight`` times the cross-entropy with the mixed hard label. Callbacks join in through
    :meth:`register_supervision_hook`.

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
    ) -> None:
        super().__init__(num_classes, optimizer, lr_scheduler)
        if not temperature > 0:
            raise InputError(f"temperature: expected a number > 0, got {temperature}")
        if not (soft_weight >= 0 and hard_weight >= 0 and soft_weight + hard_weight > 0):
            raise InputError(
                f"soft_weight, hard_weight: expected numbers >= 0, not both 0, got {soft_weight} and {hard_weight}"
            )
        if nonfinite not in ("raise", "skip"):
            raise InputError(f"nonfinite: expected raise or skip, got {nonfinite!r}")
        modules = {"teacher": teacher, "student": student}
        self._save_plain_hyperparameters(*(n for n, m in modules.items() if isinstance(m, nn.Module)))
        self.student = build_model(student, num_classes, in_channels, **(student_args or {}))
        self.temperature = temperature
        self.soft_weight = soft_weight
        self.hard_weight = hard_weight
        self.nonfinite = nonfinite
        self.teacher = FrozenTeacher(
            teacher, num_classes, in_channels, image_size, teacher_checkpoint, teacher_args or {}
        )
        self._supervision_hooks: OrderedDict[int, SupervisionHook] = OrderedDict()
        self._nonfinite_rows: Tensor | None = None

    @property
    def network(self) -> nn.Module:
        """The student."""
        return self.student

    def setup(self, stage: str) -> None:
        """Build the teacher when fitting starts."""
        if stage == "fit":
            self.teacher.prepare(self.class_names())

    def register_supervision_hook(self, hook: SupervisionHook) -> RemovableHandle:
        """Let ``hook`` change what the student is taught, on every training batch.

        Hooks run in the order of registration, without gradient and outside autocast.

        Args:
            hook: ``Supervision -> Supervision``. It may select rows, replace soft labels and change weights.

        Returns:
            A handle; ``handle.remove()`` takes the hook out again.

        Example:
            >>> module = DistillationModule(nn.Flatten(), "test_resnet", num_classes=10, in_channels=1)
            >>> handle = module.register_supervision_hook(lambda supervision: supervision)
            >>> handle.remove()
        """
        handle = RemovableHandle(self._supervision_hooks)
        self._supervision_hooks[handle.id] = hook
        return handle

    def supervise(self, batch: MixedBatch) -> Supervision:
        """What the student is taught on ``batch``: the teacher's answer after all hooks."""
        teacher_logits = self.teacher(batch.images)
        with torch.no_grad(), torch.autocast(teacher_logits.device.type, enabled=False):
            finite = torch.isfinite(teacher_logits).all(1)
            self._note_nonfinite(finite)
            teacher_logits = torch.where(finite[:, None], teacher_logits, 0)
            supervision = Supervision(
                batch.images,
                batch.label_mix,
                batch.index,
                teacher_logits,
                (teacher_logits / self.temperature).softmax(1),
                self.soft_weight * finite.float(),
                self.hard_weight * finite.float(),
                self.temperature,
            )
            for hook in tuple(self._supervision_hooks.values()):
                supervision = hook(supervision)
        return supervision

    def training_step(self, batch: MixedBatch, batch_idx: int) -> Tensor:
        """One batch: supervise, look, pay."""
        supervision = self.supervise(batch)
        student_logits = self(supervision.images)
        parts = self.loss_parts(student_logits, supervision)
        loss = torch.stack(list(parts.values())).sum()
        self.log("train/loss", loss, prog_bar=True)
        self.log_dict({f"train/{name}": value.detach() for name, value in parts.items()})
        return loss

    def loss_parts(self, student_logits: Tensor, supervision: Supervision) -> dict[str, Tensor]:
        """The named parts whose sum is the loss; each the mean over rows, weights included."""
        kd = distillation_loss(student_logits, supervision.soft_labels, supervision.temperature)
        hard = mixed_cross_entropy(student_logits, supervision.label_mix)
        return {
            "kd_loss": (supervision.soft_weight * kd).mean(),
            "hard_loss": (supervision.hard_weight * hard).mean(),
        }

    def on_train_start(self) -> None:
        """Report how good the teacher is on the validation images."""
        loaders = self.trainer.val_dataloaders
        if not loaders:
            return
        accuracy, nll = deepcopy(self.val_acc), MeanMetric().to(self.device)
        accuracy.reset()
        # The data module decides by the stage whether it mixes.
        self.trainer.validating = True
        loaders = loaders if isinstance(loaders, list) else [loaders]
        for loader, batches in zip(loaders, self.trainer.num_val_batches, strict=True):
            for fetched in islice(loader, None if batches == float("inf") else int(batches)):
                batch = self.trainer.strategy.batch_to_device(fetched)
                logits = self.teacher(batch.images)
                accuracy.update(logits, batch.label_mix.labels[:, 0])
                nll.update(mixed_cross_entropy(logits, batch.label_mix))
        self.trainer.training = True
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
            self._check_nonfinite()

    def _note_nonfinite(self, finite: Tensor) -> None:
        counts = torch.stack(((~finite).sum(), torch.ones_like(finite).sum()))
        self._nonfinite_rows = counts if self._nonfinite_rows is None else self._nonfinite_rows + counts
        if finite.device.type == "cpu":
            self._check_nonfinite()

    def _check_nonfinite(self) -> None:
        """Raise or report the rows counted since the last look; waits for the device."""
        if self._nonfinite_rows is None:
            return
        wrong, rows = self._nonfinite_rows.tolist()
        self._nonfinite_rows = None
        if wrong and self.nonfinite == "raise":
            raise InputError(
                f"teacher: expected finite logits, got NaN or infinity in {wrong} of {rows} rows; nonfinite: skip "
                "leaves such rows out"
            )
        if wrong:
            rank_zero_warn(f"teacher: {wrong} of {rows} rows left out, their logits are NaN or infinite")

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> DistillationModule:
        self.teacher.move(fn)
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        return self

    def __getstate__(self) -> dict[str, Any]:
        """Copies of the module start without hooks: those belong to callbacks of the original's run."""
        return {**super().__getstate__(), "_supervision_hooks": OrderedDict()}
