"""Which arguments hold where a checkpoint is resumed or evaluated: its own, or those of the command line."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch.utilities import rank_zero_info

from ida_lightning.errors import InputError, kind_of
from ida_lightning.models.named import is_registered
from ida_lightning.models.reading import load_values
from ida_lightning.modules.short_names import SHORT_NAMES
from ida_lightning.remote import is_file

# What the tensors in a checkpoint belong to, and what its optimiser's state has decided.
_NETWORK = {"model", "student", "model_args", "student_args"}
_STATE = {"optimizer", "lr_scheduler", "lr_reference_batch", "lr_interval", "lr_monitor", "warmup"}
_FROM_DATA = {"num_classes", "in_channels", "image_size"}


def check_checkpoint(path: str, subcommand: str) -> None:
    """Check that ``ckpt_path`` is a file that holds what the subcommand needs of a run.

    Raises:
        InputError: if there is none, or it is damaged, holds code, only weights, or something else.
    """
    if path in ("best", "registry", "last", "hpc"):
        raise InputError(f"ckpt_path: expected a file, got {path}, which only a process that trains can know")
    if not is_file(path, "ckpt_path"):
        raise InputError(f"ckpt_path: expected a checkpoint, found nothing at {path}")
    weights = f"ckpt_path: expected a checkpoint of a run, got weights alone, {path}; predict --weights takes them"
    if Path(path).suffix == ".safetensors":
        raise InputError(weights)
    content = load_values(path, "ckpt_path", kind="checkpoint")
    if not isinstance(content, Mapping):
        raise InputError(f"ckpt_path: expected a checkpoint of a run, {path} holds {kind_of(content)}")
    if "pytorch-lightning_version" not in content:
        raise InputError(weights)
    loops, states = content.get("loops"), content.get("optimizer_states")
    held = {
        "state_dict": isinstance(content.get("state_dict"), Mapping),
        "hyper_parameters": isinstance(content.get("hyper_parameters", {}), Mapping),
        "loops": isinstance(loops, Mapping) and f"{subcommand}_loop" in loops,
        "optimizer_states": subcommand != "fit"
        or (
            isinstance(states, list)
            and bool(states)
            and all(isinstance(s, Mapping) and "param_groups" in s for s in states)
        ),
    }
    if missing := [name for name, there in held.items() if not there]:
        raise InputError(f"ckpt_path: expected a checkpoint of a run, {path} has no {missing[0]} to {subcommand} with")


def model_values(arguments: Namespace) -> dict[str, Any]:
    """Return the class of the model, as ``class_path``, and its arguments by short name."""
    given = arguments.get("model")
    if not isinstance(given, Namespace) or given.get("class_path") is None:
        return {}
    values = given.get("init_args")
    return {"class_path": given["class_path"].rpartition(".")[2], **(vars(values) if values is not None else {})}


def model_names(args: Iterable[object]) -> set[str]:
    """Return the short names of the model's arguments that stand on a command line itself, not in a config.

    Example:
        >>> sorted(model_names(["fit", "--model.optimizer.lr=1", "--model.loss.temperature", "2", "--data=D"]))
        ['optimizer', 'temperature']
    """
    by_group = {f"{group}.{field}": name for name, (group, field) in SHORT_NAMES.items()}
    names = set()
    for arg in args:
        if isinstance(arg, str) and arg.startswith("--model."):
            key = arg.partition("=")[0].removeprefix("--model.").removeprefix("init_args.")
            names.add(by_group.get(key, key.partition(".")[0]))
    return names


def settle(
    asked: dict[str, Any], stored: dict[str, Any], explicit: Collection[str], path: str, resumes: bool
) -> dict[str, Any]:
    """Return which of the stored values the command line's own replace; what else the checkpoint decides is logged.

    Args:
        asked: the model's class and arguments by config and command line.
        stored: those that the checkpoint holds, the rest as asked.
        explicit: names that stand on the command line itself.
        path: of the checkpoint.
        resumes: whether its optimiser goes on.

    Raises:
        InputError: for a checkpoint of another class or with a network that a function of its own builds, and for an
            argument that stands on the command line but that the checkpoint's tensors or its optimiser's state have
            decided otherwise.
    """
    if asked.get("class_path") != stored.get("class_path"):
        raise InputError(
            f"ckpt_path: expected a checkpoint of {asked.get('class_path')}, as asked for, got one of "
            f"{stored.get('class_path')}, {path}"
        )
    for name in ("model", "student", "teacher"):
        network = stored.get(name)
        if isinstance(network, str) and network != asked.get(name) and not is_registered(network):
            raise InputError(
                f"ckpt_path: {path} names a function, {network}, to build its {name} with; a file's is never called: "
                f"if you trust it, give model.{name}"
            )
    other = {name for name in asked if name in stored and asked[name] != stored[name]} - _FROM_DATA
    decided = _NETWORK | _STATE if resumes else _NETWORK
    for name in sorted(other & set(explicit) & decided):
        raise InputError(
            f"model.{name}: expected what {path} was made with, {_value(stored[name])}, or nothing, got "
            f"{_value(asked[name])}"
        )
    if taken := sorted(other - set(explicit)):
        values = ", ".join(f"{name} {_value(stored[name])} (config: {_value(asked[name])})" for name in taken)
        rank_zero_info(f"ckpt_path: taken from {path}, not from the config: {values}")
    return {name: asked[name] for name in other & set(explicit)}


def _value(value: object) -> str:
    text = str(value.as_dict()) if isinstance(value, Namespace) else repr(value)
    return text if len(text) <= 80 else f"{text[:79]}…"
