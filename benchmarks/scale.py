"""What runs on ImageNet-1k and -21k cost at 1, 8 and 64 GPUs: measured per image where a CPU can tell, else arithmetic.

    python benchmarks/scale.py --images DIR     # DIR has photographs in train/<class>/

Measured here: photographs that one core decodes and crops to 224 pixels (as they are, and made as large as ImageNet's
mostly are), operations of the networks (counted by PyTorch, on no device), bytes of stored answers. Assumed: a GPU and
how much of its peak a run reaches, ``--peak`` and ``--share``. Prints Markdown for docs/design/scale.md.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Iterator
from functools import cache
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np
import timm
import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from ida_lightning.data import ImageFolderDataModule
from ida_lightning.mixing import Mixing
from ida_lightning.teacher_outputs import Encoding

GPUS = (1, 8, 64)
STUDENT, TEACHERS = "resnet50", ("resnet152", "vit_large_patch16_224", "vit_giant_patch14_224")
BATCH, SHARD = 256, 256e6  # images of a step on one GPU; bytes of a file of packed images


class Run(NamedTuple):
    """A data set, and how often it is seen."""

    name: str
    images: int
    classes: int
    epochs: int


class Cost(NamedTuple):
    """Floating point operations of one image's forward pass, and parameters."""

    forward: float
    parameters: int


RUNS = (Run("ImageNet-1k", 1_281_167, 1000, 300), Run("ImageNet-21k", 11_797_632, 10_450, 90))


@cache
def cost_of(network: str, classes: int) -> Cost:
    """Count the operations of one image of 224 pixels; a multiplication and its addition are two."""
    with torch.device("meta"):
        built = timm.create_model(network, num_classes=classes).eval()
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            built(torch.empty(1, 3, 224, 224))
    return Cost(float(counter.get_total_flops()), sum(p.numel() for p in built.parameters()))


def rate(student: Cost, teacher: float, flops: float) -> float:
    """Return images a second of one GPU: the student forwards and backwards (three passes), the teacher forwards."""
    return flops / (3 * student.forward + teacher)


def hours(run: Run, per_second: float, gpus: int) -> float:
    """Return the hours of a whole run."""
    return run.images * run.epochs / (per_second * gpus) / 3600


def stored(run: Run, precision: str, top_k: int | None) -> float:
    """Return the bytes of the answers to one epoch."""
    encoding = Encoding("half" if precision == "half" else "exact", top_k)
    return run.images * (np.dtype(encoding.fields(128, run.classes)).itemsize / 128 + 8)


def wire(parameters: int, bytes_each: int, times: int, gpus: int) -> float:
    """Return what a GPU sends in a step for a ring over all of them: (n - 1) / n of the bytes, so many times."""
    return times * parameters * bytes_each * (gpus - 1) / gpus


def enlarged(folder: str, into: str, count: int) -> None:
    """Write photographs of the size that ImageNet's mostly have, 500 x 375, made of those of a folder."""
    for number, file in enumerate(islice(sorted(Path(folder, "train").rglob("*.JPEG")), count)):
        target = Path(into, "train", str(number % 2), f"{number}.JPEG")
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.open(file).convert("RGB").resize((500, 375), Image.Resampling.BICUBIC).save(target, quality=95)


def photographs(folder: str, batches: int) -> tuple[float, float]:
    """Return the mean bytes of a file, and how many one core decodes and crops in a second."""
    files = list(Path(folder, "train").rglob("*.JPEG"))
    data = ImageFolderDataModule(folder, 224, batch_size=32, num_workers=0, mixing=Mixing("none"))
    data.setup("fit")
    loader = iter(data.train_dataloader())
    next(loader)
    begin = time.process_time()
    rows = sum(len(batch.inputs) for batch in islice(loader, batches))
    return sum(file.stat().st_size for file in files) / len(files), rows / (time.process_time() - begin)


