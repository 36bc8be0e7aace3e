"""Networks by the names that people give them: timm's, a hub's, torchvision's, or a function of their own."""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
import sys
from collections.abc import Callable
from typing import Any

import timm
from torch import nn
from torchvision import models as torchvision_models

from ida_lightning.errors import InputError
from ida_lightning.models.text_networks import TRANSFORMERS_PREFIX, build_transformer

HUB_PREFIXES = ("hf-hub:", "hf_hub:", "timm/", "local-dir:")
TORCHVISION_PREFIXES = ("torchvision:", "torchvision.models.")
_OWN = ("ida_lightning.models.TextCNN",)


def build_named(name: str, num_classes: int | None, in_channels: int, args: dict[str, Any]) -> nn.Module:
    """Build a network by name; see :func:`ida_lightning.models.build_model`.

    Raises:
        InputError: for a name that nobody knows, arguments that do not fit, and pretrained weights that cannot be had.
    """
    prefix = next((prefix for prefix in TORCHVISION_PREFIXES if name.startswith(prefix)), None)
    try:
        if prefix is not None:
            return _from_torchvision(name.removeprefix(prefix), num_classes, in_channels, dict(args))
        if name.startswith(TRANSFORMERS_PREFIX):
            return build_transformer(name.removeprefix(TRANSFORMERS_PREFIX), num_classes, args)
        timm_name = _without_timm_prefix(name)
        if timm_name.startswith(HUB_PREFIXES) or timm.is_model(timm_name):
            network: nn.Module = timm.create_model(timm_name, num_classes=num_classes, in_chans=in_channels, **args)
            return network
        return _from_function(_imported(name), name, num_classes, in_channels, args)
    except OSError as error:
        if not args.get("pretrained") and not name.startswith(HUB_PREFIXES):
            raise
        cause = error.__cause__ or error
        raise InputError(
            f"model: the pretrained weights of {name!r} could not be fetched from {_address_of(name)}, and are not in "
            f"the cache ({type(cause).__name__}: {cause})"
        ) from error
    except (TypeError, RuntimeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"model: {name!r} could not be built with {args}: {error}") from error


def is_registered(name: str) -> bool:
    """Say whether timm, a hub, torchvision, transformers or this package has a network of this name.

    Any other is called as a function.

    Example:
        >>> is_registered("resnet18"), is_registered("torchvision:resnet18"), is_registered("os.system")
        (True, True, False)
    """
    prefixes = (*HUB_PREFIXES, *TORCHVISION_PREFIXES, TRANSFORMERS_PREFIX)
    return name in _OWN or name.startswith(prefixes) or timm.is_model(name)


def _without_timm_prefix(name: str) -> str:
    """Return timm's own name for one of its networks that is named as on the hub, where its config need not be asked.

    Example:
        >>> _without_timm_prefix("hf-hub:timm/resnet18.a1_in1k"), _without_timm_prefix("hf-hub:me/mine")
        ('resnet18.a1_in1k', 'hf-hub:me/mine')
    """
    plain = re.sub(r"^(hf[-_]hub:)?timm/", "", name)
    return plain if timm.is_model(plain) else name


def is_of_a_hub(name: str) -> bool:
    """Say whether a name is one of a hub, which has weights.

    Example:
        >>> is_of_a_hub("hf-hub:timm/resnet18.a1_in1k"), is_of_a_hub("resnet18")
        (True, False)
    """
    return name.startswith(HUB_PREFIXES)


def has_new_head(network: nn.Module, num_classes: int) -> bool:
    """Say whether the last layer of a pretrained network is random, because the weights are for other classes."""
    known = (vars(network).get("pretrained_cfg") or {}).get("num_classes")
    return known is not None and known != num_classes


