"""Audits of any teacher on the batches of any loader, from Python."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from contextlib import contextmanager
from itertools import chain, islice
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ida_lightning.adapters import as_mixed_batch
from ida_lightning.data import InMemoryInputs, LabelledDataModule
from ida_lightning.data.decoded import attribute_of
from ida_lightning.errors import InputError, at_least
from ida_lightning.inputs import is_picture, on_each
from ida_lightning.mixing import MixedBatch, Mixing
from ida_lightning.models import logits_of, run_network
from ida_lightning.modules import DistillationModule
from ida_lightning.studies.audit.report import Report
from ida_lightning.studies.audit.run import write_audit
from ida_lightning.studies.audit.verdict import Verdict


def audit_teacher(
    teacher: Callable[..., Any],
    loader: Iterable[Any],
    methods: Sequence[L.Callback] = (),
    mixing: Mixing = Mixing(),  # noqa: B008 (frozen)
    temperature: float = 4.5,
    batches: int | None = None,
    out: str = "outputs/audit",
) -> tuple[Report, Verdict]:
    """Say whether a teacher breaks orders on mixed images of a loader, and what a correction would change.

    The same as ``ida-lightning audit``, for networks and data of one's own: nothing is trained, and the teacher is as
    it was afterwards. The images are mixed here, so the loader gives them unmixed, as the teacher is to see them.

    Args:
        teacher: a module, which is asked on its device and in evaluation mode, or any function, from inputs to logits
            ``(batch, classes)``.
        loader: of ``(inputs, labels)``, see :func:`ida_lightning.as_mixed_batch`: images float
            ``(batch, channels, height, width)`` or inputs of any other kind, labels int64 ``(batch,)``.
        methods: that a run would use. What is measured of them is measured as they are configured; the message and
            the report name those that are not.
        mixing: that a run would use; ``Mixing("mixup")`` for inputs that are no images.
        temperature: of the soft labels.
        batches: how many; None for about 10,000 images, or one pass if that is shorter.
        out: the folder for audit.json, audit.csv, audit.png and audit.html.

    Returns:
        All numbers, and the verdict, which are also printed.

    Raises:
        InputError: for batches of another kind, fewer than asked for, or of images that are mixed already, and for a
            teacher that gives no finite logits.

    Example:
        >>> import contextlib, io, tempfile
        >>> loader = [(torch.rand(8, 3, 4, 4), torch.arange(8) % 3)]
        >>> with contextlib.redirect_stdout(io.StringIO()):  # nothing to read here
        ...     report, verdict = audit_teacher(lambda images: images.mean((2, 3)), loader, out=tempfile.mkdtemp())
        >>> verdict.code
        'teacher_first'
    """
    if batches is not None:
        at_least("batches", batches, 1)
    module = teacher if isinstance(teacher, nn.Module) else _Function(teacher)
    with _as_it_was(module):
        device = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
        first, loader = _first_of(loader)
        inputs = on_each(lambda tensor: tensor.to(device), first.inputs)
        with torch.no_grad():
            classes = logits_of(run_network(module.eval(), inputs), "teacher").shape[1]
        data = _LoaderData(loader, first, classes, mixing, batches)
        model = DistillationModule(module, nn.Identity(), classes, temperature=temperature)
        trainer = L.Trainer(
            accelerator="gpu" if device.type == "cuda" else device.type,
            devices=1 if device.index is None else [device.index],
            callbacks=list(methods),
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
        )
        result = write_audit(out, trainer, model, data, batches)
    return result


class _Function(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *inputs: Tensor, **named: Tensor) -> Any:
        return self.function(*inputs, **named)


class _Batches(Sized, Iterable[MixedBatch]):
    """So many batches of a loader, converted."""

    sampler = None

    def __init__(self, loader: Iterable[Any], count: int, classes: int) -> None:
        self.loader, self.count, self.classes = loader, count, classes

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[MixedBatch]:
        number = 0
        for batch in islice(self.loader, self.count):
            yield _unmixed(batch, self.classes)
            number += 1
        if number < self.count:
            raise InputError(f"loader: expected {self.count} batches, got {number}")


class _LoaderData(LabelledDataModule):
    """The batches of a loader, as an audit reads a data module: inputs normalised by whoever made them."""

    def __init__(
        self, loader: Iterable[Any], first: MixedBatch, classes: int, mixing: Mixing, batches: int | None
    ) -> None:
        self.unit = "images" if is_picture(first.inputs) else "inputs"
        names = attribute_of(attribute_of(loader, "dataset"), "classes")
        self.class_names = [str(name) for name in names or range(classes)]
        if len(self.class_names) != classes:
            raise InputError(f"teacher: expected the loader's {len(self.class_names)} classes, got {classes}")
        super().__init__(batch_size=len(first.index), mixing=mixing)
        length = len(loader) if isinstance(loader, Sized) else None
        if length is None and batches is None:
            raise InputError("batches: expected a number for a loader that does not know its length, got None")
        self.splits = {"first batch": InMemoryInputs(first.inputs, first.label_mix.labels[:, 0])}  # to try a teacher on
        self.batches = _Batches(loader, min(n for n in (length, batches) if n is not None), classes)

    def load(self) -> dict[str, Any]:
        """Nothing: the loader is there."""
        return {}

    def setup(self, stage: str) -> None:
        """Do nothing, and say nothing of splits that there are not."""

    def train_dataloader(self) -> DataLoader[MixedBatch]:
        """Return the loader."""
        return self.batches  # type: ignore[return-value]

    def denormalise(self, images: Tensor) -> Tensor:
        """Stretch each image to values from 0 to 1, unless it has such: nobody said how it was normalised."""
        low, high = (images.flatten(1).amin(1), images.flatten(1).amax(1))
        inside = (low >= 0) & (high <= 1)
        low, high = (torch.where(inside, bound, end)[:, None, None, None] for bound, end in ((0, low), (1, high)))
        return (images - low) / (high - low).clamp(min=1e-6)


def _first_of(loader: Iterable[Any]) -> tuple[MixedBatch, Iterable[Any]]:
    """Return the first batch and a loader that still has it."""
    iterator = iter(loader)
    first = next(iterator, None)
    if first is None:
        raise InputError("loader: expected batches, got none")
    return _unmixed(first, None), chain((first,), iterator) if iterator is loader else loader


def _unmixed(batch: Any, classes: int | None) -> MixedBatch:
    mixed = as_mixed_batch(batch, classes)
    if mixed.label_mix.labels.shape[1] > 1:
        raise InputError("loader: expected images that are not mixed, with one label each; the audit mixes them itself")
    return mixed


@contextmanager
def _as_it_was(module: nn.Module) -> Iterator[None]:
    """Leave modes and gradients of a module as they were."""
    modes = [(part, part.training) for part in module.modules()]
    gradients = [(parameter, parameter.requires_grad) for parameter in module.parameters()]
    try:
        yield
    finally:
        for part, mode in modes:
            part.training = mode
        for parameter, needed in gradients:
            parameter.requires_grad = needed
