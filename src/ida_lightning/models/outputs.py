"""What other people's networks return, and a trial of one before anything is built around it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ida_lightning.errors import InputError, kind_of
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


def try_network(network: nn.Module, shape: tuple[int, ...], num_classes: int, name: str, dtype: torch.dtype) -> None:
    """Run a network once on blank inputs in evaluation mode; its state and torch's random numbers stay as they were.

    Args:
        network: on any device.
        shape: of one input.
        num_classes: width that the output must have.
        name: whose network it is, for the message.
        dtype: of the inputs.

    Raises:
        InputError: if it fails, or returns anything but logits of that many classes.
    """
    like = next(network.parameters(), torch.zeros(1))
    if like.device.type == "meta":
        return
    devices = [like.device] if like.device.type == "cuda" else []
    with eval_mode(network), torch.no_grad(), torch.random.fork_rng(devices=devices):
        try:
            output = network(torch.zeros(2, *shape, dtype=dtype, device=like.device))
        except InputError:
            raise
        except Exception as error:
            raise failure(name, shape, error) from error
        check_logits(logits_of(output, name), 2, num_classes, name)


def failure(name: str, shape: tuple[int, ...], error: Exception) -> InputError:
    """Return the line for a network that fails on inputs of a shape."""
    reason = " ".join(str(error).split())[:240] or type(error).__name__
    return InputError(f"{name}: expected a network for images {tuple(shape)}, it fails on one: {reason}")
