"""Measures T. stddev of the paper's augmentations, which ranks them for distillation without a student."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from copy import copy

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor

from ida_lightning.data import Augmentation, MixingDataModule
from ida_lightning.errors import InputError
from ida_lightning.inputs import as_pictures
from ida_lightning.metrics import prediction_entropy
from ida_lightning.metrics.running import TeacherStddev
from ida_lightning.mixing import Mixing, mix_images
from ida_lightning.picking import pick
from ida_lightning.studies.audit.measure import training_batches
from ida_lightning.studies.audit.report import Measurement

# Of 64 images clean and 64 augmented; the paper's number.
STEPS = 5
# In the paper's order on CIFAR-100, the worst first (figure of the NeurIPS version; the first two are level there).
AUGMENTATIONS = {
    "identity": 1.5,
    "flip": 1.5,
    "crop_flip": 3.0,
    "cutout": 4.0,
    "randaugment": 5.0,
    "mixup": 6.0,
    "cutmix": 7.0,
    "cutmixpick_student": 8.0,
    "cutmixpick_teacher": 9.0,
}


def measure_stddev(
    data: MixingDataModule,
    batches: int,
    teacher: Callable[[Tensor], Tensor],
    student: Callable[[Tensor], Tensor] | None,
    device: torch.device,
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> list[Measurement]:
    """Show the teacher training images, augmented as in training, each time beside further augmented ones.

    Both count, as in the paper: a vector is the mean of the teacher's probabilities over 5 steps of a clean and an
    augmented batch. ``identity`` has the clean images twice. ``crop_flip`` pads by an eighth of the image, ``cutout``
    covers a square of a quarter of its side, ``randaugment`` (2 operations of strength 9) stands for AutoAugment; these
    are drawn for every image, where the released code draws once for the batch. mixup and CutMix are drawn for the
    batch, as there; ``cutmixpick`` takes the half of two CutMixes with the highest entropy. The CutMix is the first of
    the two.

    Args:
        data: set up.
        batches: how many; the paper takes 10 epochs of batches of 64. Values compare only where the batch size is the
            same.
        teacher: from images to logits.
        student: likewise, to pick by its entropy; None leaves that out.
        device: where the images go.
        progress: wraps the numbers of the batches.

    Returns:
        One number for each augmentation, in the paper's order, with the number of augmented images behind it. Images
        of other than 1 or 3 channels have no RandAugment.

    Raises:
        InputError: for fewer batches than two vectors need.

    References:
        Wang et al., NeurIPS 2022, arXiv 2012.02909; see :class:`~ida_lightning.metrics.running.TeacherStddev`.
    """
    if batches < 2 * STEPS:
        raise InputError(f"stddev_batches: expected at least {2 * STEPS}, for two vectors, got {batches}")
    view = copy(data)
    view.trainer = None  # no process but this one, and epoch 0
    metrics: dict[str, TeacherStddev] = {}
    rows = 0
    for epoch, number, plain in training_batches(view, batches, device, progress):
        images, rng = as_pictures("stddev_batches", plain.inputs), view.batch_generator(epoch, number)
        answers = _answers(data, data.augmentation.apply(images, rng, data.mean), rng, teacher, student)
        rows += len(images)  # a pick is half of two batches
        for name, logits in answers.items():
            metric = metrics.setdefault(name, TeacherStddev(data.num_classes, 2 * STEPS).to(device))
            for shown in (answers["identity"], logits):
                metric.update(shown[torch.isfinite(shown).all(1)].softmax(1))
    return [
        Measurement(name, "all", "t_stddev", float(metrics[name].compute()), rows)
        for name in AUGMENTATIONS
        if name in metrics
    ]


def _answers(
    data: MixingDataModule,
    images: Tensor,
    rng: np.random.Generator,
    teacher: Callable[[Tensor], Tensor],
    student: Callable[[Tensor], Tensor] | None,
) -> dict[str, Tensor]:
    """Return the teacher's logits of uint8 images and of every augmentation, each with its own random numbers."""
    plain = {
        "flip": Augmentation(flip=True),
        "crop_flip": Augmentation(flip=True, crop_padding=max(1, data.image_size // 8)),
        "cutout": Augmentation(cutout=max(1, data.image_size // 4)),
    }
    if data.channels in (1, 3):
        plain["randaugment"] = Augmentation(randaugment=2)
    cutmix = Mixing("cutmix", per_sample=False, distinct=True)
    mixings = {"mixup": Mixing("mixup", per_sample=False), "cutmix": cutmix, "second": cutmix}
    streams = dict(zip((*plain, *mixings), rng.spawn(len(plain) + len(mixings)), strict=True))
    clean = data.normalise(images)
    shown = {"identity": clean}
    for name, augmentation in plain.items():
        shown[name] = data.normalise(augmentation.apply(images, streams[name], data.mean))
    for name, mixing in mixings.items():
        plan = mixing.draw(len(clean), (clean.shape[2], clean.shape[3]), streams[name])
        shown[name] = clean if plan is None else mix_images(clean, plan)
    answers = {name: teacher(view) for name, view in shown.items()}
    pool = torch.cat((answers["cutmix"], answers.pop("second")))
    answers["cutmixpick_teacher"] = pool[pick(prediction_entropy(pool), 0.5)]
    if student is not None:
        own = student(torch.cat((shown["cutmix"], shown["second"])))
        answers["cutmixpick_student"] = pool[pick(prediction_entropy(own), 0.5)]
    return answers


def agreement_with_paper(measurements: Iterable[Measurement]) -> float:
    """Return Spearman's rank correlation of T. stddev here and in the paper, over the measured augmentations."""
    pairs = [(-AUGMENTATIONS[measured.mixing], measured.value) for measured in measurements]
    return float(spearmanr(*zip(*pairs, strict=True)).statistic)
