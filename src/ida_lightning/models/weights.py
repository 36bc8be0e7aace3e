"""Weights from files that cannot run code, and what such a file says about its network."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ida_lightning.errors import InputError, is_a, kind_of

# What wraps a network's own names in a checkpoint, outermost first.
_PREFIXES = ("module.", "_orig_mod.", "model.", "student.", "_orig_mod.")


class ImageInput(NamedTuple):
    """The images that a network was trained on.

    Attributes:
        mean: that was subtracted per channel, for pixel values from 0 to 1.
        std: by which the result was divided.
        size: height and width in pixels.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: int


def pretrained_input(network: nn.Module) -> ImageInput | None:
    """Return what timm's pretrained weights of this network expect, None if it is not one of timm's."""
    is_a("network", network, nn.Module)
    config = vars(network).get("pretrained_cfg") or {}
    if not all(key in config for key in ("mean", "std", "input_size")):
        return None
    channels = vars(network).get("in_chans") or len(config["mean"])
    mean, std = (tuple(config[key]) for key in ("mean", "std"))
    if len(mean) != channels:  # timm sums the first convolution over the colours, and so averages these
        mean, std = ((sum(values) / len(values),) * channels for values in (mean, std))
    return ImageInput(mean, std, int(config["input_size"][-1]))


class Weights(NamedTuple):
    """A network's tensors by name and, where the file tells, its classes and the images it was trained on."""

    tensors: dict[str, Tensor]
    class_names: list[str] | None
    image_input: ImageInput | None


def fingerprint(network: nn.Module) -> str:
    """Compute the SHA-256 of every parameter and buffer, by name: equal for equal weights, whatever their file."""
    digest = hashlib.sha256()
    is_a("network", network, nn.Module)
    for name, tensor in sorted(network.state_dict().items()):
        plain = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {plain.dtype} {tuple(plain.shape)};".encode())
        digest.update(plain.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def digest_of_file(path: str | Path) -> str | None:
    """Return the SHA-256 of a file's bytes; None if there is none."""
    digest = hashlib.sha256()
    try:
        with Path(path).open("rb") as file:
            while part := file.read(1 << 20):
                digest.update(part)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return None
    return digest.hexdigest()


def load_weights(path: str | Path, what: str = "checkpoint") -> Weights:
    """Read weights without running code: safetensors, a plain state dict, or a Lightning checkpoint.

    Args:
        path: the file. Anything not named ``*.safetensors`` is read with ``torch.load(weights_only=True)``.
        what: the argument that gave the path, for messages.

    Returns:
        Tensors named as the network names them: wrappers of DDP, ``torch.compile`` and this package's modules
        are taken off.

    Raises:
        InputError: if there is no such file, or it is damaged or something else.
    """
    if not isinstance(path, (str, Path)):
        raise InputError(f"{what}: expected a path, got {kind_of(path)}")
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{what}: expected a weight file, found nothing at {path}")
    names = seen = None
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
                names, seen = (
                    json.loads((file.metadata() or {}).get(key, "null")) for key in ("class_names", "image_input")
                )
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
            tensors = content.get("state_dict", content.get("model", content))
            names, seen = content.get("class_names"), content.get("image_input")
        image_input = ImageInput(tuple(seen[0]), tuple(seen[1]), int(seen[2])) if seen else None
    except (
        SafetensorError,
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
        AttributeError,
        OSError,
        ValueError,
        TypeError,
        LookupError,
    ) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"{what}: {path} is damaged or no weight file ({reason})") from error
    if not isinstance(tensors, Mapping) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise InputError(f"{what}: {path} holds no state dict of tensors")
    return Weights(_without_prefixes(dict(tensors)), names, image_input)


def _without_prefixes(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in _PREFIXES:
        if tensors and all(key.startswith(prefix) for key in tensors):
            tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
    return tensors


def put_weights(network: nn.Module, weights: Weights, path: str | Path, what: str = "checkpoint") -> None:
    """Load ``weights`` into ``network``, every tensor or none.

    A checkpoint of any LightningModule will do: if exactly one of its attributes holds all of the network's tensors,
    that one is taken.

    Raises:
        InputError: naming the first tensor that is missing, left over or of another shape.
    """
    state = is_a("network", network, nn.Module).state_dict()
    is_a("weights", weights, Weights)
    if weights.tensors.keys() != state.keys():
        first = next(iter(state), "")
        prefixes = [key.removesuffix(first) for key in weights.tensors if key.endswith(f".{first}")]
        holders = [prefix for prefix in prefixes if all(f"{prefix}{key}" in weights.tensors for key in state)]
        if len(holders) > 1:
            raise InputError(f"{what}: {path} holds {len(holders)} such networks: {', '.join(sorted(holders))}")
        if holders:
            weights = weights._replace(tensors={key: weights.tensors[f"{holders[0]}{key}"] for key in state})
    wrong = [
        f"{key} is {tuple(weights.tensors[key].shape)}, the network has {tuple(state[key].shape)}"
        for key in state
        if key in weights.tensors and state[key].shape != weights.tensors[key].shape
    ]
    wrong += [f"{key} is missing" for key in state if key not in weights.tensors]
    wrong += [f"{key} is not in the network" for key in weights.tensors if key not in state]
    if wrong:
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise InputError(f"{what}: {path} does not fit the network: {wrong[0]}{more}")
    network.load_state_dict(weights.tensors)
