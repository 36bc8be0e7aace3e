"""What a training step costs: this package in Lightning beside a bare loop, timm's task and a merge in Python.

    python benchmarks/step.py [--quick] [--device cpu|cuda] [--out benchmarks/results]

writes ``step_<device>.csv``. benchmarks/README.md says what is measured and how.
"""

from __future__ import annotations

import argparse
import csv
import gc
import logging
import math
import random
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from copy import deepcopy
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import median
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

if not __package__:  # run as a file: Python looks beside this file, and the packages are one floor up
    sys.path[0] = str(Path(__file__).parents[1])

from benchmarks import _baselines as outside
from benchmarks._report import about
from benchmarks._step_clock import PARTS, WARMUP, Clock, Ticks
from benchmarks._timing import ratio
from ida_lightning.augment.augmentation import Augmentation
from ida_lightning.data import MixingDataModule
from ida_lightning.data.in_memory import InMemoryImages
from ida_lightning.files import replacing
from ida_lightning.losses import mixed_cross_entropy
from ida_lightning.methods import CutMixPickCallback, IsotonicSoftLabelCallback, TeacherLabelCallback
from ida_lightning.mixing import MixedBatch, Mixing
from ida_lightning.models import build_model
from ida_lightning.modules import DistillationModule

TEMPERATURE, SOFT, HARD = 4.5, 0.95, 0.05
BUDGETS = (("kd", "bare", 1.03), ("kd_i", "kd", 1.01), ("cutmix_pick", "tl_cutmix", 1.15))
NOTES = {
    "timm": "mixup mode batch, timm's default: one box a batch, ours draws one a row",
    "kd_i_python": "elements of the tensor; logs no metrics",
    "kd_i_python_lists": "Python lists; logs no metrics",
    "tl_cutmix": "two batches for the teacher, two for the student",
    "cutmix_pick": "three batches for the teacher, two for the student",
}
CANDIDATES = (
    "bare",
    "timm",
    "kd",
    "kd_measure",
    "kd_i",
    "kd_i_python",
    "kd_i_python_lists",
    "tl_cutmix",
    "cutmix_pick",
)
PART_NOTES = {
    "teacher": "forward",
    "student": "forward, loss, backward, optimiser",
    "data": "fetch, transfer, augment, normalise, mix",
    "correction": "the callback, metrics included",
    "rest": "the step less the above: Lightning, logging, checks",
}
COLUMNS = [
    *("device", "torch", "threads", "date", "commit", "teacher", "student", "batch", "classes", "precision"),
    *("steps", "rounds", "what", "name", "median_ms", "ratio_to_bare", "share", "note"),
]
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
        merges = {"kd_i_python": outside.python_merge, "kd_i_python_lists": outside.python_merge_lists}
        self.candidates: dict[str, Callable[[Clock], nn.Module]] = {
            "bare": self.bare,
            "timm": self.timm,
            "kd": self.fit,
            "kd_measure": partial(self.fit, strength=0.0),
            "kd_i": partial(self.fit, strength=1.0),
            **{name: partial(self.fit, merge=merge) for name, merge in merges.items()},
            "tl_cutmix": partial(self.fit, pool=1, callbacks=(TeacherLabelCallback(),)),
            "cutmix_pick": partial(self.fit, pool=2, callbacks=(TeacherLabelCallback(), CutMixPickCallback())),
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

    def timm(self, clock: Clock) -> nn.Module:
        """The task and the mixing of timm, on our augmented images, in the loop of its training script."""
        task = self.task(*self.networks())
        mixup = Mixup(mixup_alpha=0.0, cutmix_alpha=1.0, label_smoothing=0.0, num_classes=self.options.classes)

        def losses() -> Iterator[Tensor]:
            for batch in self.batches(clock.total, mix=False):
                images, targets = mixup(batch.inputs, batch.label_mix.labels[:, 0])
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

    def fit(
        self,
        clock: Clock,
        strength: float | None = None,
        merge: Callable[..., Tensor] | None = None,
        timed: bool = False,
        pool: int = 0,
        callbacks: Sequence[L.Callback] = (),
    ) -> nn.Module:
        """Lightning: without correction, with our callback, with another merge in its place, or with other ones."""
        options, (teacher, student) = self.options, self.networks()
        module = DistillationModule(teacher, student, options.classes, optimizer=sgd)
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


def measure(bench: Bench, names: Sequence[str]) -> tuple[dict[str, list[float]], list[dict[str, float]]]:
    """Milliseconds a step of every candidate in every round, and of the parts; in an order shuffled anew each round."""
    options, order, shuffle = bench.options, list(names), random.Random(0)
    times: dict[str, list[float]] = {name: [] for name in names}
    parts: list[dict[str, float]] = []
    begun = time.monotonic()
    for number in range(options.rounds):
        # Not if a round as long as those before would take it over the budget.
        if options.minutes and number and (time.monotonic() - begun) * (1 + 1 / number) > 60 * options.minutes:
            break
        shuffle.shuffle(order)
        for place, name in enumerate(order, 1):
            sys.stderr.write(f"\rround {number + 1} of {options.rounds}: {place} of {len(order)}, {name:20}")
            gc.collect()  # of the block before
            clock = Clock(bench.device, options.steps)
            bench.candidates[name](clock)
            times[name].append(clock.ms())
            if name == "parts":
                parts.append(clock.parts())
    sys.stderr.write("\n")
    return times, parts


def lines_of(bench: Bench, times: dict[str, list[float]], parts: list[dict[str, float]]) -> list[dict[str, Any]]:
    """The lines of the CSV: one for every candidate, one for every part of a step."""
    base = {**about(bench.device), **{name: getattr(bench.options, name) for name in COLUMNS[5:11]}}
    base["rounds"] = len(times["bare"])
    budgets = {of: (than, limit) for of, than, limit in BUDGETS if {of, than} <= times.keys()}
    lines = []
    for name in (name for name in CANDIDATES if name in times):
        within = [own / bare for own, bare in zip(times[name], times["bare"], strict=True)]
        notes = [f"rounds {min(within):.3f} to {max(within):.3f}"] if name != "bare" else []
        if name in budgets:
            than, limit = budgets[name]
            notes.append(f"{ratio(times[name], times[than]):.3f} of {than}, budget {limit}")
        if name in ("kd_measure", "kd_i"):
            notes.append(f"{bench.violations:.0%} of rows break their order")
        notes += [NOTES[name]] if name in NOTES else []
        lines.append(
            {**base, "what": "candidate", "name": name, "median_ms": f"{median(times[name]):.4g}",
             "ratio_to_bare": f"{median(within):.4f}", "note": "; ".join(notes)}
        )  # fmt: skip
    for part in PARTS if parts else ():
        own = [found[part] for found in parts]
        lines.append(
            {**base, "what": "part of kd_i", "name": part, "median_ms": f"{median(own):.4g}",
             "ratio_to_bare": f"{ratio(own, times['bare']):.4f}", "share": f"{ratio(own, times['parts']):.4f}",
             "note": PART_NOTES[part]}
        )  # fmt: skip
    return lines


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description="What a training step costs.")
    add = parser.add_argument
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--out", type=Path, default=Path(__file__).parent / "results", help="folder for the CSV")
    add("--quick", action="store_true", help="tiny networks, few steps: does everything work?")
    add("--teacher", default="resnet18", help="a timm name; it gets the small stem")
    add("--student", default="resnet18", help="likewise")
    add("--batch", type=int, default=128)
    add("--classes", type=int, default=100)
    add("--images", type=int, default=50_000)
    add("--precision", choices=("32", "bf16"), default="32")
    add("--rounds", type=int, default=10)
    add("--steps", type=int, help=f"timed a round and candidate, after {WARMUP} others; 4 on a CPU, 100 on CUDA")
    add("--only", nargs="+", choices=[*CANDIDATES, "parts"], help="besides bare; all by default")
    add("--minutes", type=float, default=0, help="rounds that would end later than this are left out; 0: no limit")
    options = parser.parse_args(argv)
    if options.quick:
        options.teacher = options.student = "test_resnet"
        options.batch, options.images, options.rounds, options.steps = 8, 0, 2, 3
    options.steps = options.steps or (4 if options.device == "cpu" else 100)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch finds no CUDA device here")
    return options


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, write the CSV, print it."""
    options = parse(argv)
    bench = Bench(options)
    names = [name for name in bench.candidates if not options.only or name in {"bare", *options.only}]
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*does not have many workers")
        warnings.filterwarnings("ignore", ".*LeafSpec", FutureWarning)
        lines = lines_of(bench, *measure(bench, names))
    target = options.out / f"step_{options.device}.csv"
    options.out.mkdir(parents=True, exist_ok=True)
    with replacing(target) as unfinished, unfinished.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
    sys.stdout.write(f"{'':>20} {'ms a step':>10} {'/ bare':>8} {'share':>8}\n")
    for line in lines:
        figures = f"{line['median_ms']:>10} {line['ratio_to_bare']:>8} {line.get('share', ''):>8}"
        sys.stdout.write(f"{line['name']:>20} {figures}  {line['note']}\n")
    sys.stdout.write(f"{target}\n")


if __name__ == "__main__":
    main()
