"""What a training step costs: this package in Lightning beside a bare loop, timm's task and a merge in Python.

    python benchmarks/step.py [--quick] [--device cpu|cuda] [--out benchmarks/results]

writes ``step_<device>.csv``. benchmarks/README.md says what is measured and how.
"""

from __future__ import annotations

import argparse
import csv
import gc
import logging
import random
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch

if not __package__:  # run as a file: Python looks beside this file, and the packages are one floor up
    sys.path[0] = str(Path(__file__).parents[1])

from benchmarks._report import about
from benchmarks._step_candidates import Bench
from benchmarks._step_clock import PARTS, WARMUP, Clock
from benchmarks._step_losses import FEATURE_LOSSES, LOGIT_LOSSES, LOSS_BUDGETS, note_of
from benchmarks._timing import ratio
from ida_lightning.files import replacing

BUDGETS = (
    ("kd", "bare", 1.03),
    ("kd_i", "kd", 1.01),
    ("cutmix_pick", "tl_cutmix", 1.15),
    ("kd_stored", "kd_free", 1.02),
    *LOSS_BUDGETS,
)
NOTES = {
    "kd_free": "a teacher that answers without looking",
    "kd_record": "stores the teacher's answers",
    "kd_stored": "stored answers in the teacher's place",
    "timm": "mixup mode batch, timm's default: one box a batch, ours draws one a row",
    "timm_channels_last": "timm with weights and images channels last",
    "kd_channels_last": "layout: channels_last",
    "kd_trial": "layout: trial",
    "kd_teacher_bf16": "teacher_precision: bf16",
    "kd_inference": "a teacher under torch.inference_mode",
    "kd_i_python": "elements of the tensor; logs no metrics",
    "kd_i_python_lists": "Python lists; logs no metrics",
    "tl_cutmix": "two batches for the teacher, two for the student",
    "cutmix_pick": "three batches for the teacher, two for the student",
}
CANDIDATES = (
    "bare",
    "timm",
    "timm_channels_last",
    "kd",
    "kd_channels_last",
    "kd_trial",
    "kd_teacher_bf16",
    "kd_inference",
    "kd_free",
    "kd_record",
    "kd_stored",
    "kd_measure",
    "kd_i",
    "kd_i_python",
    "kd_i_python_lists",
    "tl_cutmix",
    "cutmix_pick",
)
LOSSES = (*LOGIT_LOSSES, *FEATURE_LOSSES)  # only where they are asked for
PART_NOTES = {
    "kd_free": "a teacher that answers without looking",
    "kd_record": "stores the teacher's answers",
    "kd_stored": "stored answers in the teacher's place",
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
    base = {**about(bench.device), **{name: vars(bench.options)[name] for name in COLUMNS[5:11]}}
    base["rounds"] = len(times["bare"])
    budgets = {of: (than, limit) for of, than, limit in BUDGETS if {of, than} <= times.keys()}
    lines = []
    for name in (name for name in (*CANDIDATES, *LOSSES) if name in times):
        within = [own / bare for own, bare in zip(times[name], times["bare"], strict=True)]
        notes = [f"rounds {min(within):.3f} to {max(within):.3f}"] if name != "bare" else []
        if name in budgets:
            than, limit = budgets[name]
            notes.append(f"{ratio(times[name], times[than]):.3f} of {than}, budget {limit}")
        if name in ("kd_measure", "kd_i"):
            notes.append(f"{bench.violations:.0%} of rows break their order")
        said = NOTES.get(name) or note_of(name, bench.options.batch, bench.options.classes)
        notes += [said] if said else []
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
    add(
        "--only", nargs="+", choices=[*CANDIDATES, *LOSSES, "parts"], help="besides bare; by default all but the losses"
    )
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
    wanted = {"bare", *(options.only or (*CANDIDATES, "parts"))}
    names = [name for name in bench.candidates if name in wanted]
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
