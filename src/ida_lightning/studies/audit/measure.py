"""Measures what a teacher answers on training images, row by row."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from copy import copy
from dataclasses import replace
from itertools import islice
from typing import NamedTuple, get_args

import numpy as np
import torch
from torch import Tensor

from ida_lightning.data import LabelledDataModule
from ida_lightning.data_facts import facts_from
from ida_lightning.errors import InputError
from ida_lightning.inputs import Inputs, is_picture
from ida_lightning.isotonic import Space, correct_soft_labels
from ida_lightning.label_mix import LabelMix
from ida_lightning.metrics import kl_divergence, moved_mass, order_statistics, violated_rows
from ida_lightning.mixing import MixedBatch, Mixing, MixingKind
from ida_lightning.teacher_outputs import OutputStore, Place
from ida_lightning.truth import missed_rows

SPACES: tuple[Space, ...] = get_args(Space)
CORRECTIONS = (*SPACES, "revision")
_ENOUGH = 10_000  # images, unless a number of batches is given
Revise = Callable[[Tensor, LabelMix, float], Tensor]
"""From soft labels, their mixes and the temperature to revised soft labels."""
Look = Callable[[str, MixedBatch, Tensor], None]
"""Looks at the way of mixing, a batch of it and the teacher's logits."""

Inside = Callable[[MixedBatch, int, int], AbstractContextManager[None]]


class Rows(NamedTuple):
    """One value per image and quantity.

    Attributes:
        labels: int64 ``(rows, 2)``, the two heaviest classes; the same one twice where the image has only one.
        heaviest: float64 ``(rows,)``, the share of the heaviest class.
        classes: int64 ``(rows,)``, how many classes the image has.
        values: float64 ``(rows,)`` by name; see :func:`measure_rows`.
        nonfinite: how many further rows were left out because the teacher's logits were NaN or infinite.
    """

    labels: np.ndarray
    heaviest: np.ndarray
    classes: np.ndarray
    values: dict[str, np.ndarray]
    nonfinite: int


def corrected_name(quantity: str, space: str, temperature: float) -> str:
    """Name a quantity of a correction, such as ``moved_mass/logits/T4.5``."""
    return f"{quantity}/{space}/T{temperature:g}"


def takes_rectangles(data: LabelledDataModule) -> bool:
    """Say whether inputs have height and width, so that CutMix is among the ways of mixing them.

    Raises:
        InputError: for a configured way of mixing that needs them where there are none.
    """
    if data.inner_layers:
        return False
    if is_picture(facts_from(data).example()):
        return True
    if data.mixing.kind not in ("none", "mixup"):
        raise InputError(
            f"mixing.kind: expected mixup or none for inputs without height and width, got {data.mixing.kind}"
        )
    return False


def audited_mixings(configured: Mixing, rectangles: bool = True) -> dict[str, Mixing]:
    """Return the audited ways of mixing by name: alpha as configured, every image mixed, draws per sample.

    Args:
        configured: in the run.
        rectangles: whether CutMix is among them.
    """
    kinds: list[MixingKind] = ["mixup", "cutmix", "both"] if rectangles else ["mixup"]
    if configured.kind == "mosaic":
        kinds.append("mosaic")
    common = replace(configured, kind="mixup", probability=1.0, cutmix_share=0.5, per_sample=True)
    mixings: dict[str, Mixing] = {"clean": Mixing("none")}
    for kind in kinds:
        images = configured.images if kind in ("mixup", "both") else 2
        mixings[kind] = replace(common, kind=kind, images=images)
    return mixings


def measure(
    data: LabelledDataModule,
    batches: int | None,
    temperature: float,
    teacher: Callable[[Inputs], Tensor],
    device: torch.device,
    revise: Revise,
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
    stored: OutputStore | None = None,
    look: Look = lambda mixing, batch, logits: None,
    inside: Inside = lambda batch, epoch, number: nullcontext(),
) -> dict[str, Rows]:
    """Show the teacher training images of the run's first steps, clean and mixed in every way, and validation images.

    All ways of mixing get the same images with the same augmentation, and all draws come from the data module's own
    generators: the configured way is, image for image, what the student of that run would see (if it draws per sample
    and mixes always, as by default).

    Args:
        data: set up.
        batches: how many; see :func:`training_batches`.
        temperature: of the soft labels.
        teacher: from inputs to logits.
        device: where the images go.
        revise: the label revision that is measured beside the correction.
        progress: wraps the numbers of the batches, to show how far it is.
        stored: the teacher's answers to the run's own pictures, read in its place where they are those looked at.
        look: is called with every mixed batch and the teacher's logits of it.
        inside: gives a context in which the teacher mixes a batch inside, by epoch and number.

    Returns:
        The measured rows, by way of mixing and, if there are such images, for ``validation``.

    Raises:
        InputError: for a training split without a batch, and a teacher whose logits are never finite.
    """
    mixings = audited_mixings(data.mixing, takes_rectangles(data))
    views = {name: copy(data) for name in mixings}
    for name, mixing in mixings.items():
        views[name].mixing = mixing
        views[name].pool = 0
        views[name].trainer = None  # no process but this one, and epoch 0
    parts: dict[str, list[tuple[dict[str, Tensor], int]]] = {name: [] for name in (*views, "validation")}
    for epoch, number, plain in training_batches(views["clean"], batches, device, progress):
        for name, view in views.items():
            batch = view.mix(plain, view.batch_generator(epoch, number))
            shown_in_fit = data.pool == 0 and view.mixing == data.mixing
            answers = stored.read(Place(epoch, number, 0), batch) if stored is not None and shown_in_fit else None
            with inside(batch, epoch, number):
                logits = teacher(batch.inputs) if answers is None else answers.logits
            parts[name].append(_measured(logits, batch.label_mix, temperature, revise))
            look(name, batch, logits)
    for batch in islice(data.val_dataloader(), len(parts["clean"])):
        plain = data.transfer_batch_to_device(batch, device, 0)
        logits = teacher(data.normalise(plain.inputs))
        parts["validation"].append(_measured(logits, plain.label_mix, temperature, revise))
    return {name: _joined(name, batches_of) for name, batches_of in parts.items() if batches_of}


