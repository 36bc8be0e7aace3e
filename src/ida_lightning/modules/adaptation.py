"""Whether a teacher and a data set are about the same images and classes."""

from __future__ import annotations

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from ida_lightning.errors import InputError
from ida_lightning.models import ImageInput


def adaptation(trained_on: ImageInput | None, given: ImageInput | None) -> tuple[Tensor, Tensor, int] | None:
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
    return old_std / new_std, (old_mean - new_mean) / new_std, trained_on.size


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
