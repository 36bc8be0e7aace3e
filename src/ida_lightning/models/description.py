"""What a weight file says of its network: how it is built, its classes, its images, its training."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar, get_args

from lightning.pytorch.utilities import rank_zero_info
from torch import nn
from torch.nn.modules.conv import _ConvNd

from ida_lightning.errors import InputError, at_least, is_a, kind_of
from ida_lightning.models.build import Stem, built_from

KEY = "ida_lightning"
"""The namespace: the one entry of a weight file's metadata, and of a checkpoint, that is this package's."""
FORMAT = 1
# What files of before the namespace had beside each other. One of them alone is somebody else's.
_OLDER = ("class_names", "image_input")
_Value = TypeVar("_Value")


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


class Description(NamedTuple):
    """What a weight file says; None, or nothing, for what it does not say.

    Attributes:
        network: the name that :func:`ida_lightning.models.build_model` was given; None for a module of one's own.
        network_args: its further arguments.
        stem: likewise.
        class_path: where a module of one's own has its class. Nothing is ever imported because a file says so.
        strides: of the convolutions that have one, by name: networks of equal tensors can differ in them.
        num_classes: width of the output.
        in_channels: channels of the images.
        class_names: what the outputs stand for.
        image_input: mean, standard deviation and size of the images.
        interpolation: by which images of other sizes are resized.
        crop: share of the short side that a centred crop keeps in evaluation.
        vocabulary: fingerprint of the tokenizer of its texts.
        recipe: of the training: ``config_sha256`` (of the saved ``config.yaml``), ``methods``, ``teacher``.
        metrics: of the last validation, by the names that were logged.
        versions: of the packages that trained it.
    """

    network: str | None = None
    network_args: dict[str, Any] | None = None
    stem: Stem | None = None
    class_path: str | None = None
    strides: dict[str, list[int]] | None = None
    num_classes: int | None = None
    in_channels: int | None = None
    class_names: list[str] | None = None
    image_input: ImageInput | None = None
    interpolation: str | None = None
    crop: float | None = None
    vocabulary: str | None = None
    recipe: Mapping[str, Any] = {}
    metrics: Mapping[str, float] = {}
    versions: Mapping[str, str] = {}

    def content(self) -> dict[str, Any]:
        """Return the description as a weight file holds it: plain values in sections."""
        seen = self.image_input
        channels = len(seen.mean) if seen is not None else self.in_channels
        size, mean, std = (seen.size, list(seen.mean), list(seen.std)) if seen is not None else (None, None, None)
        return {
            "format": FORMAT,
            "network": {
                **{"name": self.network, "args": self.network_args, "stem": self.stem, "class": self.class_path},
                **{"strides": self.strides, "num_classes": self.num_classes, "in_channels": self.in_channels},
            },
            "classes": self.class_names,
            "images": {
                **{"size": size, "mean": mean, "std": std, "channels": channels},
                **{"interpolation": self.interpolation, "crop": self.crop},
            },
            **({} if self.vocabulary is None else {"texts": {"vocabulary": self.vocabulary}}),
            **{"recipe": dict(self.recipe), "metrics": dict(self.metrics), "versions": dict(self.versions)},
        }

    def metadata(self) -> dict[str, str]:
        """Return the metadata of a safetensors file: one entry, so that equal networks make equal bytes."""
        return {KEY: json.dumps(self.content(), sort_keys=True)}


def describe(network: nn.Module, num_classes: int) -> Description:
    """Return how a network is built.

    Args:
        network: of :func:`ida_lightning.models.build_model`, or any other.
        num_classes: width of its output.

    Example:
        >>> from ida_lightning.models import build_model
        >>> said = describe(build_model("test_resnet", 10, 1, "small"), 10)
        >>> said.network, said.stem, said.in_channels
        ('test_resnet', 'small', 1)
    """
    at_least("num_classes", num_classes, 1)
    said, kind = built_from(network), type(network)
    base = Description(num_classes=num_classes, strides=strides_of(network))
    if said is None:
        return base._replace(class_path=f"{kind.__module__}.{kind.__qualname__}")
    # The weights are in the file: nothing needs to be fetched again.
    args = {key: value for key, value in said.arguments.items() if key != "pretrained"}
    base = base._replace(network=said.model, network_args=args, stem=said.stem, in_channels=said.in_channels)
    try:
        json.dumps(args)
    except (TypeError, ValueError):  # arguments that only Python can hold
        return base._replace(network=None, network_args=None)
    return base


def strides_of(network: nn.Module) -> dict[str, list[int]]:
    """Return the strides of a network's convolutions that have one other than 1, by name.

    Example:
        >>> strides_of(nn.Sequential(nn.Conv2d(3, 4, 3, stride=2), nn.Conv2d(4, 4, 3)))
        {'0': [2, 2]}
    """
    convolutions = [(name, part) for name, part in network.named_modules() if isinstance(part, _ConvNd)]
    return {name: list(part.stride) for name, part in convolutions if set(part.stride) != {1}}


def check_description(network: nn.Module, description: Description | None, path: object, what: str) -> None:
    """Check that a network is what a weight file describes, beyond the names and shapes of its tensors.

    Args:
        network: that is to have the weights.
        description: of the file; for None a line in the log says what could not be checked.
        path: of the file, for messages.
        what: the argument that gave the path, likewise.

    Raises:
        InputError: for another stem, or another stride of a convolution: the tensors would fit, the answers would not.
    """
    if description is None:
        rank_zero_info(
            f"{what}: {path} does not describe its network: stem, classes and images could not be checked, only the "
            "names and shapes of its tensors"
        )
        return
    advice = f"{path} was trained with; ida_lightning.load_student builds it"
    said = built_from(network)
    if said is not None and description.stem is not None and said.stem != description.stem:
        raise InputError(f"{what}: expected the stem {description.stem!r}, which {advice}, got {said.stem!r}")
    if description.strides is None:
        return
    mine = strides_of(network)
    for name, part in network.named_modules():
        if isinstance(part, _ConvNd) and mine.get(name) != description.strides.get(name):
            expected, got = (strides.get(name, [1] * len(part.stride)) for strides in (description.strides, mine))
            stem = f" (stem {description.stem!r})" if description.stem not in (None, "standard") else ""
            raise InputError(f"{what}: expected the stride {expected} in {name}{stem}, which {advice}, got {got}")


def description_in(facts: Mapping[Any, Any], path: object) -> Description | None:
    """Read what a file's metadata, or a checkpoint, says; None if it says nothing of this package's.

    Files of before the namespace say less, under ``class_names`` and ``image_input`` both. One of the two alone is of
    somebody else's making and means nothing here.

    Args:
        facts: decoded metadata of safetensors, or the content of a checkpoint.
        path: for the log.
    """
    own = facts.get(KEY)
    own = own if isinstance(own, Mapping) else None
    if own is not None and "format" in own:
        network, images, read = (_section(own, key) for key in ("network", "images", "texts"))
        seen = [images.get(key) for key in ("mean", "std", "size")]
        found = {
            **{"network": network.get("name"), "network_args": network.get("args"), "class_path": network.get("class")},
            **{"class_names": own.get("classes"), "image_input": None if None in seen else seen},
            **{key: network.get(key) for key in ("stem", "strides", "num_classes", "in_channels")},
            **{key: images.get(key) for key in ("interpolation", "crop")},
            **{key: own.get(key) for key in ("recipe", "metrics", "versions")},
            "vocabulary": read.get("vocabulary"),
        }
    elif own is not None or all(key in facts for key in _OLDER):
        known = ("network", "network_args", "stem", "num_classes", "in_channels", "crop")
        found = {key: (own or {}).get(key) for key in known} | {key: facts.get(key) for key in _OLDER}
    else:
        return None
    return Description(**{key: _understood(key, value, path) for key, value in found.items() if value is not None})


def _section(content: Mapping[Any, Any], key: str) -> Mapping[Any, Any]:
    section = content.get(key)
    return section if isinstance(section, Mapping) else {}


def _understood(key: str, value: Any, path: object) -> Any:
    """Return a value of a description, or what stands for an unknown one, with a line, where it is of another form."""
    try:
        return _FORMS[key](value)
    except (TypeError, ValueError, LookupError):
        rank_zero_info(f"{path}: {key} is not in this package's form and was ignored: {kind_of(value)}")
        return Description._field_defaults[key]


def _require(right: bool, value: _Value) -> _Value:
    if not right:
        raise ValueError(value)
    return value


def _text(value: Any) -> str:
    return str(_require(isinstance(value, str), value))


def _count(value: Any) -> int:
    return int(_require(not isinstance(value, bool) and int(value) == value and value >= 1, value))


def _mapping(value: Any) -> dict[str, Any]:
    return {str(key): entry for key, entry in _require(isinstance(value, Mapping), value).items()}


def _texts(value: Any) -> list[str]:
    listed = isinstance(value, (list, tuple)) and bool(value)
    return list(_require(listed and all(isinstance(name, str) for name in value), value))


def _strides(value: Any) -> dict[str, list[int]]:
    return {name: [_count(number) for number in stride] for name, stride in _mapping(value).items()}


def _numbers(values: Sequence[Any]) -> tuple[float, ...]:
    return tuple(_require(math.isfinite(float(value)), float(value)) for value in values)


def _image_input(value: Any) -> ImageInput:
    mean, std, size = value
    read = ImageInput(_numbers(mean), _numbers(std), _count(size))
    return _require(bool(mean) and len(read.mean) == len(read.std) and min(read.std) > 0, read)


def _crop(value: Any) -> float:
    return _require(0 < float(value) <= 1, float(value))


_FORMS: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("network", "class_path", "interpolation", "vocabulary"), _text),
    **dict.fromkeys(("network_args", "recipe", "versions"), _mapping),
    **dict.fromkeys(("num_classes", "in_channels"), _count),
    "metrics": lambda value: dict(zip(value, _numbers(list(_mapping(value).values())), strict=True)),
    "stem": lambda value: _require(value in get_args(Stem), value),
    **{"strides": _strides, "class_names": _texts, "image_input": _image_input, "crop": _crop},
}


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
