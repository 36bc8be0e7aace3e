"""The arguments of the modules in groups: teacher, student, loss, optimisation."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ida_lightning.checks import path_like, text
from ida_lightning.errors import (
    InputError,
    at_least,
    flag,
    is_a,
    kind_of,
    non_negative,
    one_of,
    positive,
    share_below_one,
)
from ida_lightning.models import build_model
from ida_lightning.teacher_outputs import Encoding

Precision = Literal["32", "bf16", "16"]
# LightningCLI has the same two, but importing it needs jsonargparse, which training from Python does not.
OptimizerCallable = Callable[[Iterable[nn.Parameter]], Optimizer]
LRSchedulerCallable = Callable[[Optimizer], LRScheduler]


def default_optimizer(parameters: Iterable[nn.Parameter]) -> Optimizer:
    """Build the optimiser of a module that was given none: SGD with Nesterov momentum.

    In the modules' signatures it is a lambda, whose numbers the command line can show and change one by one; a module
    keeps this function instead, which can be pickled.
    """
    return torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=5e-4, nesterov=True)


def picklable(optimizer: OptimizerCallable, defaults: tuple[Any, ...] | None) -> OptimizerCallable:
    """Return :func:`default_optimizer` for the lambda among a signature's defaults, else what was given."""
    is_default = callable(optimizer) and any(optimizer is default for default in defaults or ())
    return default_optimizer if is_default else optimizer


@dataclass(frozen=True)
class TeacherOutputs:
    """Where a teacher's answers to the training batches are stored, so that it is asked once for many students.

    Args:
        folder: of the answers; see :class:`~ida_lightning.teacher_outputs.OutputStore`.
        mode: ``record`` asks the teacher about every batch and stores what it says; ``replay`` asks the folder alone
            and does not build the teacher; ``auto`` asks the folder and, about what is not there, the teacher.
        precision: ``exact``: the student is the one that the teacher itself would have taught, bit for bit; ``half``:
            about half the space.
        top_k: store only so many classes of a row; see :class:`~ida_lightning.teacher_outputs.Encoding`.
        cycle: train on the pictures of the first so many epochs again and again; None for new ones in every epoch.

    Raises:
        InputError: for values out of range.

    Example:
        >>> outputs = TeacherOutputs("answers", top_k=16)

        In YAML::

            teacher_outputs: {folder: answers, mode: auto, top_k: 16}
    """

    folder: str
    mode: Literal["record", "replay", "auto"] = "auto"
    precision: Literal["exact", "half"] = "exact"
    top_k: int | None = None
    cycle: int | None = None

    def __post_init__(self) -> None:
        # As text: a checkpoint with a Path could not be read safely.
        object.__setattr__(self, "folder", str(path_like("teacher_outputs.folder", self.folder)))
        one_of("teacher_outputs.mode", self.mode, ("record", "replay", "auto"))
        if self.cycle is not None:
            at_least("teacher_outputs.cycle", self.cycle, 1)
        self.encoding(1.0)

    def encoding(self, temperature: float) -> Encoding:
        """Return how answers are stored; their sums over what is left out are taken at ``temperature``."""
        return Encoding(self.precision, self.top_k, temperature)


@dataclass(frozen=True)
class Teacher:
    """Which network teaches, and how it is run.

    Args:
        network: a timm name, or a module that maps images to logits ``(batch, num_classes)``.
        checkpoint: its weights: safetensors, a state dict or a Lightning checkpoint.
        args: further arguments of :func:`ida_lightning.models.build_model`.
        precision: of its forward pass; None is that of the Trainer.
        allow_other: resume a run although the teacher's weights are not those it was started with.
        outputs: where its answers are stored; None asks it in every step.

    Raises:
        InputError: for a network that is neither, and an unknown precision.

    Example:
        >>> teacher = Teacher("resnet34", checkpoint="teacher.safetensors", args={"stem": "small"})

        In YAML::

            teacher: {network: resnet34, checkpoint: teacher.safetensors, args: {stem: small}}
    """

    network: str | nn.Module
    checkpoint: str | None = None
    args: dict[str, Any] | None = None
    precision: Precision | None = None
    allow_other: bool = False
    outputs: TeacherOutputs | None = None

    def __post_init__(self) -> None:
        check_network("teacher", self.network)
        if isinstance(self.outputs, Mapping):  # as a checkpoint keeps it
            known = set(TeacherOutputs.__dataclass_fields__)
            if not {"folder"} <= set(self.outputs) <= known:
                raise InputError(f"teacher_outputs: expected folder and others of {sorted(known)}, got {self.outputs}")
            object.__setattr__(self, "outputs", TeacherOutputs(**self.outputs))
        if self.outputs is not None:
            is_a("teacher_outputs", self.outputs, TeacherOutputs)
        check_args("teacher_args", self.args)
        if self.checkpoint is not None and not isinstance(self.checkpoint, (str, Path)):
            raise InputError(f"teacher_checkpoint: expected a path, got {kind_of(self.checkpoint)}")
        if self.checkpoint is not None:  # a checkpoint with a Path could not be read safely
            object.__setattr__(self, "checkpoint", str(self.checkpoint))
        flag("allow_other_teacher", self.allow_other)
        if self.precision is not None:
            one_of("teacher_precision", self.precision, ("32", "bf16", "16"))


@dataclass(frozen=True)
class Student:
    """Which network learns.

    Args:
        network: a timm name, or a module that maps images to logits ``(batch, num_classes)``.
        args: further arguments of :func:`ida_lightning.models.build_model`.

    Raises:
        InputError: for a network that is neither.

    Example:
        >>> student = Student("resnet18", args={"stem": "small"})

        In YAML::

            student: {network: resnet18, args: {stem: small}}
    """

    network: str | nn.Module
    args: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        check_network("student", self.network)
        check_args("student_args", self.args)