def lines(size: float, decoded: float, flops: float) -> Iterator[str]:
    """Yield the tables."""
    yield "| run | teacher | GFLOP/image | images/s a GPU | GPU hours | with 8 | with 64 | an epoch asked | student |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for run in RUNS:
        student = cost_of(STUDENT, run.classes)
        without = rate(student, 0, flops)
        for name in TEACHERS:
            teacher = cost_of(name, run.classes)
            live = rate(student, teacher.forward, flops)
            whole = [hours(run, live, gpus) for gpus in GPUS]
            yield (
                f"| {run.name} | {name} | {(3 * student.forward + teacher.forward) / 1e9:.0f} | {live:,.0f} | "
                f"{whole[0]:,.0f} | {whole[1]:,.0f} | {whole[2]:,.1f} | "
                f"{run.images * teacher.forward / flops / 3600:,.2f} | {hours(run, without, 1):,.0f} |"
            )
    yield ""
    yield "| what a GPU takes, images/s | cores that decode | MB/s of JPEG | MB/s decoded | MB/s of answers, half |"
    yield "|---|---|---|---|---|"
    student = cost_of(STUDENT, 1000)
    for name in (None, *TEACHERS):
        speed = rate(student, 0 if name is None else cost_of(name, 1000).forward, flops)
        answers = stored(RUNS[0], "half", None) / RUNS[0].images
        yield (
            f"| {name or 'no teacher, or stored answers'}: {speed:,.0f} | {speed / decoded:,.0f} | "
            f"{speed * size / 1e6:,.0f} | {speed * 224 * 224 * 3 / 1e6:,.0f} | {speed * answers / 1e6:.1f} |"
        )
    yield ""
    yield "| data | packed JPEG | files of 256 MB | one epoch of answers: exact | half | top 64, half | top 16, half |"
    yield "|---|---|---|---|---|---|---|"
    for run in RUNS:
        kinds = (("exact", None), ("half", None), ("half", 64), ("half", 16))
        each = " | ".join(f"{stored(run, *kind) / 1e9:,.2f} GB" for kind in kinds)
        packed = run.images * size
        yield f"| {run.name} | {packed / 1e9:,.0f} GB | {packed / SHARD:,.0f} | {each} |"
    yield ""
    yield f"| {BATCH} images a GPU, 8 GPUs | seconds a step | gradients sent | teacher gathered | GB/s to hide it |"
    yield "|---|---|---|---|---|"
    for name in TEACHERS:
        teacher = cost_of(name, 1000)
        seconds = BATCH / rate(student, teacher.forward, flops)
        sent, gathered = wire(student.parameters, 4, 2, 8), wire(teacher.parameters, 4, 1, 8)
        yield (
            f"| {name} | {seconds:.2f} | {sent / 1e9:.2f} GB | {gathered / 1e9:.2f} GB | "
            f"{sent / 1e9 / seconds:.2f} whole, {(sent + gathered) / 1e9 / seconds:.2f} in shares |"
        )


def main() -> None:
    """Measure, compute and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", required=True, help="a folder with train/<class>/*.JPEG")
    parser.add_argument("--batches", type=int, default=8, help="of 32 photographs, to time")
    parser.add_argument("--peak", type=float, default=989e12, help="floating point operations a second of a GPU")
    parser.add_argument("--share", type=float, default=0.35, help="of the peak that a run reaches")
    options = parser.parse_args()
    torch.set_num_threads(1)
    write = sys.stdout.write
    write(f"torch {torch.__version__}, timm {timm.__version__}, {platform.machine()}, ")
    write(f"a GPU of {options.peak / 1e12:,.0f} TFLOP/s at {options.share:.0%}\n")
    small = photographs(options.images, options.batches)
    with TemporaryDirectory() as folder:
        enlarged(options.images, folder, 32 * (options.batches + 3))
        size, decoded = photographs(folder, options.batches)
    for name, (each, speed) in (("as they are", small), ("of 500 x 375", (size, decoded))):
        write(f"photographs {name}: {each:,.0f} bytes each, one core decodes and crops {speed:,.0f} a second\n")
    write("\n")
    write("\n".join(lines(size, decoded, options.peak * options.share)) + "\n")


if __name__ == "__main__":
    main()