def training_batches(
    data: LabelledDataModule,
    count: int | None,
    device: torch.device,
    progress: Callable[[Iterable[int]], Iterable[int]] = iter,
) -> Iterator[tuple[int, int, MixedBatch]]:
    """Yield training batches as loaded, epoch after epoch: the epoch, the number in it, and the batch on ``device``.

    Args:
        data: set up, without a Trainer.
        count: how many; None for about 10,000 images, or one epoch if that is shorter.
        device: where they go.
        progress: wraps the numbers of the batches.

    Raises:
        InputError: for a training split without a batch.
    """
    loader = data.train_dataloader()
    try:
        length = len(loader)
    except TypeError:  # a stream of unknown length
        length = None
    if length == 0:
        raise InputError("data: expected training images, got none")
    if count is None:
        enough = -(-_ENOUGH // data.batch_size)
        count = enough if length is None else min(length, enough)
    epoch, number, batches = 0, 0, iter(loader)
    for _ in progress(range(count)):
        fetched = next(batches, None)
        if fetched is None:
            epoch, number = epoch + 1, 0
            if hasattr(told := getattr(loader, "sampler", loader), "set_epoch"):  # a stream is told itself
                told.set_epoch(epoch)
            batches = iter(loader)
            fetched = next(batches)
        yield epoch, number, data.transfer_batch_to_device(fetched, device, 0)
        number += 1


def _measured(logits: Tensor, mix: LabelMix, temperature: float, revise: Revise) -> tuple[dict[str, Tensor], int]:
    finite = torch.isfinite(logits).all(1)
    return measure_rows(logits[finite], mix.select(finite), temperature, revise), int((~finite).sum())


def _joined(name: str, parts: list[tuple[dict[str, Tensor], int]]) -> Rows:
    columns = {key: torch.cat([values[key] for values, _ in parts]).numpy() for key in parts[0][0]}
    nonfinite = sum(count for _, count in parts)
    labels, heaviest, classes = (columns.pop(key) for key in ("labels", "heaviest", "classes"))
    if not len(labels):
        raise InputError(f"teacher: expected finite logits, got NaN or infinity in all {nonfinite} {name} images")
    return Rows(labels, heaviest, classes, columns, nonfinite)


def measure_rows(logits: Tensor, label_mix: LabelMix, temperature: float, revise: Revise) -> dict[str, Tensor]:
    """Measure one batch; the quantities are on the CPU, ``(batch,)`` and float64 where nothing else is said.

    * ``labels``, ``heaviest``, ``classes``: see :class:`Rows`;
    * ``accuracy``: the largest logit is that of the heaviest class; ``missed``: of a class that is not in the image;
      ``missed_by_guessing``: the chance of that for a teacher that knows nothing;
    * ``mix_reversed``, ``rest_above``, ``violated``, ``tau``, ``covers_any``, ``covers_all`` of the logits: see
      :func:`ida_lightning.order_statistics`;
    * for the correction in each space and the revision, at the temperature and at 1: ``moved_mass`` of the soft label;
      ``correction_kl``, KL(corrected || soft label) in nats; ``to_heaviest``, ``to_others``, ``to_rest``: by how
      much the share of the heaviest class, of the image's other classes and of all the rest would grow.
    """
    order = label_mix.order()
    second = order.labels[:, 1 if order.labels.shape[1] > 1 else 0]
    mix_classes = torch.zeros_like(logits, dtype=torch.bool).scatter_(1, order.labels, True)
    measured = {
        "labels": torch.stack((order.labels[:, 0], second), 1),
        "heaviest": order.weights[:, 0].clamp(max=1),
        "classes": order.present.sum(1),
        "accuracy": logits.argmax(1) == order.labels[:, 0],
        "missed": missed_rows(logits, label_mix),
        "missed_by_guessing": 1 - order.present.sum(1) / logits.shape[1],
        **order_statistics(logits, label_mix)._asdict(),
    }
    for scale in dict.fromkeys((temperature, 1.0)):
        before, logs = (logits / scale).softmax(1), (logits / scale).log_softmax(1)
        # As the callbacks do it: what is in order stays bit for bit, or is what the revision makes of it.
        violated = violated_rows(before, label_mix)[:, None]
        afters: dict[str, Tensor] = {"revision": revise(before, label_mix, scale)}
        for space in SPACES:
            afters[space] = torch.where(violated, correct_soft_labels(before, label_mix, scale, space), before)
        for name, after in afters.items():
            gain = after - before
            to_heaviest = gain.gather(1, order.labels[:, :1])[:, 0]
            to_mix = (gain * mix_classes).sum(1)
            quantities = {
                "moved_mass": moved_mass(before, after),
                "correction_kl": torch.where((after != before).any(1), kl_divergence(after.log(), logs), 0),
                "to_heaviest": to_heaviest,
                "to_others": to_mix - to_heaviest,
                "to_rest": (gain * ~mix_classes).sum(1),
            }
            measured |= {corrected_name(key, name, scale): value for key, value in quantities.items()}
    whole = ("labels", "classes")
    # On the host first: not every accelerator has float64.
    return {name: value.cpu() if name in whole else value.cpu().double() for name, value in measured.items()}
