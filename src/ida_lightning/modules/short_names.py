"""Short names: one field of a group of arguments without writing the group, such as ``temperature`` for ``loss``'s.

A field is given once, in its group or by its short name; checkpoints and kept configs have it by its short name.
"""

from __future__ import annotations

import difflib
from argparse import Namespace
from collections.abc import Iterable, Mapping
from dataclasses import asdict, replace
from typing import Any, Literal, TypedDict, TypeVar

from ida_lightning.errors import InputError
from ida_lightning.losses import DistillationLoss
from ida_lightning.modules.options import (
    Layout,
    Loss,
    LRSchedulerCallable,
    Optimisation,
    Precision,
    Strategy,
    Student,
    Teacher,
    TeacherBlend,
    TeacherOutputs,
    View,
    plain_loss,
)


class OptimisationFields(TypedDict, total=False):
    """Short names of the fields of :class:`Optimisation`."""

    lr_scheduler: LRSchedulerCallable | None
    lr_reference_batch: int | None
    compile_args: dict[str, Any] | None
    warmup: float
    lr_interval: Literal["epoch", "step"] | None
    lr_monitor: str | None
    layout: Layout
    allow_inexact_resume: bool


class DistillationFields(OptimisationFields, total=False):
    """Short names of the fields of all groups."""

    teacher_checkpoint: str | None
    teacher_args: dict[str, Any] | None
    teacher_precision: Precision | None
    allow_other_teacher: bool
    teacher_outputs: TeacherOutputs | None
    teacher_view: View
    teacher_blend: TeacherBlend | None
    teacher_image_input: dict[str, Any] | None
    teacher_classes: list[int] | list[str] | Literal["by_name"] | None
    teacher_strategy: Strategy
    student_args: dict[str, Any] | None
    temperature: float
    soft_weight: float
    hard_weight: float
    nonfinite: Literal["raise", "skip"]
    hard_temperature: float
    distillation: DistillationLoss


# Short name to the argument and the field of its group.
SHORT_NAMES: Mapping[str, tuple[str, str]] = {
    "teacher_checkpoint": ("teacher", "checkpoint"),
    "teacher_args": ("teacher", "args"),
    "teacher_precision": ("teacher", "precision"),
    "allow_other_teacher": ("teacher", "allow_other"),
    **{f"teacher_{name}": ("teacher", name) for name in ("outputs", "view", "blend")},
    **{f"teacher_{name}": ("teacher", name) for name in ("image_input", "classes", "strategy")},
    "student_args": ("student", "args"),
    **{name: ("loss", name) for name in ("temperature", "soft_weight", "hard_weight", "nonfinite", "hard_temperature")},
    "distillation": ("loss", "distillation"),
    **{name: ("optimisation", name) for name in ("lr_scheduler", "lr_reference_batch", "compile_args")},
    **{
        name: ("optimisation", name)
        for name in ("warmup", "lr_interval", "lr_monitor", "layout", "allow_inexact_resume")
    },
}

