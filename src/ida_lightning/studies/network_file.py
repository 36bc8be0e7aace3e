"""What a command is told of a weight file that does not describe itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jsonargparse import ArgumentParser

from ida_lightning.errors import at_least
from ida_lightning.models import ImageInput


def add_network_arguments(parser: ArgumentParser) -> None:
    """Add the arguments that say how the network of a file is built, and which images it has seen."""
    parser.add_argument("--network", type=str | None, default=None, help="its name, for a file that does not say")
    parser.add_argument("--network_args", type=dict[str, Any] | None, default=None, help="such as '{stem: small}'")
    parser.add_argument(
        "--image_input",
        type=tuple[list[float], list[float], int] | None,
        default=None,
        help="'[[mean, ...], [std, ...], size]', for a file that does not say",
    )


def image_input_of(options: Mapping[str, Any], said: ImageInput | None) -> ImageInput | None:
    """Return which images the network has seen: as the arguments say, else as the file does.

    Args:
        options: of the command line, with those of :func:`add_network_arguments`.
        said: by the file.
    """
    if options["image_input"] is None:
        return said
    mean, std, size = options["image_input"]
    return ImageInput(tuple(mean), tuple(std), at_least("image_input", int(size), 1))