def _from_torchvision(name: str, num_classes: int | None, in_channels: int, args: dict[str, Any]) -> nn.Module:
    known = torchvision_models.list_models(module=torchvision_models)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=3)
        raise InputError(
            f"model: expected a network of torchvision{', such as ' + ', '.join(near) if near else ''}, got {name!r}"
        )
    if in_channels != 3:
        raise InputError(f"model: expected images of 3 channels for torchvision:{name}, got {in_channels}")
    pretrained = args.pop("pretrained", False)
    choices = torchvision_models.get_model_weights(name)
    if isinstance(pretrained, str) and pretrained not in choices.__members__:
        raise InputError(f"pretrained: expected one of true, {', '.join(choices.__members__)}, got {pretrained!r}")
    weights = choices[pretrained if isinstance(pretrained, str) else "DEFAULT"]
    seen = weights.transforms()
    if pretrained and name in ("googlenet", "inception_v3"):  # their weights are for pixels of another scale
        args.setdefault("transform_input", True)
    width = len(weights.meta["categories"]) if num_classes is None else num_classes
    network: nn.Module = torchvision_models.get_model(name, weights=None, num_classes=width, **args)
    if pretrained:
        own = network.state_dict()
        state = weights.get_state_dict(progress=False, check_hash=True)
        fitting = {key: value for key, value in state.items() if key in own and own[key].shape == value.shape}
        network.load_state_dict(fitting, strict=False)  # a head of another width stays random, as timm's does
    vars(network)["pretrained_cfg"] = {
        "mean": tuple(seen.mean),
        "std": tuple(seen.std),
        "input_size": (3, *2 * seen.crop_size) if len(seen.crop_size) == 1 else (3, *seen.crop_size),
        "num_classes": len(weights.meta["categories"]),
        "first_conv": next((key for key, part in network.named_modules() if isinstance(part, nn.Conv2d)), None),
    }
    return network


def _from_function(
    build: Callable[..., Any], name: str, num_classes: int | None, in_channels: int, args: dict[str, Any]
) -> nn.Module:
    """Call a function, or a class, with those of our arguments that it takes and all of the user's."""
    ours = {"in_channels": in_channels, "in_chans": in_channels}
    if num_classes is not None:
        ours["num_classes"] = num_classes
    parameters = inspect.signature(build).parameters
    network = build(**{key: value for key, value in ours.items() if key in parameters}, **args)
    if not isinstance(network, nn.Module):
        raise InputError(f"model: expected {name} to return a torch.nn.Module, got {type(network).__name__}")
    return network


def _imported(path: str) -> Callable[..., Any]:
    module, _, attribute = path.rpartition(".")
    built: Callable[..., Any] | None = None
    try:
        if module:
            built = vars(importlib.import_module(module)).get(attribute)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            needed = f"it needs {error.name}, which is not there"
            raise InputError(f"model: {module} cannot be imported, {needed}") from error
    if _may_build(built, module):
        return built  # type: ignore[return-value]
    near = difflib.get_close_matches(path, timm.list_models(), n=3)
    raise InputError(
        f"model: expected a timm name{' such as ' + ', '.join(near) if near else ''} (or torchvision:NAME, "
        f"transformers:NAME, or the import path of a function of num_classes that builds a network), got {path!r}"
    )


def _may_build(thing: object, module: str) -> bool:
    """Say whether a class or function can be meant as one that builds a network.

    A checkpoint's hyperparameters may name any function there is, and give its arguments: only those are called that
    take a number of classes, or nothing, and none of Python or PyTorch.
    """
    if isinstance(thing, type):
        return issubclass(thing, nn.Module)
    root = module.partition(".")[0]
    homes = {root, str(getattr(thing, "__module__", root)).partition(".")[0]}
    if not callable(thing) or homes & {*sys.stdlib_module_names, "torch", "numpy"}:
        return False
    try:
        parameters = inspect.signature(thing).parameters
    except (TypeError, ValueError):  # built in
        return False
    return not parameters or "num_classes" in parameters


def _address_of(name: str) -> str:
    if name.startswith(TORCHVISION_PREFIXES):
        return "https://download.pytorch.org"
    config = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    repository = (config.hf_hub_id if config is not None else None) or name.partition(":")[2] or name
    return f"https://huggingface.co/{repository}"
