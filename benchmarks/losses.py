"""What each loss costs beside KL: its forward and backward pass alone, as a share of a whole KD step.

    python benchmarks/losses.py [--batch 128] [--classes 100] [--out benchmarks/results]

writes ``losses_cpu.csv``. The KD step is that of ``results/step_cpu.csv``, two ResNet-18 at 128 x 100.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median

import torch
from torch import Tensor
from torch.nn import functional as F

if not __package__:  # run as a file: Python looks beside this file, and the packages are one floor up
    sys.path[0] = str(Path(__file__).parents[1])

from benchmarks._report import about
from benchmarks._step_losses import LOGIT_LOSSES, kept_bytes
from ida_lightning.files import replacing
from ida_lightning.label_mix import LabelMix
from ida_lightning.losses import KL
from ida_lightning.losses.contrast import Compared, contrastive_loss, move_bank
from ida_lightning.losses.features import attention_loss, hint_loss, rkd_loss, similarity_loss
from ida_lightning.mixing import MixedBatch
from ida_lightning.supervision import Supervision

IMAGES, NEGATIVES, WIDTH = 50_000, 16_384, 512


def candidates(batch: int, classes: int) -> dict[str, tuple[Callable[[Tensor], Tensor], Tensor]]:
    """Each loss as a function of what the student gives, and that."""
    labels = torch.randint(classes, (2, batch))
    mixed = MixedBatch(torch.zeros(batch, 1), LabelMix.pair(*labels, 0.7), labels[0], labels[1:].T)
    taught = Supervision.from_teacher(mixed, torch.randn(batch, classes))
    logits, vectors, maps = torch.randn(batch, classes), torch.randn(batch, WIDTH), torch.randn(batch, WIDTH, 4, 4)
    found = {}
    for name, logit_loss in {"kl": KL(), **LOGIT_LOSSES}.items():
        found[name] = (partial(logit_loss, taught=taught), logits)
    projector = torch.nn.Conv2d(WIDTH, WIDTH, 1)
    found["hint"] = (lambda s: hint_loss(projector(s), maps), maps)
    found["attention"] = (lambda s: attention_loss(s, maps + 1), maps)
    found["similarity"] = (lambda s: similarity_loss(s, vectors + 1), vectors)
    found["rkd"] = (lambda s: rkd_loss(s, vectors + 1), vectors)
    banks, embed = torch.randn(2, IMAGES, 128), torch.nn.Linear(WIDTH, 128)
    positions, shares = torch.randint(IMAGES, (batch, 2)), torch.tensor([[0.7, 0.3]]).expand(batch, 2)
    valid = torch.ones(batch, NEGATIVES, dtype=torch.bool)

    def crd(features: Tensor) -> Tensor:
        seen, loss = F.normalize(embed(features)), torch.zeros(batch)
        for bank in banks:
            drawn = torch.randint(IMAGES, (NEGATIVES,))
            compared = Compared(bank[positions], shares, bank[drawn], valid)
            loss = loss + contrastive_loss(seen, compared, IMAGES, 1.0, 1e4)
            move_bank(bank, positions, shares, seen.detach(), 0.5)
        return loss

    found["crd"] = (crd, vectors)
    return found


def milliseconds(loss: Callable[[Tensor], Tensor], given: Tensor, times: int = 5) -> float:
    """The median time of a forward and a backward pass."""
    taken = []
    for _ in range(times + 1):  # the first warms up
        given = given.detach().requires_grad_()
        begun = time.perf_counter()
        loss(given).mean().backward()
        taken.append(1000 * (time.perf_counter() - begun))
    return median(taken[1:])


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, write the CSV, print it."""
    parser = argparse.ArgumentParser(description="What each loss costs beside KL.")
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results", help="folder for the CSV")
    options = parser.parse_args(argv)
    torch.manual_seed(0)
    with (Path(__file__).parent / "results" / "step_cpu.csv").open(newline="") as file:
        step = next(float(row["median_ms"]) for row in csv.DictReader(file) if row["name"] == "kd")
    found = candidates(options.batch, options.classes)
    times = {name: milliseconds(*pair) for name, pair in found.items()}
    kept = {name: kept_bytes(loss, options.batch, options.classes) for name, loss in LOGIT_LOSSES.items()}
    kept["kl"] = kept_bytes(KL(), options.batch, options.classes)
    lines = []
    for name, taken in times.items():
        more = taken - (times["kl"] if name in LOGIT_LOSSES else 0)  # in KL's place, or beside it
        memory = f"{kept[name] / 1e6:.2f}" if name in kept else ""
        ratio = "" if name == "kl" else f"{1 + more / step:.4f}"
        figures = {"ms": f"{taken:.3g}", "kd_step_ms": f"{step:.4g}", "ratio_to_kd_step": ratio, "kept_mb": memory}
        size = {"batch": options.batch, "classes": options.classes}
        lines.append({**about(torch.device("cpu")), **size, "loss": name, **figures})
        sys.stdout.write(f"{name:>14} {taken:8.2f} ms  {ratio:>7}  {memory:>6} MB\n")
    with replacing(options.out / "losses_cpu.csv") as unfinished, unfinished.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)


if __name__ == "__main__":
    main()
