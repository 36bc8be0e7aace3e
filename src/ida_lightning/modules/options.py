"""The arguments of the modules in groups: teacher, student, loss, optimisation; and the short names of each."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, TypedDict, TypeVar

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from ida_lightning.errors import InputError, at_least, kind_of, non_negative, one_of, positive

Precision = Literal["32", "bf16", "16"]
# LightningCLI has the same two, but importing it needs jsonargparse, which training from Python does not.
OptimizerCallable = Callable[[Iterable[nn.Parameter]], Optimizer]
LRSchedulerCallable = Callable[[Optimizer], LRScheduler]


@dataclass(frozen=True)
class Teacher:
    """Which network teaches, and how it is run.

    Args:
        network: a timm name, or a module that maps images to logits ``(batch, num_classes)``.
        checkpoint: its weights: safetensors, a state dict or a Lightning checkpoint.
        args: further arguments of :func:`ida_lightning.models.build_model`.
        precision: of its forward pass; None is that of the Trainer.
        allow_other: resume a run although the teacher's weights are not those it was started with.

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

    def __post_init__(self) -> None:
        _check_network("teacher", self.network)
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
        _check_network("student", self.network)


@dataclass(frozen=True)
class Loss:
    """What the student minimises: ``soft_weight * distillation loss + hard_weight * cross-entropy``, row by row.

    Args:
        temperature: T of the softened softmax, for teacher and student.
        soft_weight: weight of the distillation loss (alpha of the paper).
        hard_weight: weight of the cross-entropy with the hard label (1 - alpha of the paper).
        nonfinite: what happens to rows for which the teacher's logits are NaN or infinite: ``"raise"`` stops the
            run, ``"skip"`` leaves them out of both losses.

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

    def __post_init__(self) -> None:
        positive("temperature", self.temperature)
        non_negative("soft_weight", self.soft_weight)
        non_negative("hard_weight", self.hard_weight)
        if self.soft_weight + self.hard_weight == 0:
            raise InputError("soft_weight, hard_weight: expected numbers >= 0, not both 0, got 0 and 0")
        one_of("nonfinite", self.nonfinite, ("raise", "skip"))


@dataclass(frozen=True)
class Optimisation:
    """How the network is trained, beside the optimiser itself.

    The optimiser is an argument of its own, so that a config shows its default and ``--model.optimizer.lr=0.1``
    changes one number of it.

    Args:
        lr_scheduler: from optimiser to a scheduler stepped once an epoch; None is warm-up and cosine.
        lr_reference_batch: the batch that the learning rate is meant for: it is scaled in proportion to the rows
            that all processes and accumulated batches make up together. None leaves it as it is.
        compile_args: compile for training with these arguments of ``torch.compile``; None for eager.

    Raises:
        InputError: for a reference batch below 1.

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

    def __post_init__(self) -> None:
        if self.lr_reference_batch is not None:
            at_least("lr_reference_batch", self.lr_reference_batch, 1)


def _check_network(name: str, network: object) -> None:
    if not isinstance(network, (str, nn.Module)):
        raise InputError(f"{name}: expected a timm name or a module, got {kind_of(network)}")


# --- short names: one field of a group without writing the group


class OptimisationFields(TypedDict, total=False):
    """Short names of the fields of :class:`Optimisation`."""

    lr_scheduler: LRSchedulerCallable | None
    lr_reference_batch: int | None
    compile_args: dict[str, Any] | None


class DistillationFields(OptimisationFields, total=False):
    """Short names of the fields of all groups."""

    teacher_checkpoint: str | None
    teacher_args: dict[str, Any] | None
    teacher_precision: Precision | None
    allow_other_teacher: bool
    student_args: dict[str, Any] | None
    temperature: float
    soft_weight: float
    hard_weight: float
    nonfinite: Literal["raise", "skip"]


