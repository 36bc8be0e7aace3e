"""Does an exported file answer as the network did?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ida_lightning.studies.export.formats import Network, Runner
from ida_lightning.studies.export.source import Pictures

_FIRST_BATCHES, _BATCH = (1, 7), 64


class Parity(NamedTuple):
    """How far the answers of an exported file are from those of the network in PyTorch.

    Attributes:
        images: how many, or how many texts, were compared.
        origin: where they come from.
        batches: their sizes: a file for one size alone would fail.
        largest_difference: of two logits of one class and image.
        largest_logit: of all, to read that by.
        agreement: share of images with the same most probable class.
        accuracy: of the network on them; None for made pictures.
        exported_accuracy: of the file.
    """

    images: int
    origin: str
    batches: list[int]
    largest_difference: float
    largest_logit: float
    agreement: float
    accuracy: float | None
    exported_accuracy: float | None

    def __str__(self) -> str:
        text = (
            f"largest difference of logits {self.largest_difference:.2g} (of logits up to {self.largest_logit:.3g}), "
            f"agreement {self.agreement:.2%}"
        )
        if self.accuracy is None or self.exported_accuracy is None:
            return f"{text}, on {self.images} {self.origin}"
        accuracy = f"accuracy {self.exported_accuracy:.2%} (in PyTorch {self.accuracy:.2%})"
        return f"{text}, {accuracy}, on {self.images} {self.origin}"


@torch.no_grad()
def compare_answers(network: Network, runner: Runner, pictures: Pictures) -> Parity:
    """Compare an exported file with its network on batches of different sizes.

    Args:
        network: that was exported.
        runner: of the file.
        pictures: pixel values from 0 to 1, with labels where they are known.
    """
    ours, theirs, batches = [], [], []
    for pixels in _batches(pictures.pixels):
        normalised = network.normalise(pixels)
        # The network itself, not as it was wrapped: that is what the weights were trained in.
        ours.append(Network.forward(_plain(network), normalised))
        theirs.append(runner(pixels if network.pixels else normalised))
        batches.append(len(pixels))
    return compared(torch.cat(ours), torch.cat(theirs), pictures.labels, pictures.origin, sorted(set(batches)))


def compared(expected: Tensor, got: Tensor, labels: Tensor | None, origin: str, batches: list[int]) -> Parity:
    """Compare two networks' logits of the same rows; for the arguments see :class:`Parity`."""
    difference = (expected - got).abs().nan_to_num(nan=float("inf"))
    return Parity(
        len(expected),
        origin,
        batches,
        float(difference.max()),
        float(expected.abs().max()),
        _share(expected.argmax(1), got.argmax(1)),
        None if labels is None else _share(expected.argmax(1), labels),
        None if labels is None else _share(got.argmax(1), labels),
    )


def as_report(parity: Parity, tolerance: float) -> dict[str, Any]:
    """Return the figures as plain values."""
    return {**parity._asdict(), "tolerance": tolerance, "text": str(parity)}


def _plain(network: Network) -> Network:
    plain = Network.__new__(Network)
    plain.__dict__.update(network.__dict__, pixels=False)
    return plain


def _batches(pixels: Tensor) -> Iterator[Tensor]:
    sizes: list[int] = []
    for size in _FIRST_BATCHES:
        if sum(sizes) + size < len(pixels):
            sizes.append(size)
    rest = len(pixels) - sum(sizes)
    sizes += [_BATCH] * (rest // _BATCH) + ([rest % _BATCH] if rest % _BATCH else [])
    yield from torch.split(pixels, sizes)


def _share(first: Tensor, second: Tensor) -> float:
    return float((first == second).float().mean())
