"""Distil a student from a frozen teacher."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from itertools import islice
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, nn
from typing_extensions import Unpack

from ida_lightning.errors import InputError, at_least, is_a
from ida_lightning.inputs import Inputs
from ida_lightning.lightning_internals import attached_trainer, to_device, validation_stage
from ida_lightning.mixing import MixedBatch
from ida_lightning.models import Description
from ida_lightning.modules.answers import TeacherAnswers
from ida_lightning.modules.asking import looks_at_plain
from ida_lightning.modules.base import ClassifierBase
from ida_lightning.modules.evaluation import rows_that_count, update_metrics
from ida_lightning.modules.guards import FiniteRows
from ida_lightning.modules.hooks import SupervisionHooks
from ida_lightning.modules.options import Loss, Optimisation, OptimizerCallable, Student, Teacher, built_for, picklable
from ida_lightning.modules.short_names import (
    SHORT_NAMES,
    DistillationFields,
    check_names,
    merge_fields,
    plain_fields,
)
from ida_lightning.modules.teachers import frozen
from ida_lightning.supervision import Supervision, weighted_losses


class DistillationModule(SupervisionHooks, ClassifierBase):
    """Teaches a student with the soft labels of a frozen teacher on (mixed) images.

    In one step the teacher's logits of the batch become a :class:`Supervision`, the registered hooks change it in their
    order, and the loss of a row is ``soft_weight`` times the distillation loss plus ``hard_weight`` times the
    cross-entropy with the mixed hard label. Callbacks take part through :meth:`register_supervision_hook` and
    :meth:`register_loss_term`. Batches of other pipelines, ``(images, targets)``, are taken too: see
    :func:`ida_lightning.as_mixed_batch`.

    The teacher is built when fitting starts: checkpoints do not hold it, testing and predicting do not need it.
    Its validation metrics ``teacher/val_acc`` and ``teacher/val_nll`` are reported before the first step. Logs
    ``train/kd_loss`` and ``train/hard_loss`` as they enter ``train/loss``, their sum, and ``student/val_acc``,
    ``student/val_nll`` and the same for test.

    Args:
        teacher: a timm name, a module that maps inputs to logits ``(batch, num_classes)``, or either with its weights
            and options: :class:`~ida_lightning.modules.options.Teacher`; or a list of those, which answer as one.
        student: likewise: :class:`~ida_lightning.modules.options.Student`.
        num_classes: classes of the data set. The command line fills this and the next two in.
        in_channels: channels of the images, for networks that are given by name.
        image_size: pixels of the images. Where a data module of this package gives the inputs, the networks are tried
            on two of its rows before training starts, whatever they are.
        loss: temperature, weights and which distillation loss.
        optimizer: from parameters to optimiser.
        optimisation: schedule, learning rate and compilation, which is of student, teacher and loss.
        fields: single fields of ``teacher`` (``teacher_checkpoint``, ``teacher_args``, ``teacher_view`` and the others,
            and ``allow_other_teacher``), ``student`` (``student_args``), ``loss`` (``temperature``, ``soft_weight``,
            ``hard_weight``, ``nonfinite``, ``hard_temperature``, ``distillation``) and ``optimisation``
            (``lr_scheduler``, ``lr_reference_batch``, ``compile_args``, ``warmup``, ``lr_interval``, ``lr_monitor``,
            ``layout``, ``allow_inexact_resume``) by short names.

    Raises:
        InputError: for values out of range, a field with different values by its short name and in its group, networks
            that cannot be built, and, when fitting starts, for a teacher that is missing, damaged, untrained or made
            for other classes.

    Example:
        >>> module = DistillationModule(nn.Flatten(), "test_resnet", num_classes=10, in_channels=1, temperature=4.0)
        >>> module(torch.zeros(2, 1, 32, 32)).shape
        torch.Size([2, 10])

        The same fit by groups in YAML::

            class_path: DistillationModule
            init_args:
              teacher: {network: resnet34, checkpoint: teacher.safetensors}
              student: {network: resnet18, args: {stem: small}}
              loss: {temperature: 4.0}

        and with short names::

            init_args: {teacher: resnet34, teacher_checkpoint: teacher.safetensors, student: resnet18,
              student_args: {stem: small}, temperature: 4.0}

    References:
        Hinton, Vinyals, Dean 2015, arXiv 1503.02531; Cui and Yan, IJCAI 2021, arXiv 2107.01412 (KD-aug, KD-i).
    """

    owner = "student"

    def __init__(
        self,
        teacher: str | nn.Module | Teacher | list[str | nn.Module | Teacher],
        student: str | nn.Module | Student,
        num_classes: int,
        in_channels: int = 3,
        image_size: int = 32,
        loss: Loss = Loss(),  # noqa: B008 (frozen)
        optimizer: OptimizerCallable = lambda p: torch.optim.SGD(
            p, lr=0.05, momentum=0.9, weight_decay=5e-4, nesterov=True
        ),
        optimisation: Optimisation = Optimisation(),  # noqa: B008 (frozen)
        **fields: Unpack[DistillationFields],
    ) -> None:
        optimizer = picklable(optimizer, DistillationModule.__init__.__defaults__)
        check_names(type(self).__name__, fields, SHORT_NAMES)
        teacher = merge_fields("teacher", teacher if isinstance(teacher, Teacher) else Teacher(teacher), fields)
        student = merge_fields("student", student if isinstance(student, Student) else Student(student), fields)
        for member in teacher.members:
            _check_two_networks(member.network, student.network)
        loss = merge_fields("loss", is_a("loss", loss, Loss), fields)
        optimisation = merge_fields("optimisation", is_a("optimisation", optimisation, Optimisation), fields)
        super().__init__(num_classes, optimizer, optimisation)
        self.input_shape = (at_least("in_channels", in_channels, 1), at_least("image_size", image_size, 1), image_size)
        self._save_plain_hyperparameters(
            plain_fields(teacher=teacher, student=student, loss=loss, optimisation=optimisation),
            ("teacher", "student", "loss", "optimizer", "optimisation", "lr_scheduler"),
        )
        self.student = built_for("student", student.network, num_classes, in_channels, student.args)
        self.note_drawn(student.network, student.args)
        self.temperature = loss.temperature
        self.soft_weight = loss.soft_weight
        self.hard_weight = loss.hard_weight
        self.hard_temperature = loss.hard_temperature
        self.distillation = loss.distillation
        self.finite_rows: FiniteRows = FiniteRows(loss.nonfinite)
        self.allow_other_teacher = teacher.allow_other
        compile_args = optimisation.compile_args
        self.teacher = frozen(teacher, num_classes, in_channels, image_size, compile_args, loss.temperature)
        self.answers = TeacherAnswers(self.teacher, teacher, loss.temperature)

    @property
    def network(self) -> nn.Module:
        """The student."""
        return self.student

    def setup(self, stage: str) -> None:
        """Compile the student and build the teacher when fitting starts."""
        super().setup(stage)
        if stage != "fit":
            return
        chosen = self.optimisation.layout in ("auto", "trial")
        self.answers.open(attached_trainer(self), self.channels_last, chosen)
        if self.compile_args is not None:
            self._weighted_losses = torch.compile(weighted_losses, **self.compile_args)

    def on_fit_start(self) -> None:
        """Lay out the weights of student and teacher alike; a teacher whose answers are stored stays as it was."""
        super().on_fit_start()
        if self.answers.store is None:
            self.teacher.lay_out(self.channels_last)

    def trained_parameters(self) -> list[nn.Parameter]:
        """Return the student's parameters and those that methods bring."""
        return [*super().trained_parameters(), *self.method_networks.parameters()]

    def configure_callbacks(self) -> list[L.Callback]:
        """Add what stores the teacher's answers, asks for other images, shares it out, or measures several teachers."""
        several = len(self.teacher.members) > 1
        answers, shares = self.answers, any(member.strategy == "shard" for member in self.teacher.members)
        needed = several or answers.options is not None or looks_at_plain(answers.view) or shares
        return [*super().configure_callbacks(), *([answers] if needed else [])]

    def supervise(self, batch: MixedBatch, batch_idx: int | None = None) -> Supervision:
        """Return what the student is taught on ``batch``: the teacher's answer after all hooks.

        Args:
            batch: what the student sees, and the teacher too unless it looks at the unmixed images.
            batch_idx: number of a training batch in its epoch, whose answers may be stored; None asks the teacher.
        """
        answers = self.answers(batch, batch_idx)
        teacher_logits = answers.logits
        with torch.no_grad(), torch.autocast(teacher_logits.device.type, enabled=False):
            finite = torch.isfinite(teacher_logits).all(1)
            self.finite_rows.add(finite)
            teacher_logits = torch.where(finite[:, None], teacher_logits, 0)
            supervision = Supervision.from_teacher(batch, teacher_logits, self.temperature)._replace(
                soft_weight=self.soft_weight * finite.float(),
                hard_weight=self.hard_weight * finite.float(),
                kept_from=answers.kept_from,
            )
        return self.apply_supervision_hooks(supervision)

    def training_step(self, batch: MixedBatch, batch_idx: int) -> Tensor:
        """Compute the distillation loss of one batch."""
        batch = self.take_batch(batch)
        supervision = self.supervise(batch, batch_idx)
        student_logits = self(supervision.inputs)
        parts = self.loss_parts(student_logits, supervision)
        loss = torch.stack(list(parts.values())).sum()
        self.guard_step(supervision)
        if self.logs_loss():
            self.log("train/loss", loss, prog_bar=True)
            self.log_dict({f"train/{name}": value.detach() for name, value in parts.items()})
        return loss

    def on_train_start(self) -> None:
        """Log the teacher's accuracy and NLL on the validation images."""
        # Not the loader's own truth: that asks for a length, which a stream does not have.
        if self.trainer.val_dataloaders is None or not sum(self.trainer.num_val_batches):
            return
        figures = self.answers.kept_validation() if self.teacher.network is None else self._evaluate_teacher()
        if figures is None:
            return
        accuracy, nll = figures
        values = {"teacher/val_acc": accuracy, "teacher/val_nll": nll}
        hashes = {"teacher_fingerprint": self.teacher.fingerprint}
        if len(self.teacher.members) > 1:
            for name, member in zip(self.answers.names, self.teacher.members, strict=True):
                hashes[f"teacher_fingerprint/{name}"] = member.fingerprint
        for name, (member_accuracy, member_nll) in self.answers.of_members.items():
            values |= {f"teacher/{name}/val_acc": member_accuracy, f"teacher/{name}/val_nll": member_nll}
            rank_zero_info(f"teacher {name}: {member_accuracy:.2%} validation accuracy")
        if self.trainer.is_global_zero:
            self.answers.keep_validation(accuracy, nll)
        for logger in self.trainer.loggers:
            logger.log_hyperparams(hashes)
            logger.log_metrics(values, step=self.trainer.global_step)
        rank_zero_info(f"teacher: {accuracy:.2%} validation accuracy")
        if accuracy < 2 / self.num_classes:
            rank_zero_warn(f"teacher: {accuracy:.2%} validation accuracy is close to chance")

    def _evaluate_teacher(self) -> tuple[float, float]:
        """Return accuracy and NLL on the validation images, after those of every one of several teachers."""
        members = self.teacher.members
        if len(members) > 1:
            found = {name: self._evaluate(one) for name, one in zip(self.answers.names, members, strict=True)}
            self.answers.of_members = found
        return self._evaluate(self.teacher)

    def _evaluate(self, teacher: Callable[[Inputs], Tensor]) -> tuple[float, float]:
        accuracy, nll = deepcopy(self.val_acc), deepcopy(self.val_nll)
        accuracy.reset()
        nll.reset()
        loaders = self.trainer.val_dataloaders
        loaders = loaders if isinstance(loaders, list) else [loaders]
        with validation_stage(self.trainer):
            for loader, batches in zip(loaders, self.trainer.num_val_batches, strict=True):
                for number, fetched in enumerate(islice(loader, None if batches == float("inf") else int(batches))):
                    batch = self.take_batch(to_device(self.trainer, fetched))
                    rows = rows_that_count(loader, number, len(batch.index))
                    update_metrics(accuracy, nll, teacher(batch.inputs), batch, rows)
        self.intake.check()
        return float(accuracy.compute()), float(nll.compute())

    def description(self) -> Description:
        """Return what files say of the student, its teacher among it."""
        described, teacher = super().description(), self.teacher
        network = teacher.source if isinstance(teacher.source, str) else type(teacher.source).__name__
        known = {"network": network, "fingerprint": teacher.fingerprint, "file_sha256": teacher.file_sha256}
        return described._replace(recipe={**described.recipe, "teacher": known})

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Write the teacher's fingerprint, not the teacher."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["teacher_fingerprint"] = self.teacher.fingerprint

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse to resume with another teacher."""
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


def _check_two_networks(teacher: object, student: object) -> None:
    """Refuse a student that is the teacher or has weights of it: the teacher is frozen, and so is what they share."""
    if not isinstance(teacher, nn.Module) or not isinstance(student, nn.Module):
        return
    shared = {id(parameter) for parameter in teacher.parameters()}
    if teacher is student or any(id(parameter) in shared for parameter in student.parameters()):
        raise InputError(
            "student: expected a network of its own, got the teacher or one that shares weights with it, which are "
            "frozen; copy.deepcopy makes another"
        )
