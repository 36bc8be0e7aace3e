"""Networks by timm name, and stems for small images."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple, get_args

from torch import nn

from ida_lightning.errors import InputError, at_least, is_a, kind_of, one_of
from ida_lightning.models.named import build_named

Stem = Literal["standard", "medium", "small"]
_NOTE = "_ida_built_from"
# Where timm keeps the pooling layer that follows the first convolution.
_STEM_POOLS = ("maxpool", "stem.pool", "features.pool0")


class BuiltFrom(NamedTuple):
    """The arguments of :func:`build_model` that a network was built from."""

    model: str
    in_channels: int
    stem: Stem
    arguments: dict[str, Any]


def built_from(network: nn.Module) -> BuiltFrom | None:
    """Return what :func:`build_model` was given for this network; None for a module of somebody's own."""
    return vars(is_a("network", network, nn.Module)).get(_NOTE)


def build_model(
    model: str | nn.Module,
    num_classes: int | None,
    in_channels: int = 3,
    stem: Stem = "standard",
    **timm_args: Any,
) -> nn.Module:
    """Build a classifier that maps ``(batch, in_channels, height, width)`` to logits ``(batch, num_classes)``.

    Args:
        model: a timm name, also one of a hub such as ``hf-hub:timm/resnet18.a1_in1k``; ``torchvision:resnet50``;
            ``transformers:bert`` and the like, see :func:`~ida_lightning.models.text_networks.build_transformer`; the
            import path of a function of ``num_classes`` that builds a network, ``my_module.make_net``, which gets
            ``in_channels`` too if it takes them, or of a module's class; or a module, which is returned as it is.
        num_classes: width of the output; None leaves that to the network: as many as its pretrained weights have.
        in_channels: channels of the images.
        stem: ``"small"`` is for images of 28 or 32 pixels: the first convolution keeps the resolution (a 7 x 7
            one becomes 3 x 3) and the pooling behind it goes. Finer features for several times the work.
            ``"medium"`` is for 64 pixels, or for a quarter of that work: the first convolution halves the resolution.
        timm_args: further arguments of ``timm.create_model``, torchvision's or that function; ``pretrained: true``
            among them, for torchvision also the name of the weights.

    Raises:
        InputError: for a name nobody knows (the nearest ones are given), for arguments that do not fit, for
            pretrained weights that cannot be fetched, and for another stem where the network has none.

    Example:
        >>> import torch
        >>> network = build_model("test_resnet", num_classes=10, in_channels=1, stem="small")
        >>> network(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """
    if num_classes is not None:
        at_least("num_classes", num_classes, 1)
    at_least("in_channels", in_channels, 1)
    one_of("stem", stem, get_args(Stem))
    if isinstance(model, nn.Module):
        return model
    if not isinstance(model, str):
        raise InputError(f"model: expected a timm name or a network, got {kind_of(model)}")
    network = build_named(model, num_classes, in_channels, timm_args)
    if stem != "standard":
        _make_stem(network, model, 1 if stem == "small" else 2)
    vars(network)[_NOTE] = BuiltFrom(model, in_channels, stem, timm_args)  # in no state dict
    return network


def _make_stem(network: nn.Module, name: str, stride: int) -> None:
    path = vars(network).get("pretrained_cfg", {}).get("first_conv")
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


@contextmanager
def eval_mode(network: nn.Module) -> Iterator[None]:
    """Set a network to evaluation inside the block; every module of it has its own mode back afterwards.

    Example:
        >>> network = nn.Sequential(nn.BatchNorm1d(2), nn.Dropout().eval())
        >>> with eval_mode(network):
        ...     network[0].training
        False
        >>> network[0].training, network[1].training
        (True, False)
    """
    is_a("network", network, nn.Module)
    training = [module for module in network.modules() if module.training]
    network.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
