"""Networks from a weight file alone, built as the file says, or checked against it."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, get_args

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from ida_lightning.checks import path_or_address, text
from ida_lightning.errors import InputError, at_least, is_a, kind_of, one_of
from ida_lightning.models.build import Stem, build_model
from ida_lightning.models.description import Description, description_in
from ida_lightning.models.named import is_registered
from ida_lightning.models.reading import values_allowed
from ida_lightning.models.weights import decoded_metadata, load_weights, put_weights
from ida_lightning.remote import fetched, is_file


class NetworkFile(NamedTuple):
    """A network with the weights of a file, and what the file says about it."""

    network: nn.Module
    description: Description


def read_description(path: str | Path) -> Description:
    """Read what a safetensors file or a Lightning checkpoint says; an empty description for other people's files.

    Args:
        path: of the file. Its tensors are not read, and nothing that it names is called.
    """
    given = path_or_address("path", path)
    if not is_file(given):
        return Description()
    path = fetched("path", given)
    facts: Any
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                facts = decoded_metadata(file.metadata() or {})
        else:
            with values_allowed():
                facts = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (SafetensorError, pickle.UnpicklingError, RuntimeError, AttributeError, OSError, ValueError):
        return Description()
    return (description_in(facts, path) if isinstance(facts, Mapping) else None) or Description()


def load_student(
    path: str | Path, network: nn.Module | None = None, *, stem: str | None = None, image_size: int | None = None
) -> nn.Module:
    """Return the network of a weight file, ready to predict: built as the file says, or a given one that is checked.

    A file of :class:`~ida_lightning.callbacks.ExportCallback` or a checkpoint says how its network is built. Networks
    with equal tensors can differ in the strides of their stem, and answer wrongly without an error: here they are
    refused. What the file says of classes and images is in :func:`read_description`.

    Args:
        path: of safetensors or a Lightning checkpoint.
        network: that is to have the weights; None builds it. A file that does not describe itself needs one, and a line
            in the log says what could not be checked.
        stem: that is expected of the file; None takes any.
        image_size: of the images that the network will see, in pixels; None does not check it.

    Returns:
        The network in eval mode, on the CPU if it was built here.

    Raises:
        InputError: for a file that cannot be read or does not fit, with both values where stem, strides or size differ.

    Example:
        >>> import tempfile
        >>> from safetensors.torch import save_file
        >>> from ida_lightning.models import describe
        >>> student = build_model("test_resnet", num_classes=4, in_channels=1, stem="small")
        >>> file = Path(tempfile.mkdtemp(), "student.safetensors")
        >>> save_file(student.state_dict(), file, describe(student, 4).metadata())
        >>> load_student(file)(torch.zeros(1, 1, 8, 8)).shape
        torch.Size([1, 4])
        >>> load_student(file, build_model("test_resnet", num_classes=4, in_channels=1))
        Traceback (most recent call last):
        ...
        ida_lightning.errors.InputError: path: expected the stem 'small', which ... was trained with; ida_lightning.load_student builds it, got 'standard'
    """  # noqa: E501
    if network is not None:
        is_a("network", network, nn.Module)
    if stem is not None:
        one_of("stem", stem, get_args(Stem))
    if image_size is not None:
        at_least("image_size", image_size, 1)
    path = path_or_address("path", path)
    described = read_description(path)
    size = None if described.image_input is None else described.image_input.size
    if image_size is not None and size not in (None, image_size):
        raise InputError(f"image_size: expected {size} pixels, which {path} was trained on, got {image_size}")
    if stem is not None and described.stem not in (None, stem):
        raise InputError(f"stem: expected {described.stem!r}, which {path} was trained with, got {stem!r}")
    if network is None:
        return load_network(path).network.eval()
    put_weights(network, load_weights(path), path)
    return network.eval()


def load_network(path: str | Path, network: str | None = None, **build_args: Any) -> NetworkFile:
    """Build the network of a weight file and load its weights.

    Args:
        path: safetensors or a Lightning checkpoint; see :func:`load_weights`.
        network: its name, for a file that does not say; see :func:`build_model`.
        build_args: further arguments of :func:`build_model`, which replace the file's, ``num_classes`` among them.

    Raises:
        InputError: for a file that cannot be read, or does not say how its network is built, or says something else.
    """
    if network is not None:
        text("network", network)
    weights = load_weights(path)
    said = weights.description or Description()
    if network is not None and network != said.network:
        said = said._replace(network=network, network_args=None)
    if said.network is None:
        own = f" (it is one of the class {said.class_path})" if said.class_path else ""
        raise InputError(
            f"path: expected a file that says how its network is built, {path} does not{own}: it is older, or holds a "
            "network of your own class; give network: the name it was built by, or the config of its fit"
        )
    if network is None and not is_registered(said.network):
        raise InputError(
            f"path: {path} names a function, {kind_of(said.network)}, to build its network with; a file's is never "
            "called: if you trust it, give network: its name"
        )
    classes = build_args.pop("num_classes", None) or said.num_classes or len(said.class_names or ())
    if not classes:
        raise InputError(
            f"path: expected a file that says its number of classes, {path} does not; give num_classes among the "
            "network's arguments"
        )
    channels = build_args.pop("in_channels", None) or said.in_channels
    channels = channels or (len(said.image_input.mean) if said.image_input else 3)
    arguments: dict[str, Any] = {"stem": said.stem or "standard", **_without_weights(said.network_args), **build_args}
    try:
        built = build_model(said.network, classes, channels, **arguments)
    except TypeError as error:
        raise InputError(f"path: {path} has arguments that build no network, {kind_of(arguments)}") from error
    put_weights(built, weights, path)
    return NetworkFile(built, said._replace(num_classes=classes, in_channels=channels))


def _without_weights(args: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return a file's arguments without those by which a network would get its weights from elsewhere."""
    elsewhere = ("pretrained", "checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir", "weights")
    return {str(key): value for key, value in (args or {}).items() if key not in elsewhere}
