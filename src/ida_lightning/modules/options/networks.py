"""Which network learns, and the checks of networks and their arguments."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from ida_lightning.errors import InputError, kind_of
from ida_lightning.models import build_model


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
    argument: str, network: str | nn.Module, num_classes: int | None, in_channels: int, args: dict[str, Any] | None
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