@dataclass(frozen=True)
class Loss:
    """What the student minimises: ``soft_weight * distillation loss + hard_weight * cross-entropy``, row by row.

    Args:
        temperature: T of the softened softmax, for teacher and student.
        soft_weight: weight of the distillation loss (alpha of the paper).
        hard_weight: weight of the cross-entropy with the hard label (1 - alpha of the paper).
        nonfinite: what happens to rows for which the teacher's logits are NaN or infinite: ``"raise"`` stops the
            run, ``"skip"`` leaves them out of both losses.
        hard_temperature: T of the student's softmax in the cross-entropy, which is multiplied by its square, so that
            the gradient keeps its size; with T = ``temperature`` both losses look at the same softened student.

    Raises:
        InputError: for values out of range.

    Example:
        >>> loss = Loss(temperature=4, soft_weight=0.9, hard_weight=0.1)

        In YAML::

            loss: {temperature: 4, soft_weight: 0.9, hard_weight: 0.1}
    """

    temperature: float = 4.5
    soft_weight: float = 0.95
    hard_weight: float = 0.05
    nonfinite: Literal["raise", "skip"] = "raise"
    hard_temperature: float = 1.0

    def __post_init__(self) -> None:
        positive("temperature", self.temperature)
        non_negative("soft_weight", self.soft_weight)
        non_negative("hard_weight", self.hard_weight)
        if self.soft_weight + self.hard_weight == 0:
            raise InputError("soft_weight, hard_weight: expected numbers >= 0, not both 0, got 0 and 0")
        one_of("nonfinite", self.nonfinite, ("raise", "skip"))
        positive("hard_temperature", self.hard_temperature)


@dataclass(frozen=True)
class Optimisation:
    """How the network is trained, beside the optimiser itself.

    The optimiser is an argument of its own, so that a config shows its default and ``--model.optimizer.lr=0.1``
    changes one number of it.

    Args:
        lr_scheduler: from optimiser to a scheduler; None is warm-up and cosine to zero over the whole run.
        lr_reference_batch: the batch that the learning rate is meant for: it is scaled in proportion to the rows
            that all processes and accumulated batches make up together. None leaves it as it is.
        compile_args: compile for training with these arguments of ``torch.compile``; None for eager.
        warmup: share of the run in which the default schedule rises, from 0 to below 1.
        lr_interval: whether ``lr_scheduler`` counts ``epoch`` or ``step``; None chooses by its class: OneCycleLR and
            CyclicLR count steps, others epochs.
        lr_monitor: the metric that ReduceLROnPlateau goes by, as it is logged; None takes the NLL or the accuracy of
            validation, by its mode, and the training loss without validation.

    Raises:
        InputError: for a reference batch below 1, another share or interval, and a metric that is no name.

    Example:
        >>> optimisation = Optimisation(lr_reference_batch=256, compile_args={"mode": "reduce-overhead"})

        In YAML::

            optimisation:
              lr_reference_batch: 256
              lr_scheduler: {class_path: torch.optim.lr_scheduler.StepLR, init_args: {step_size: 30}}
    """

    lr_scheduler: LRSchedulerCallable | None = None
    lr_reference_batch: int | None = None
    compile_args: dict[str, Any] | None = None
    warmup: float = 0.05
    lr_interval: Literal["epoch", "step"] | None = None
    lr_monitor: str | None = None

    def __post_init__(self) -> None:
        if self.lr_monitor is not None:
            text("lr_monitor", self.lr_monitor)
        share_below_one("warmup", self.warmup)
        if self.lr_interval is not None:
            one_of("lr_interval", self.lr_interval, ("epoch", "step"))
        if self.lr_reference_batch is not None:
            at_least("lr_reference_batch", self.lr_reference_batch, 1)
        if self.lr_scheduler is not None and not callable(self.lr_scheduler):
            raise InputError(f"lr_scheduler: expected a function of the optimiser, got {kind_of(self.lr_scheduler)}")
        if self.compile_args is not None:
            check_args("compile_args", self.compile_args)


def check_args(name: str, args: object) -> dict[str, Any]:
    """Return the arguments of a network, {} for None; those that the module gives itself are refused.

    Example:
        >>> check_args("student_args", {"num_classes": 4})
        Traceback (most recent call last):
        ...
        ida_lightning.errors.InputError: student_args: expected no num_classes, which the module gives, got 4
    """
    if args is None:
        return {}
    if not isinstance(args, Mapping) or not all(isinstance(key, str) for key in args):
        raise InputError(f"{name}: expected arguments by name, got {kind_of(args)}")
    for key in ("model", "num_classes", "in_channels", "in_chans"):
        if key in args:
            raise InputError(f"{name}: expected no {key}, which the module gives, got {args[key]!r}")
    return dict(args)


def built_for(
    argument: str, network: str | nn.Module, num_classes: int, in_channels: int, args: dict[str, Any] | None
) -> nn.Module:
    """Build the network of an argument, which errors name; see :func:`ida_lightning.models.build_model`."""
    try:
        return build_model(network, num_classes, in_channels, **(args or {}))
    except InputError as error:
        raise InputError(re.sub(r"^model:", f"{argument}:", str(error))) from error


def check_network(name: str, network: object) -> None:
    """Refuse a network that is neither a name nor a module."""
    if not isinstance(network, (str, nn.Module)):
        raise InputError(f"{name}: expected a timm name or a module, got {kind_of(network)}")
