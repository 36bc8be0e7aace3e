"""What a benchmark of a training step compares: this package in Lightning, a bare loop and the task of timm."""

from __future__ import annotations

import argparse
import math
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from copy import deepcopy
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import CSVLogger
from timm.data import Mixup
from timm.loss import SoftTargetCrossEntropy
from timm.task import LogitDistillationTask
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LambdaLR

from benchmarks import _baselines as outside
from benchmarks._step_clock import WARMUP, Clock, Ticks
from benchmarks._step_losses import FEATURE_LOSSES, LOGIT_LOSSES, feature_loss
from ida_lightning.augment.augmentation import Augmentation
from ida_lightning.data import MixingDataModule
from ida_lightning.data.in_memory import InMemoryImages
from ida_lightning.losses import KL, DistillationLoss, mixed_cross_entropy
from ida_lightning.methods import CutMixPickCallback, IsotonicSoftLabelCallback, TeacherLabelCallback
from ida_lightning.mixing import MixedBatch, Mixing
from ida_lightning.models import build_model
from ida_lightning.modules import DistillationModule, Teacher, TeacherOutputs
from ida_lightning.modules.options import Layout, Precision

TEMPERATURE, SOFT, HARD = 4.5, 0.95, 0.05
sgd = partial(torch.optim.SGD, lr=0.05, momentum=0.9, weight_decay=5e-4, nesterov=True)


class Pixels(MixingDataModule):
    """Random pixels of CIFAR's shape: what they show costs nothing."""

    channels, image_size = 3, 32
    mean, std = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)

    def __init__(self, train: InMemoryImages, classes: int, batch: int, pool: int = 0) -> None:
        self.class_names = [str(label) for label in range(classes)]
        super().__init__(batch, Mixing("cutmix"), Augmentation(crop_padding=4, flip=True), seed=0, pool=pool)
        self.images = train

    def load(self) -> dict[str, InMemoryImages]:
        """All of them are for training."""
        return {"train": self.images}


class FreeTeacher(nn.Module):
    """Answers without looking: what is left of a step is what it costs without a teacher."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.register_buffer("logits", logits)

    def forward(self, images: Tensor) -> Tensor:
        """Return as many rows as there are images."""
        return self.logits[: len(images)]


class InferenceTeacher(nn.Module):
    """A teacher under ``torch.inference_mode``; answers are copied, because no graph can hold them."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits."""
        with torch.inference_mode():
            logits = self.network(images)
        return logits.clone()  # type: ignore[no-any-return]


