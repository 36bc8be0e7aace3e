"""How fast training images arrive: this package's pipeline beside torchvision's and timm's, and its share of a step.

    python benchmarks/data.py                    # results/data_cpu.csv
    python benchmarks/data.py --device cuda      # results/data_cuda.csv

All three yield the same thing, batches of CIFAR-shaped images after random crop, flip, normalisation and CutMix.
"""

from __future__ import annotations

import argparse
import csv
import random
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

if not __package__:  # run as a file: Python looks beside this file, and the packages are one floor up
    sys.path[0] = str(Path(__file__).parents[1])

from timm.data import FastCollateMixup, create_loader
from timm.data.transforms import ToNumpy
from torchvision.transforms import v2

from benchmarks._report import about
from ida_lightning.augment.augmentation import Augmentation
from ida_lightning.data import MixingDataModule
from ida_lightning.data.in_memory import InMemoryImages
from ida_lightning.files import replacing
from ida_lightning.mixing import Mixing
from ida_lightning.models import build_model

CLASSES, SIZE, PADDING = 100, 32, 4
MEAN, STD = (0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)
COLUMNS = ("device", "torch", "threads", "date", "commit", "what", "batch", "workers", "value", "unit", "note")


class Pictures(Dataset[Any]):
    """What ``torchvision.datasets.CIFAR100`` holds and does per item, on random pixels."""

    def __init__(self, count: int) -> None:
        rng = np.random.default_rng(0)
        self.data = rng.integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)
        self.targets = rng.integers(0, CLASSES, count).tolist()
        self.transform: Callable[[Image.Image], Any] | None = None

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, row: int) -> tuple[Any, int]:
        image = Image.fromarray(self.data[row])
        return self.transform(image) if self.transform else image, self.targets[row]


class InMemory(MixingDataModule):
    """The same pixels in this package's pipeline."""

    class_names = [str(label) for label in range(CLASSES)]  # noqa: RUF012
    channels, image_size, mean, std = 3, SIZE, MEAN, STD

    def __init__(self, pictures: Pictures, **kwargs: Any) -> None:
        super().__init__(mixing=Mixing("cutmix"), augmentation=Augmentation(PADDING, flip=True), seed=0, **kwargs)
        self.pictures = pictures

    def load(self) -> dict[str, InMemoryImages]:
        """All of them are for training."""
        images = torch.from_numpy(self.pictures.data).permute(0, 3, 1, 2).contiguous()
        return {"train": InMemoryImages(images, torch.tensor(self.pictures.targets))}


def ours(pictures: Pictures, batch: int, device: torch.device) -> Iterator[Tensor]:
    """Batches of this package, without end."""
    data = InMemory(pictures, batch_size=batch)
    data.setup("fit")
    loader = data.train_dataloader()
    for epoch in range(sys.maxsize):
        loader.sampler.set_epoch(epoch)
        for number, fetched in enumerate(loader):
            moved = type(fetched)(*(_move(field, device) for field in fetched))
            yield data.mix(moved, data.batch_generator(epoch, number)).inputs


def _move(field: Any, device: torch.device) -> Any:
    if isinstance(field, Tensor):
        return field.to(device, non_blocking=True)
    return type(field)(*(_move(part, device) for part in field))


def torchvision_pipeline(pictures: Pictures, batch: int, workers: int, device: torch.device) -> Iterator[Tensor]:
    """Transforms per image in worker processes, CutMix on the batch: torchvision's own recipe."""
    pictures.transform = v2.Compose(
        [
            v2.RandomCrop(SIZE, padding=PADDING),
            v2.RandomHorizontalFlip(),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(MEAN, STD),
        ]
    )
    cutmix = v2.CutMix(num_classes=CLASSES)
    loader = DataLoader(
        pictures, batch, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=workers > 0,
        pin_memory=device.type == "cuda",
    )  # fmt: skip
    while True:
        for images, labels in loader:
            mixed, _ = cutmix(images.to(device, non_blocking=True), labels.to(device, non_blocking=True))
            yield mixed


