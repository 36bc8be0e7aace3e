"""Networks by timm name, stems for small images, and weights from files that cannot run code."""

from __future__ import annotations

import difflib
import hashlib
import json
import pickle
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import timm
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ida_lightning.errors import InputError

# Where timm keeps the pooling layer that follows the first convolution.
_STEM_POOLS = ("maxpool", "stem.pool", "features.pool0")
# What wraps a network's own names in a checkpoint, outermost first.
_PREFIXES = ("module.", "_orig_mod.", "model.", "student.", "_orig_mod.")


def build_model(
    model: str | nn.Module,
    num_classes: int,
    in_channels: int = 3,
    stem: Literal["standard", "medium", "small"] = "standard",
    **timm_args: Any,
) -> nn.Module:
    """A classifier that maps ``(batch, in_channels, height, width)`` to logits ``(batch, num_classes)``.

    Args:
        model: a timm name, or a module, which is returned as it is.
        num_classes: width of the output.
        in_channels: channels of the images.
        stem: ``"small"`` is for images of 28 or 32 pixels: the first convolution keeps the resolution (a 7 x 7
            one becomes 3 x 3) and the pooling behind it goes. Finer features for several times the work.
            ``"medium"`` is for 64 pixels, or for a quarter of that work: the first convolution halves the resolution.
        timm_args: further arguments of ``timm.create_model``, ``pretrained: true`` among them.

    Raises:
        InputError: for a name timm does not know (the nearest ones are given), for arguments it does not take,
            and for another stem where the network has none.

    Example:
        >>> build_model("test_resnet", num_classes=10, in_channels=1, stem="small")(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """
    if isinstance(model, nn.Module):
        return model
    if not timm.is_model(model):
        near = difflib.get_close_matches(model, timm.list_models(), n=3)
        raise InputError(f"model: expected a timm name{' such as ' + ', '.join(near) if near else ''}, got {model!r}")
    try:
        network: nn.Module = timm.create_model(model, num_classes=num_classes, in_chans=in_channels, **timm_args)
    except (TypeError, RuntimeError) as error:
        raise InputError(f"model: timm could not build {model!r} with {timm_args}: {error}") from error
    if stem not in ("standard", "medium", "small"):
        raise InputError(f"stem: expected standard, medium or small, got {stem!r}")
    if stem != "standard":
        _make_stem(network, model, 1 if stem == "small" else 2)
    return network


def _make_stem(network: nn.Module, name: str, stride: int) -> None:
    path = getattr(network, "pretrained_cfg", {}).get("first_conv")
    conv = network.get_submodule(path) if isinstance(path, str) else None
    if not isinstance(conv, nn.Conv2d) or conv.stride == conv.kernel_size:
        raise InputError(
            f"stem: {name!r} has no convolution that could keep the resolution; use stem 'standard' "
            "(for a patch embedding, set its patch_size)"
        )
    if conv.stride == (1, 1):
        return
    conv.stride = (stride, stride)
    if type(conv) is nn.Conv2d and conv.kernel_size[0] > 3:
        small = nn.Conv2d(conv.in_channels, conv.out_channels, 3, stride, padding=1, bias=conv.bias is not None)
        network.set_submodule(str(path), small)
    for pool in _STEM_POOLS:
        if pool in dict(network.named_modules()):
            network.set_submodule(pool, nn.Identity())


class ImageInput(NamedTuple):
    """What images a network was trained on.

    Attributes:
        mean: that was subtracted per channel, for pixel values from 0 to 1.
        std: by which the result was divided.
        size: height and width in pixels.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: int


def pretrained_input(network: nn.Module) -> ImageInput | None:
    """What timm's pretrained weights of this network expect, if it is one of timm's."""
    config = getattr(network, "pretrained_cfg", None) or {}
    if not all(key in config for key in ("mean", "std", "input_size")):
        return None
    channels = getattr(network, "in_chans", None) or len(config["mean"])
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
    """SHA-256 of every parameter and buffer, by name: equal for equal weights, whatever file they came from."""
    digest = hashlib.sha256()
    for name, tensor in sorted(network.state_dict().items()):
        plain = tensor.detach().cpu().contiguous()
        digest.update(f"{name} {plain.dtype} {tuple(plain.shape)};".encode())
        digest.update(plain.flatten().view(torch.uint8).numpy().data)
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
    own = network.state_dict()
    if weights.tensors.keys() != own.keys():
        first = next(iter(own), "")
        prefixes = [key.removesuffix(first) for key in weights.tensors if key.endswith(f".{first}")]
        holders = [prefix for prefix in prefixes if all(f"{prefix}{key}" in weights.tensors for key in own)]
        if len(holders) > 1:
            raise InputError(f"{what}: {path} holds {len(holders)} such networks: {', '.join(sorted(holders))}")
        if holders:
            weights = weights._replace(tensors={key: weights.tensors[f"{holders[0]}{key}"] for key in own})
    wrong = [
        f"{key} is {tuple(weights.tensors[key].shape)}, the network has {tuple(own[key].shape)}"
        for key in own
        if key in weights.tensors and own[key].shape != weights.tensors[key].shape
    ]
    wrong += [f"{key} is missing" for key in own if key not in weights.tensors]
    wrong += [f"{key} is not in the network" for key in weights.tensors if key not in own]
    if wrong:
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise InputError(f"{what}: {path} does not fit the network: {wrong[0]}{more}")
    network.load_state_dict(weights.tensors)


@contextmanager
def eval_mode(network: nn.Module) -> Iterator[None]:
    """Inside, a network answers as in evaluation: no statistics are updated; every part has its mode back afterwards.

    Example:
        >>> network = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout().eval())
        >>> with eval_mode(network):
        ...     network[0].training
        False
        >>> network[0].training, network[1].training
        (True, False)
    """
    training = [part for part in network.modules() if part.training]
    network.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True
