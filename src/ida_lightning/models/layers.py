"""Layers of a network by name."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

from torch import nn

from ida_lightning.errors import InputError, kind_of


def layer_names(argument: str, value: object) -> tuple[str, ...]:
    """Return one or more names of layers, each once; ``argument`` is named in the message.

    Raises:
        InputError: for anything else.
    """
    names = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, (list, tuple)) else ()
    if not names or not all(isinstance(name, str) and name for name in names) or len(set(names)) < len(names):
        raise InputError(f"{argument}: expected names of layers, each once, got {kind_of(value)}")
    return names


def find_layer(argument: str, owner: str, network: nn.Module, name: str) -> nn.Module:
    """Return a layer of a network, as its ``named_modules`` calls it.

    Args:
        argument: that gave the name, for the message.
        owner: whose network it is, likewise.
        network: to look in.
        name: of the layer.

    Raises:
        InputError: for a layer that is not there, with the nearest names, or those that timm lists of its features.
    """
    parts: dict[str, nn.Module] = dict(network.named_modules())
    if name in parts and name:
        return parts[name]
    info = vars(network).get("feature_info")  # of timm: a list, or an object that has one
    entries = info if info is None or isinstance(info, list) else vars(info).get("info")
    listed = [str(entry["module"]) for entry in entries or [] if isinstance(entry, Mapping) and "module" in entry]
    near = difflib.get_close_matches(name, [part for part in parts if part], n=3) or listed or list(parts)[1:4]
    raise InputError(f"{argument}: expected a layer of the {owner}, such as {', '.join(near)}, got {name!r}")
