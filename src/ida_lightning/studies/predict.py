"""The command ``ida-lightning predict --weights FILE --images FOLDER``: predictions from a weight file alone."""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from typing import Any

import lightning as L

from ida_lightning.callbacks import PredictionsCallback
from ida_lightning.cli import Parser, refusing_trainers
from ida_lightning.data import ImagesDataModule
from ida_lightning.errors import InputError, at_least
from ida_lightning.models import load_network
from ida_lightning.modules import ClassificationModule
from ida_lightning.studies.console import print_line
from ida_lightning.studies.network_file import add_network_arguments, image_input_of


def is_from_weights(args: Sequence[str]) -> bool:
    """Say whether arguments of the command line are those of ``predict`` from a weight file."""
    return args[:1] == ["predict"] and any(arg.partition("=")[0] in ("--weights", "--images") for arg in args)


def predict_images(args: Sequence[str]) -> None:
    """Predict the classes of images of any size and write a table; no training config is needed.

    The file says how its network is built, what its outputs stand for and which images it has seen: both the exports
    of :class:`~ida_lightning.callbacks.ExportCallback` and checkpoints do, if the network was given by name.

    Args:
        args: of the command line, after ``predict``.

    Raises:
        InputError: for arguments or files that cannot be used.
    """
    options = read_options(args)
    try:
        loaded = load_network(options["weights"], options["network"], **(options["network_args"] or {}))
    except InputError as error:
        raise InputError(re.sub(r"^path:", "weights:", str(error))) from error
    said = loaded.description
    seen = image_input_of(options, said.image_input)
    if seen is None:
        raise InputError(
            f"weights: expected a file that says which images its network has seen, {options['weights']} does not; "
            "give image_input: '[[mean, ...], [std, ...], size]'"
        )
    count = said.num_classes or len(said.class_names or ())
    names = said.class_names or [str(number) for number in range(count)]
    data = ImagesDataModule(
        options["images"],
        names,
        seen.size,
        seen.mean,
        seen.std,
        said.crop or 1.0,
        at_least("batch_size", options["batch_size"], 1),
        at_least("num_workers", options["num_workers"], 0),
    )
    writer = PredictionsCallback(options["out"], options["top_k"])
    with refusing_trainers():
        trainer = L.Trainer(accelerator=options["accelerator"], devices=1, logger=False, callbacks=[writer])
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The '.*_dataloader' does not have many workers")
        trainer.predict(
            ClassificationModule(loaded.network, len(names), data.channels, seen.size),
            data,
            return_predictions=False,
        )
    print_line(f"predictions: {options['out']}")


def read_options(args: Sequence[str]) -> dict[str, Any]:
    """Read the arguments; see :func:`predict_images`."""
    parser = Parser(prog="ida-lightning predict", description=" ".join((__doc__ or "").split()))
    parser.add_argument("--weights", type=str, required=True, help="a safetensors export or a checkpoint")
    parser.add_argument("--images", type=str, required=True, help="a folder of images, however deep, or one image")
    parser.add_argument("--out", type=str, default="outputs/predictions.csv", help="the table")
    parser.add_argument("--top_k", type=int, default=5, help="how many classes of each image")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--num_workers", type=int, default=0, help="loader processes")
    parser.add_argument("--accelerator", type=str, default="auto", help="cpu, gpu, ...")
    add_network_arguments(parser)
    return dict(parser.parse_args(list(args)).as_dict())