class Bench:
    """The candidates: each starts from the same weights, takes the clock's steps and returns the trained student."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options, self.device, self.violations = options, torch.device(options.device), float("nan")
        torch.manual_seed(0)
        names = (options.teacher, options.student)
        self.teacher, self.student = (build_model(name, options.classes, 3, stem="small") for name in names)
        # Enough that no epoch ends within a block, nor within Lightning's logging interval.
        rows = max(options.images, options.batch * max(51, WARMUP + options.steps + 1))
        images = torch.randint(256, (rows, 3, 32, 32), dtype=torch.uint8)
        self.images = InMemoryImages(images, torch.randint(options.classes, (rows,)))
        self.answers = Path(tempfile.mkdtemp())
        weakref.finalize(self, shutil.rmtree, self.answers, ignore_errors=True)
        merges = {"kd_i_python": outside.python_merge, "kd_i_python_lists": outside.python_merge_lists}
        self.candidates: dict[str, Callable[[Clock], nn.Module]] = {
            "bare": self.bare,
            "timm": self.timm,
            "timm_channels_last": partial(self.timm, last=True),
            "kd": self.fit,
            "kd_channels_last": partial(self.fit, layout="channels_last"),
            "kd_trial": partial(self.fit, layout="trial"),
            "kd_teacher_bf16": partial(self.fit, teacher_precision="bf16"),
            "kd_inference": partial(self.fit, inference=True),
            "kd_free": partial(self.fit, teacher=FreeTeacher(torch.randn(3 * options.batch, options.classes))),
            "kd_record": self.record,
            "kd_stored": self.replay,
            "kd_measure": partial(self.fit, strength=0.0),
            "kd_i": partial(self.fit, strength=1.0),
            **{name: partial(self.fit, merge=merge) for name, merge in merges.items()},
            "tl_cutmix": partial(self.fit, pool=1, callbacks=(TeacherLabelCallback(),)),
            "cutmix_pick": partial(self.fit, pool=2, callbacks=(TeacherLabelCallback(), CutMixPickCallback())),
            **{name: partial(self.fit, distillation=loss) for name, loss in LOGIT_LOSSES.items()},
            **{name: partial(self.features, name) for name in FEATURE_LOSSES},
            "parts": partial(self.fit, strength=1.0, timed=True),
        }

    def networks(self) -> tuple[nn.Module, nn.Module]:
        """Fresh copies of teacher and student."""
        teacher, student = (deepcopy(network).to(self.device) for network in (self.teacher, self.student))
        return teacher.eval().requires_grad_(False), student.train()

    def batches(self, steps: int, mix: bool = True) -> Iterator[MixedBatch]:
        """What a Trainer would see: batches on the device, augmented, normalised and, if asked to, mixed."""
        data = Pixels(self.images, self.options.classes, self.options.batch)
        data.setup("fit")
        for number, fetched in enumerate(islice(data.train_dataloader(), steps)):
            batch, rng = _moved(fetched, self.device), data.batch_generator(0, number)
            if mix:
                yield data.mix(batch, rng)
            else:
                yield batch._replace(inputs=data.normalise(data.augmentation.apply(batch.inputs, rng, data.mean)))

    def autocast(self) -> AbstractContextManager[Any]:
        """The precision of forward passes."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.options.precision == "bf16")

    def bare(self, clock: Clock) -> nn.Module:
        """A loop in plain PyTorch that does the passes and nothing else."""
        teacher, student = self.networks()
        return _train(student, (self.loss(teacher, student, batch) for batch in self.batches(clock.total)), clock)

    def loss(self, teacher: nn.Module, student: nn.Module, batch: MixedBatch) -> Tensor:
        """The loss of :class:`DistillationModule` in plain PyTorch."""
        with self.autocast():
            with torch.no_grad():
                soft_labels = (teacher(batch.inputs).float() / TEMPERATURE).softmax(1)
            logits = student(batch.inputs).float()
        log_probs = (logits / TEMPERATURE).log_softmax(1)
        soft = F.kl_div(log_probs, soft_labels, reduction="batchmean") * TEMPERATURE**2
        return SOFT * soft + HARD * mixed_cross_entropy(logits, batch.label_mix).mean()

    def timm(self, clock: Clock, last: bool = False) -> nn.Module:
        """The task and the mixing of timm, on our augmented images, in the loop of its training script."""
        layout = torch.channels_last if last else torch.contiguous_format  # its flag --channels-last
        task = self.task(*(network.to(memory_format=layout) for network in self.networks()))
        mixup = Mixup(mixup_alpha=0.0, cutmix_alpha=1.0, label_smoothing=0.0, num_classes=self.options.classes)

        def losses() -> Iterator[Tensor]:
            for batch in self.batches(clock.total, mix=False):
                images, targets = mixup(batch.inputs, batch.label_mix.labels[:, 0])
                images = images.contiguous(memory_format=layout)
                with self.autocast():
                    result = task(images, targets)
                yield result["loss"]

        return _train(task.trainable_module, losses(), clock)

    def task(self, teacher: nn.Module, student: nn.Module) -> LogitDistillationTask:
        """Distillation in timm."""
        weights = {"distill_loss_weight": SOFT, "task_loss_weight": HARD, "temperature": TEMPERATURE}
        task = LogitDistillationTask(
            student, teacher, SoftTargetCrossEntropy(), **weights, device=self.device, verbose=False
        )
        return task.train()

    def record(self, clock: Clock) -> nn.Module:
        """Lightning, storing the teacher's answers."""
        return self.fit(clock, outputs=TeacherOutputs(str(self.answers), "record"))

    def replay(self, clock: Clock) -> nn.Module:
        """Lightning, with the stored answers in the teacher's place."""
        if not any(self.answers.iterdir()):
            self.record(Clock(self.device, clock.steps))
        return self.fit(clock, outputs=TeacherOutputs(str(self.answers), "replay"))

    def features(self, name: str, clock: Clock) -> nn.Module:
        """Lightning, with a loss between features."""
        layers = [str(entry["module"]) for entry in self.student.feature_info][-2:]  # type: ignore[union-attr, index]
        return self.fit(clock, callbacks=(feature_loss(name, layers, len(self.images)),))

    def fit(
        self,
        clock: Clock,
        strength: float | None = None,
        merge: Callable[..., Tensor] | None = None,
        timed: bool = False,
        pool: int = 0,
        callbacks: Sequence[L.Callback] = (),
        teacher: nn.Module | None = None,
        outputs: TeacherOutputs | None = None,
        layout: Layout = "contiguous",
        teacher_precision: Precision | None = None,
        inference: bool = False,
        distillation: DistillationLoss = KL(),  # noqa: B008 (frozen)
    ) -> nn.Module:
        """Lightning: without correction, with our callback, with another merge or loss, or with other callbacks."""
        options, (given, student) = self.options, self.networks()
        given = InferenceTeacher(given).eval() if inference else given
        source = Teacher(teacher or given, outputs=outputs, precision=teacher_precision)
        module = DistillationModule(
            source, student, options.classes, optimizer=sgd, layout=layout, distillation=distillation
        )
        if timed:
            module.register_supervision_hook(lambda supervision: clock.start("correction") or supervision)
        if merge is not None:
            module.register_supervision_hook(lambda s: s._replace(soft_labels=merge(s.soft_labels, s.label_mix)))
        correction = [] if strength is None else [IsotonicSoftLabelCallback(strength=strength)]
        with tempfile.TemporaryDirectory() as folder:
            trainer = L.Trainer(
                accelerator="gpu" if clock.cuda else "cpu", devices=1,
                precision="bf16-mixed" if options.precision == "bf16" else "32-true",
                max_steps=clock.total, limit_val_batches=0, logger=CSVLogger(folder), log_every_n_steps=50,
                callbacks=[*callbacks, *correction, Ticks(clock, timed)], profiler=clock if timed else None,
                enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
                default_root_dir=folder,
            )  # fmt: skip
            trainer.fit(module, datamodule=Pixels(self.images, options.classes, options.batch, pool))
        if strength is not None:
            self.violations = float(trainer.callback_metrics["train/violation_rate"])
        return module.student


def _train(student: nn.Module, losses: Iterator[Tensor], clock: Clock) -> nn.Module:
    """Lower each loss as it comes, with the optimiser and the schedule of :class:`DistillationModule`."""
    optimiser = sgd(student.parameters())
    warmup = math.ceil(0.05 * clock.total)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, clock.total - warmup)))

    scheduler = LambdaLR(optimiser, factor)
    for loss in losses:
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        scheduler.step()
        clock.tick()
    return student


def _moved(field: Any, device: torch.device) -> Any:
    if isinstance(field, Tensor):
        return field.to(device, non_blocking=True)
    return type(field)(*(_moved(part, device) for part in field))
