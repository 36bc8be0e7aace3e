"""What other people's networks return, and a trial of one before anything is built around it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from ida_lightning.errors import InputError, kind_of
from ida_lightning.inputs import Inputs, is_picture, on_each, rows_in
from ida_lightning.models.build import eval_mode


def logits_of(output: object, network: str) -> Tensor:
    """Return the logits in what a network returned: a tensor, an entry ``logits``, or the first element.

    Args:
        output: of the network: a tensor, a mapping such as transformers' ``ModelOutput``, an object with an attribute
            ``logits``, or a tuple or list.
        network: whose it is, for the message.

    Raises:
        InputError: for anything else.

    Example:
        >>> logits_of({"features": torch.zeros(2, 8), "logits": torch.ones(2, 3)}, "student").shape
        torch.Size([2, 3])
    """
    if isinstance(output, Tensor):
        return output
    found: object = None
    if isinstance(output, Mapping):
        found = output.get("logits", next(iter(output.values())) if len(output) == 1 else None)
        came = f"a mapping of {', '.join(map(str, output))}"
    elif hasattr(output, "logits"):
        found, came = output.logits, type(output).__name__
    elif isinstance(output, (tuple, list)):
        found = output[0] if output else None
        came = f"{type(output).__name__} of {', '.join(kind_of(entry) for entry in output) or 'nothing'}"[:120]
    else:
        came = kind_of(output)
    if not isinstance(found, Tensor):
        raise InputError(
            f"{network}: expected a network that returns logits (batch, classes), an entry logits or a first element "
            f"with them, got {came}"
        )
    return found


def check_logits(logits: Tensor, rows: int, num_classes: int, network: str) -> Tensor:
    """Return ``logits``, which must be floating point ``(rows, num_classes)``."""
    if logits.shape != (rows, num_classes) or not logits.is_floating_point():
        raise InputError(
            f"{network}: expected logits of {num_classes} classes, floating point ({rows}, {num_classes}), got output "
            f"{kind_of(logits)}"
        )
    return logits


def run_network(network: Callable[..., Any], inputs: Inputs) -> Any:
    """Return what a network gives for inputs; the tensors of a mapping are given by name, as ``network(**inputs)``."""
    return network(**inputs) if isinstance(inputs, Mapping) else network(inputs)


def try_network(network: nn.Module, inputs: Inputs, num_classes: int, name: str, dtype: torch.dtype) -> None:
    """Run a network once in evaluation mode; its state and torch's random numbers stay as they were.

    Args:
        network: on any device.
        inputs: of the kind it will see, a few rows.
        num_classes: width that the output must have.
        name: whose network it is, for the message.
        dtype: of its weights.

    Raises:
        InputError: if it fails, or returns anything but logits of that many classes.
    """
    like = next(network.parameters(), torch.zeros(1))
    if like.device.type == "meta":
        return
    devices = [like.device] if like.device.type == "cuda" else []
    network = _copy_of(network)
    with eval_mode(network), torch.no_grad(), torch.random.fork_rng(devices=devices):
        try:
            output = run_network(network, converted(inputs, like.device, dtype))
        except InputError:
            raise
        except Exception as error:
            raise failure(name, inputs, error) from error
        check_logits(logits_of(output, name), rows_in(inputs), num_classes, name)


def converted(inputs: Inputs, device: torch.device, dtype: torch.dtype) -> Inputs:
    """Return inputs on a device, with what is floating point in a type; token ids stay whole numbers."""
    return on_each(lambda tensor: tensor.to(device, dtype if tensor.is_floating_point() else tensor.dtype), inputs)


def _copy_of(network: nn.Module) -> nn.Module:
    """Return a copy, so that what a network counts in its forward pass is not counted; itself where it cannot be."""
    if any(isinstance(parameter, nn.UninitializedParameter) for parameter in network.parameters()):
        return network  # a lazy one gets its shapes from the trial
    try:
        return deepcopy(network)
    except Exception:  # noqa: BLE001 (whatever a network of somebody else's holds)
        return network


def failure(name: str, inputs: Inputs, error: Exception) -> InputError:
    """Return the line for a network that fails on inputs."""
    reason = " ".join(str(error).split())[:240] or type(error).__name__
    if isinstance(inputs, Mapping):
        kinds = "inputs " + ", ".join(f"{key} {tuple(tensor.shape[1:])}" for key, tensor in inputs.items())
    else:
        kinds = f"{'images' if is_picture(inputs) else 'inputs'} {tuple(inputs.shape[1:])}"
    return InputError(f"{name}: expected a network for {kinds}, it fails on one: {reason}")
