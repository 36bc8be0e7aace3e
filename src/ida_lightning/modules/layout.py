"""Whether a network's images and weights lie in memory with the channels last."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from copy import deepcopy
from statistics import median
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from ida_lightning.inputs import Inputs, on_each
from ida_lightning.models import logits_of
from ida_lightning.modules.options import Layout

_ROWS, _ROUNDS = 32, 5
# What a layout must save, so that a tie is not decided by noise.
_WORTH = 0.97


def convolves(network: nn.Module) -> bool:
    """Tell whether a network has a two-dimensional convolution, to which alone the layout matters."""
    return any(isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)) for module in network.modules())


def wants_channels_last(
    layout: Layout, network: nn.Module, shape: tuple[int, ...] | None, device: torch.device, autocast: Any
) -> bool:
    """Choose the layout of a fit.

    Args:
        layout: what was asked for.
        network: that is trained, on any device; it stays as it is.
        shape: of one image; None if unknown, and then nothing is tried.
        device: on which it will be trained.
        autocast: gives a context in which forward passes run as they will.
    """
    if layout in ("contiguous", "channels_last") or not convolves(network):
        return layout == "channels_last"
    if layout == "auto":
        return device.type == "cuda"
    if shape is None or len(shape) != 3:
        return False
    plain, last = _trial(network, shape, device, autocast)
    chosen = last < _WORTH * plain
    rank_zero_info(
        f"layout: a step of {_ROWS} images takes {1e3 * plain:.3g} ms contiguous, {1e3 * last:.3g} ms channels_last; "
        f"{'channels_last' if chosen else 'contiguous'} it is"
    )
    return chosen


def _trial(network: nn.Module, shape: tuple[int, ...], device: torch.device, autocast: Any) -> tuple[float, float]:
    """Return the seconds of a forward and backward pass in both layouts, medians of passes that take turns."""
    formats = (torch.contiguous_format, torch.channels_last)
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        images = torch.randn(_ROWS, *shape, device=device)
        copies = [deepcopy(network).to(device).train().to(memory_format=one) for one in formats]
        given = [images.contiguous(memory_format=one) for one in formats]
        times: tuple[list[float], list[float]] = ([], [])
        for number in range(1 + _ROUNDS):
            for copy, rows, taken in zip(copies, given, times, strict=True):
                seconds = _seconds(copy, rows, device, autocast())
                if number:  # the first one warms up
                    taken.append(seconds)
    return median(times[0]), median(times[1])


def _seconds(network: nn.Module, images: Tensor, device: torch.device, autocast: AbstractContextManager[Any]) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    begin = time.perf_counter()
    with autocast, torch.enable_grad():
        output = network(images)
    logits_of(output, "network").float().sum().backward()  # type: ignore[no-untyped-call]
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - begin


def channels_last(inputs: Inputs) -> Inputs:
    """Lay images ``(batch, channels, height, width)`` out with the channels last; what else comes stays as it is."""
    return on_each(lambda x: x.contiguous(memory_format=torch.channels_last) if x.ndim == 4 else x, inputs)