# Short name to the argument and the field of its group.
SHORT_NAMES: Mapping[str, tuple[str, str]] = {
    "teacher_checkpoint": ("teacher", "checkpoint"),
    "teacher_args": ("teacher", "args"),
    "teacher_precision": ("teacher", "precision"),
    "allow_other_teacher": ("teacher", "allow_other"),
    "student_args": ("student", "args"),
    **{name: ("loss", name) for name in ("temperature", "soft_weight", "hard_weight", "nonfinite")},
    **{name: ("optimisation", name) for name in ("lr_scheduler", "lr_reference_batch", "compile_args")},
}

_Group = TypeVar("_Group", Teacher, Student, Loss, Optimisation)


def check_names(owner: str, fields: Mapping[str, Any], known: Iterable[str]) -> None:
    """Refuse names that are no short name of a field.

    Raises:
        TypeError: as Python does for an argument that a function does not have.
    """
    known = list(known)
    for name in fields:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            advice = f"; did you mean {near[0]}?" if near else ""
            raise TypeError(f"{owner} has no argument {name!r}{advice}")


def merge_fields(argument: str, group: _Group, fields: Mapping[str, Any]) -> _Group:
    """Return ``group`` with those of its fields that were given by their short names.

    Args:
        argument: the group's: ``teacher``, ``student``, ``loss`` or ``optimisation``.
        group: as it was given, or its default.
        fields: values by short name, of any group; those of other groups are passed over.

    Raises:
        InputError: for a field that has one value by its short name and another one, not its default, in the group.

    Example:
        >>> merge_fields("loss", Loss(soft_weight=1.0), {"temperature": 2.0, "student_args": {}})
        Loss(temperature=2.0, soft_weight=1.0, hard_weight=0.05, nonfinite='raise')
    """
    named = {name: field for name, (owner, field) in SHORT_NAMES.items() if owner == argument and name in fields}
    for name, field in named.items():
        grouped = vars(group)[field]
        if grouped not in (vars(type(group))[field], fields[name]):  # a class attribute is a field's default
            raise InputError(f"{name}: expected one value, got {fields[name]!r} and, in {argument}, {grouped!r}")
    return replace(group, **{field: fields[name] for name, field in named.items()})


def plain_fields(**groups: Teacher | Student | Loss | Optimisation) -> dict[str, Any]:
    """Return the fields of groups by their short names, without what a checkpoint cannot hold as plain values.

    Args:
        groups: by argument. A network that is a module is left out, and so is a schedule.
    """
    networks = {name: group.network for name, group in groups.items() if isinstance(group, (Teacher, Student))}
    plain: dict[str, Any] = {name: network for name, network in networks.items() if isinstance(network, str)}
    for name, (argument, field) in SHORT_NAMES.items():
        if argument in groups and name != "lr_scheduler":
            plain[name] = vars(groups[argument])[field]
    return plain


def config_keys(name: str) -> tuple[str, ...]:
    """Return the keys under which a fit config may give a field: by its short name, and in its group.

    Args:
        name: the short name.

    Example:
        >>> config_keys("teacher_checkpoint")
        ('model.init_args.teacher_checkpoint', 'model.init_args.teacher.checkpoint')
    """
    argument, field = SHORT_NAMES[name]
    return f"model.init_args.{name}", f"model.init_args.{argument}.{field}"


def teacher_checkpoint_of(config: Mapping[str, Any]) -> str | None:
    """Return the teacher's weight file that a fit config names, in either spelling; None if it names none.

    Args:
        config: nested dictionaries, or a jsonargparse ``Namespace`` as its ``as_dict()``.

    Example:
        >>> teacher_checkpoint_of({"model": {"init_args": {"teacher": {"network": "resnet34", "checkpoint": "t.pt"}}}})
        't.pt'
    """
    for key in config_keys("teacher_checkpoint"):
        value: Any = config
        for part in key.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if value is not None:
            return str(value)
    return None
