"""Whether a teacher and a data set are about the same images and classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import timm
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.nn import functional as F

from ida_lightning.errors import InputError
from ida_lightning.files import digest_of_file
from ida_lightning.models import ImageInput, Weights, has_new_head, load_weights


def adaptation(
    trained_on: ImageInput | None, given: ImageInput | None, device: torch.device
) -> tuple[Tensor, Tensor, int] | None:
    """Return factor, shift and size that make the teacher's images, ``factor * images + shift``, of the student's."""
    if trained_on is None or trained_on == given:
        return None
    if given is None:
        rank_zero_warn(
            f"teacher: was trained on images with {trained_on}; the data module does not say (mean, std, image_size) "
            "what it gives, so the teacher gets the same as the student"
        )
        return None
    if len(trained_on.mean) != len(given.mean):
        raise InputError(
            f"teacher: expected images of {len(trained_on.mean)} channels, as it was trained on, the data module "
            f"gives {len(given.mean)}"
        )
    (old_mean, old_std), (new_mean, new_std) = (
        (torch.tensor(images.mean)[:, None, None], torch.tensor(images.std)[:, None, None])
        for images in (given, trained_on)
    )
    return (old_std / new_std).to(device), ((old_mean - new_mean) / new_std).to(device), trained_on.size


def adapted(images: Tensor, factor: Tensor, shift: Tensor, size: int) -> Tensor:
    """Return the teacher's images, made of the student's; see :func:`adaptation`."""
    images = torch.addcmul(shift.to(images.dtype), images, factor.to(images.dtype))
    if images.shape[-1] != size:
        images = F.interpolate(images, (size, size), mode="bicubic", antialias=True)
    return images


def read_finished(path: str, mapped: bool) -> tuple[str | None, Weights]:
    """Read a teacher's weights, and the SHA-256 of their file, which is no other one when they are read.

    Args:
        path: of the file.
        mapped: see :func:`ida_lightning.models.load_weights`.
    """
    digest = digest_of_file(path)
    weights = load_weights(path, "teacher_checkpoint", mapped)
    if digest_of_file(path) != digest:
        replaced = "which another process has replaced while it was read"
        raise InputError(f"teacher_checkpoint: expected a finished file, got {path}, {replaced}")
    return digest, weights


def check_classes(theirs: list[str] | None, ours: list[str] | None) -> None:
    """Refuse a teacher whose classes are not those of the data set, where both are known."""
    if theirs is None or ours is None or theirs == ours:
        return
    if len(theirs) != len(ours):
        detail = f"it has {len(theirs)} classes, the data set {len(ours)}"
    else:
        i = next(i for i, (a, b) in enumerate(zip(theirs, ours, strict=True)) if a != b)
        detail = f"class {i} is {theirs[i]!r} in the file and {ours[i]!r} in the data set"
    raise InputError(f"teacher_checkpoint: expected the classes of the data set, got others: {detail}")


def check_head(network: nn.Module, source: object, num_classes: int) -> None:
    """Refuse a pretrained network whose last layer is new, because its weights are for other classes."""
    if has_new_head(network, num_classes):
        raise InputError(
            f"teacher: expected the student's {num_classes} classes, the pretrained {source!r} has "
            "others; give a teacher_checkpoint that was trained on these classes, or teacher_classes"
        )


def check_pretrained(name: str, args: Mapping[str, Any], num_classes: int | None) -> None:
    """Refuse a named teacher without a weight file that does not come with weights for the student's classes.

    Args:
        name: of the network.
        args: further arguments of :func:`ida_lightning.models.build_model`.
        num_classes: the student's; None where some of the teacher's outputs are chosen.
    """
    if not args.get("pretrained"):
        raise InputError(
            f"teacher_checkpoint: expected a weight file (or pretrained: true in teacher_args) for {name!r}, got "
            "none; an untrained teacher teaches nothing"
        )
    # timm would replace a head of another width by a random one, with a line in the log.
    config = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    if config is not None and num_classes is not None and config.num_classes != num_classes:
        raise InputError(
            f"teacher: expected the student's {num_classes} classes, the pretrained {name!r} has "
            f"{config.num_classes}; give a teacher_checkpoint that was trained on these classes, or teacher_classes"
        )
