"""The linear layer that makes a network's logits, and what it is given."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ida_lightning.errors import InputError
from ida_lightning.models import eval_mode


@runtime_checkable
class _HasClassifier(Protocol):
    """A network of timm's."""

    def get_classifier(self) -> nn.Module: ...


def classifier_head(network: nn.Module, num_classes: int) -> nn.Linear:
    """Return the linear layer that makes a network's logits.

    Raises:
        InputError: if it has none of that width.
    """
    head = network.get_classifier() if isinstance(network, _HasClassifier) else None
    if not isinstance(head, nn.Linear):
        layers = [layer for layer in network.modules() if isinstance(layer, nn.Linear)]
        head = layers[-1] if layers else None
    if head is None or head.out_features != num_classes:
        raise InputError(
            f"score: influence needs a network that ends in a linear layer for {num_classes} classes, got "
            f"{type(network).__name__} without"
        )
    return head


def head_input(head: nn.Linear, given: Tensor, logits: Tensor) -> Tensor:
    """Return the features ``(batch, features)`` behind logits, with a column of ones for a bias.

    Raises:
        InputError: if the logits are not what the head makes of them.
    """
    if given.ndim != 2 or len(given) != len(logits):
        raise InputError(f"score: influence needs a head that is given (batch, features), got {tuple(given.shape)}")
    with torch.no_grad():
        made = F.linear(given.to(head.weight.dtype), head.weight, head.bias).to(logits.dtype)
    finite = torch.isfinite(logits)
    off = float(torch.where(finite, made - logits, 0).abs().amax())
    if off > 0.05 * (1 + float(torch.where(finite, logits, 0).abs().amax())):  # half types come this near
        raise InputError("score: influence needs a network whose last linear layer makes its logits, got other logits")
    return given if head.bias is None else torch.cat((given, torch.ones_like(given[:, :1])), 1)


@contextmanager
def capture_head_input(network: nn.Module, head: nn.Linear) -> Iterator[list[Tensor]]:
    """Put a network into eval mode, eager, and append what its head is given to a list."""
    given: list[Tensor] = []
    # A hook inside a compiled graph would not be called.
    compiled, network._compiled_call_impl = network._compiled_call_impl, None
    handle = head.register_forward_pre_hook(lambda module, args: given.append(args[0]))
    try:
        with eval_mode(network):
            yield given
    finally:
        handle.remove()
        network._compiled_call_impl = compiled
