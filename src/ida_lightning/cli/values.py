"""Values that Lightning's parser takes and that it, PyTorch or NumPy would refuse later, or misuse in silence."""

from __future__ import annotations

import inspect
from collections.abc import Collection, Iterator
from contextlib import contextmanager

import lightning as L
from jsonargparse import Namespace
from lightning.fabric.utilities.exceptions import MisconfigurationException

from ida_lightning.cli.messages import one_line
from ida_lightning.errors import InputError, at_least, non_negative, whole_number

# The data module's attribute and the model's argument that is taken from it.
LINKS = {"num_classes": "num_classes", "channels": "in_channels", "image_size": "image_size"}
_LEAST = {"accumulate_grad_batches": 1, "check_val_every_n_epoch": 1, "log_every_n_steps": 0, "min_epochs": 0}
_LEAST |= {"min_steps": 0, "num_sanity_val_steps": -1, "fast_dev_run": 0, "reload_dataloaders_every_n_epochs": 0}
_LEAST |= {"max_epochs": -1, "max_steps": -1}


@contextmanager
def refusing_trainers() -> Iterator[None]:
    """Report what a Trainer refuses when it is built as one line; inside, nothing else is done."""
    try:
        yield
    except (ValueError, TypeError, ImportError, RuntimeError, MisconfigurationException) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"trainer: {one_line(str(error))}") from error


def check_values(arguments: Namespace) -> None:
    """Check the Trainer's numbers and the seed.

    Raises:
        InputError: naming the first one that is out of range.
    """
    seed = arguments.get("seed_everything")
    if seed is not None and not isinstance(seed, bool):
        whole_number("seed_everything", seed, 0, 2**32 - 1)
    for name, least in _LEAST.items():
        value = arguments.get(f"trainer.{name}")
        if value is not None and not isinstance(value, bool):
            at_least(f"trainer.{name}", value, least)
    clip = arguments.get("trainer.gradient_clip_val")
    if clip is not None:
        non_negative("trainer.gradient_clip_val", clip)
    if arguments.get("trainer.val_check_interval") == 0:
        raise InputError("trainer.val_check_interval: expected a number of batches or a share of them, got 0")


def check_links(
    given: Namespace, model: L.LightningModule, data: L.LightningDataModule | None, explicit: Collection[str]
) -> None:
    """Check that the model was not told anything else of the data than they say: they would decide in silence.

    Args:
        given: the model's arguments as parsed.
        model: that was built with what the data say.
        data: likewise.
        explicit: names of arguments that stand on the command line itself.

    Raises:
        InputError: for another number of classes, channels or pixels.
    """
    parameters = inspect.signature(type(model)).parameters
    for source, target in LINKS.items():
        said, value = getattr(data, source, None), given.get(target)
        default = parameters[target].default if target in parameters else None
        meant = value is not None and (value != default or target in explicit)
        if said is not None and meant and value != said:
            raise InputError(f"model.{target}: expected {said}, as the data say, or nothing, got {value}")