def timm_pipeline(pictures: Pictures, batch: int, workers: int, device: torch.device) -> Iterator[Tensor]:
    """The loader of timm: uint8 until the batch, CutMix while collating, normalisation on the device."""
    loader = create_loader(
        pictures, (3, SIZE, SIZE), batch, is_training=True, mean=MEAN, std=STD, num_workers=workers, device=device,
        collate_fn=FastCollateMixup(mixup_alpha=0.0, cutmix_alpha=1.0, label_smoothing=0.0, num_classes=CLASSES),
        persistent_workers=workers > 0, pin_memory=device.type == "cuda",
    )  # fmt: skip
    # timm has no crop after padding; its own conversion, with the operations of the others before it.
    pictures.transform = v2.Compose([v2.RandomCrop(SIZE, padding=PADDING), v2.RandomHorizontalFlip(), ToNumpy()])
    while True:
        for images, _ in loader:
            yield images


def rates(
    streams: dict[str, Iterator[Tensor]], batch: int, batches: int, rounds: int, device: torch.device
) -> dict[str, list[float]]:
    """Images per second of every stream, once a round, in an order shuffled anew each round.

    Worker processes would go on reading ahead while another stream is timed, so each is first drained of what it has
    read ahead, at most two batches a worker, and then timed.
    """
    order, found = list(streams), {name: [] for name in streams}
    shuffle = random.Random(0)
    for _ in range(rounds):
        shuffle.shuffle(order)
        for name in order:
            for _ in range(8):
                next(streams[name])
            _wait(device)
            start = time.perf_counter()
            for _ in range(batches):
                next(streams[name])
            _wait(device)
            found[name].append(batches * batch / (time.perf_counter() - start))
    return found


def step_seconds(batch: int, repeats: int, device: torch.device) -> float:
    """One KD step of two ResNet-18 at 32 x 32: teacher forward, student forward, backward and update."""
    teacher, student = (build_model("resnet18", CLASSES, 3, stem="small").to(device) for _ in range(2))
    teacher.eval()
    optimiser = torch.optim.SGD(student.parameters(), 0.1, 0.9)
    images = torch.randn(batch, 3, SIZE, SIZE, device=device)
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        with torch.no_grad():
            target = (teacher(images) / 4).softmax(1)
        loss = torch.nn.functional.cross_entropy(student(images) / 4, target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        _wait(device)
        times.append(time.perf_counter() - start)
    return median(times[1:])


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description="How fast training images arrive.")
    add = parser.add_argument
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--out", type=Path, default=Path(__file__).parent / "results", help="folder for the CSV")
    add("--batch", type=int, default=128)
    add("--workers", type=int, default=2, help="of torchvision's and timm's loaders; ours needs none")
    add("--images", type=int, default=50_000)
    add("--batches", type=int, default=60, help="per round and pipeline")
    add("--rounds", type=int, default=7)
    add("--steps", type=int, default=3, help="training steps to time; 0 for none")
    options = parser.parse_args(argv)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch finds no CUDA device here")
    return options


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, write the CSV, print it."""
    options = parse(argv)
    device, batch = torch.device(options.device), options.batch
    streams = {
        "ours": ours(Pictures(options.images), batch, device),
        "torchvision": torchvision_pipeline(Pictures(options.images), batch, options.workers, device),
        "timm": timm_pipeline(Pictures(options.images), batch, options.workers, device),
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a loader's remark on the number of cores
        found = rates(streams, batch, options.batches, options.rounds, device)
    base = {**about(device), "batch": batch, "workers": options.workers}
    lines = [
        {**base, "what": name, "workers": 0 if name == "ours" else options.workers, "value": f"{median(values):.4g}",
         "unit": "images/s", "note": f"{min(values):.4g} to {max(values):.4g}"}
        for name, values in found.items()
    ]  # fmt: skip
    for name in ("torchvision", "timm"):
        ratio = median(ours / theirs for ours, theirs in zip(found["ours"], found[name], strict=True))
        lines.append({**base, "what": f"ours / {name}", "value": f"{ratio:.3g}", "unit": "ratio", "note": ""})
    if options.steps:
        seconds = step_seconds(batch, options.steps, device)
        share = batch / median(found["ours"]) / seconds
        lines.append({**base, "what": "KD step", "value": f"{seconds:.4g}", "unit": "s", "note": "resnet18 twice"})
        lines.append({**base, "what": "data share of a KD step", "value": f"{share:.2%}", "unit": "", "note": "ours"})
    target = options.out / f"data_{options.device}.csv"
    options.out.mkdir(parents=True, exist_ok=True)
    with replacing(target) as unfinished, unfinished.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
    for line in lines:
        sys.stdout.write(f"{line['what']:>24} {line['value']:>10} {line['unit']:8} {line['note']}\n")
    sys.stdout.write(f"{target}\n")


if __name__ == "__main__":
    main()