GROUPS: Mapping[str, type[Teacher] | type[Student] | type[Loss] | type[Optimisation]] = {
    "teacher": Teacher,
    "student": Student,
    "loss": Loss,
    "optimisation": Optimisation,
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
        >>> loss = merge_fields("loss", Loss(soft_weight=1.0), {"temperature": 2.0, "student_args": {}})
        >>> loss.temperature, loss.soft_weight
        (2.0, 1.0)
    """
    given = {name: field for name, field in _names_of(argument).items() if name in fields}
    for name in given:
        _check_one_value(name, fields[name], vars(group))
    return replace(group, **{field: fields[name] for name, field in given.items()})


def _names_of(argument: str) -> dict[str, str]:
    """Return the fields of one group by short name."""
    return {name: field for name, (owner, field) in SHORT_NAMES.items() if owner == argument}


def _check_one_value(name: str, value: Any, group: Mapping[str, Any]) -> None:
    argument, field = SHORT_NAMES[name]
    default = vars(GROUPS[argument])[field]  # a class attribute is a field's default
    if not any(_same(_comparable(group[field]), _comparable(other)) for other in (default, value)):
        raise InputError(f"{name}: expected one value, got {value!r} and, in {argument}, {group[field]!r}")


def _same(one: Any, other: Any) -> bool:
    try:
        return bool(one == other)
    except (ValueError, RuntimeError):  # arrays and tensors, which the group refuses by name
        return one is other


def _comparable(value: Any) -> Any:
    """Return a loss, whether made or as parsed, as plain values with the name of its class; other values as they are.

    Example:
        >>> from ida_lightning.losses import KL
        >>> _comparable(KL()) == _comparable(Namespace(class_path="ida_lightning.KL"))
        True
    """
    plain = (plain_loss(value) or value) if isinstance(value, DistillationLoss) else value
    parts = _mapping(plain)
    if "class_path" not in parts:
        return plain
    options = _mapping(parts.get("init_args") or {})
    kind = str(parts["class_path"]).rpartition(".")[2]
    return kind, {name: _comparable(option) for name, option in options.items()}


def spell_out(init_args: dict[str, Any]) -> None:
    """Replace the groups in a module's parsed config by all their fields by short name, in place.

    So the config that is kept with a run says every value once, however it was given.

    Args:
        init_args: as parsed: groups are mappings or namespaces. Arguments that are no group of ours stay.

    Raises:
        InputError: as :func:`merge_fields`.

    Example:
        >>> config = {"loss": vars(Loss(soft_weight=1.0))}
        >>> spell_out(config | {"temperature": 2.0})
        >>> spell_out(config)
        >>> config["temperature"], config["soft_weight"], config["distillation"]
        (4.5, 1.0, KL())
    """
    groups = {name: _mapping(init_args.get(name)) for name in GROUPS}
    ours = {name for name, group in groups.items() if group.keys() == GROUPS[name].__dataclass_fields__.keys()}
    for argument in GROUPS:
        group = groups[argument]
        if argument in ours:
            del init_args[argument]
            if "network" in group:
                init_args[argument] = group["network"]
        elif "loss" in ours and argument in init_args:  # a teacher or student without its group
            group = {field: vars(GROUPS[argument])[field] for field in _names_of(argument).values()}
        else:
            continue
        for name, field in _names_of(argument).items():
            if name in init_args:
                _check_one_value(name, init_args[name], group)
            else:
                init_args[name] = group[field]
            chosen = init_args[name]
            if isinstance(chosen, Namespace) and "class_path" in chosen and "init_args" not in chosen:
                chosen.init_args = type(chosen)()  # of a class without options, as its default is spelt


def _mapping(value: Any) -> Mapping[str, Any]:
    if isinstance(value, Namespace):
        return vars(value)
    return value if isinstance(value, Mapping) else {}


def plain_fields(**groups: Teacher | Student | Loss | Optimisation) -> dict[str, Any]:
    """Return the fields of groups by their short names, without what a checkpoint cannot hold as plain values.

    Args:
        groups: by argument. A network that is a module is left out, and so is a schedule.
    """
    networks = {name: group.network for name, group in groups.items() if isinstance(group, (Teacher, Student))}
    plain: dict[str, Any] = {name: network for name, network in networks.items() if isinstance(network, str)}
    several = networks.get("teacher")
    if isinstance(several, list) and all(isinstance(member.network, str) for member in several):
        plain["teacher"] = [asdict(member) for member in several]
    for name, (argument, field) in SHORT_NAMES.items():
        if argument in groups and name != "lr_scheduler":
            value = vars(groups[argument])[field]
            if isinstance(value, DistillationLoss):
                plain |= {} if (kept := plain_loss(value)) is None else {name: kept}
            else:
                plain[name] = asdict(value) if isinstance(value, (TeacherOutputs, TeacherBlend)) else value
    return plain
