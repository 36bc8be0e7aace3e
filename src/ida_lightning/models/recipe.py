"""How a network was built, kept beside its weights so that a file alone is enough to build it again."""

from __future__ import annotations

import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from ida_lightning.checks import text
from ida_lightning.errors import InputError, kind_of
from ida_lightning.models.build import Stem, build_model, built_from
from ida_lightning.models.named import is_registered
from ida_lightning.models.reading import values_allowed
from ida_lightning.models.weights import ImageInput, load_weights, put_weights

KEY = "ida_lightning"  # of the metadata of a weight file, and of a checkpoint


class Recipe(NamedTuple):
    """What a weight file says about its network, beside its classes and the images it was trained on.

    Attributes:
        network: the name that :func:`ida_lightning.models.build_model` was given; None for a module of somebody's own.
        network_args: its further arguments.
        stem: likewise.
        num_classes: width of the output.
        in_channels: channels of the images.
        crop: share of the short side that a centred crop keeps in evaluation; None if unknown.
    """

    network: str | None = None
    network_args: dict[str, Any] | None = None
    stem: Stem = "standard"
    num_classes: int | None = None
    in_channels: int | None = None
    crop: float | None = None


class NetworkFile(NamedTuple):
    """A network with the weights of a file, and what the file says about it."""

    network: nn.Module
    recipe: Recipe
    class_names: list[str] | None
    image_input: ImageInput | None


def describe(network: nn.Module, num_classes: int, crop: float | None) -> dict[str, Any]:
    """Return the recipe of a network as plain values.

    Example:
        >>> facts = describe(build_model("test_resnet", 10, 1, "small"), 10, None)
        >>> facts["network"], facts["stem"], facts["in_channels"]
        ('test_resnet', 'small', 1)
    """
    said = built_from(network)
    recipe = Recipe(num_classes=num_classes, crop=crop)
    if said is not None:
        # The weights are in the file: nothing needs to be fetched again.
        args = {key: value for key, value in said.arguments.items() if key != "pretrained"}
        recipe = Recipe(said.model, args, said.stem, num_classes, said.in_channels, crop)
    try:
        json.dumps(recipe)
    except (TypeError, ValueError):  # arguments that only Python can hold
        recipe = recipe._replace(network=None, network_args=None)
    return recipe._asdict()


def read_recipe(path: str | Path) -> Recipe:
    """Read what a safetensors file or a Lightning checkpoint says; nothing for older and other people's files."""
    path = Path(path)
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                content = json.loads((file.metadata() or {}).get(KEY, "null"))
        else:
            with values_allowed():
                content = torch.load(path, map_location="cpu", weights_only=True, mmap=True).get(KEY)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, AttributeError, OSError, ValueError):
        return Recipe()
    if not isinstance(content, Mapping) or not isinstance(content.get("network_args") or {}, Mapping):
        return Recipe()
    return Recipe(**{key: value for key, value in content.items() if key in Recipe._fields})


def load_network(path: str | Path, network: str | None = None, **build_args: Any) -> NetworkFile:
    """Build the network of a weight file and load its weights.

    Args:
        path: safetensors or a Lightning checkpoint; see :func:`load_weights`.
        network: its name, for a file that does not say; see :func:`build_model`.
        build_args: further arguments of :func:`build_model`, which replace the file's.

    Raises:
        InputError: for a file that cannot be read, or does not say how its network is built, or says something else.
    """
    if network is not None:
        text("network", network)
    weights = load_weights(path)
    recipe = read_recipe(path)
    if network is not None:
        recipe = recipe._replace(network=network, network_args=None, stem="standard")
    if recipe.network is None:
        raise InputError(
            f"path: expected a file that says how its network is built, {path} does not (it is older, or holds a "
            "network of your own class); give network: the name it was built by, or use predict --config"
        )
    if network is None and not (isinstance(recipe.network, str) and is_registered(recipe.network)):
        raise InputError(
            f"path: {path} names a function, {kind_of(recipe.network)}, to build its network with; a file's is never "
            "called: if you trust it, give network: its name"
        )
    classes = recipe.num_classes or len(weights.class_names or ())
    if not classes:
        raise InputError(f"path: expected a file that says its number of classes, {path} does not")
    channels = recipe.in_channels or (len(weights.image_input.mean) if weights.image_input else 3)
    arguments: dict[str, Any] = {"stem": recipe.stem, **_plain(recipe.network_args or {}), **build_args}
    try:
        built = build_model(recipe.network, classes, channels, **arguments)
    except TypeError as error:
        raise InputError(f"path: {path} has arguments that build no network, {kind_of(arguments)}") from error
    put_weights(built, weights, path)
    return NetworkFile(built, recipe, weights.class_names, weights.image_input)


def _plain(args: Mapping[str, Any]) -> dict[str, Any]:
    """Return a file's arguments without those by which a network would get its weights from elsewhere."""
    elsewhere = ("pretrained", "checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir", "weights")
    return {str(key): value for key, value in args.items() if key not in elsewhere}
