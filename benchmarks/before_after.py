"""What the isotonic correction costs in two checkouts, side by side: a process each, which take turns.

    python benchmarks/before_after.py BEFORE [--quick] [--out benchmarks/results]

``BEFORE`` is the folder of another checkout, such as a git worktree of an older commit. Writes
``before_after_cpu.csv``. benchmarks/README.md says what is measured.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

if not __package__:  # run as a file: Python looks beside this file, and the packages are one floor up
    sys.path[0] = str(Path(__file__).parents[1])

HERE = Path(__file__).parents[1]
TEMPERATURE = 4.5
# Of logits; what a kind does beside that: see _problem.
SPREAD = {"in order": 3.0, "ordinary": 3.0, "random": 3.0, "flat": 0.3, "uniform": 0.01}
SHAPES = ((128, 10), (128, 100), (128, 1000), (256, 21841))
COLUMNS = ("device", "torch", "date", "threads", "B", "c", "k", "rows", "before", "after", "budget")


def _problem(rows: int, classes: int, k: int, kind: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return logits, labels and weights: ordinary teachers see the classes of the picture, others see noise."""
    generator = torch.Generator().manual_seed(classes + k)
    logits = SPREAD[kind] * torch.randn(rows, classes, generator=generator)
    labels = torch.rand(rows, classes, generator=generator).topk(k, dim=1).indices
    weights = torch.arange(k, 0, -1) + 0.4 * torch.rand(rows, k, generator=generator)
    weights = weights / weights.sum(1, keepdim=True)
    if kind in ("in order", "ordinary"):
        largest = 3 * (2 * torch.tensor(float(classes)).log()).sqrt()  # of the others, by chance
        lead = 4 * weights.double() + 2 if kind == "in order" else 0.4 + weights.double()
        logits = logits.scatter_add(1, labels, (largest * lead).float())
    return logits, labels, weights


def _softened(logits: torch.Tensor) -> torch.Tensor:
    return torch.softmax(logits / TEMPERATURE, 1)


def _milliseconds(call: Callable[[], Any]) -> float:
    """Processor time of a call, which others do not add to; of the second one if it is short, with filled caches."""
    elapsed = 0.0
    for _ in range(2):
        begin = time.process_time()
        call()
        elapsed = 1e3 * (time.process_time() - begin)
        if elapsed > 20:
            break
    return elapsed


def _work() -> None:
    """Answer every line of standard input, a cell, with the milliseconds of a softmax and of a correction."""
    from ida_lightning import LabelMix, isotonic_soft_labels

    made: dict[str, tuple[Callable[[], Any], Callable[[], Any]]] = {}
    for line in sys.stdin:
        threads, *cell = json.loads(line)
        torch.set_num_threads(threads)
        if line not in made:
            logits, labels, weights = _problem(*cell)
            soft, mix = _softened(logits), LabelMix(labels, weights)
            # Only one cell at a time: the largest is 22 MB.
            made = {line: (partial(_softened, logits), partial(isotonic_soft_labels, soft, mix))}
        sys.stdout.write(json.dumps([_milliseconds(call) for call in made[line]]) + "\n")
        sys.stdout.flush()


def _worker(checkout: Path) -> subprocess.Popen[str]:
    paths = os.pathsep.join([str(checkout / "src"), str(HERE)])
    command = [sys.executable, str(Path(__file__)), "--worker", str(checkout)]
    environment = {**os.environ, "PYTHONPATH": paths}
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)


def _budget(classes: int, k: int, kind: str) -> str:
    """Return the budget of docs/design: ordinary pairs by shape, anything else of 1,000 classes or more 10."""
    ordinary = {10: "half", 100: "11", 1000: "4", 21841: "1"}
    if kind in ("in order", "ordinary") and k <= 2:
        return ordinary.get(classes, "")
    return "10" if classes >= 1000 else ""


def measure(before: Path, threads: Sequence[int], cells: Sequence[tuple[int, int, int, str]], rounds: int) -> Any:
    """Return the lines of the CSV: ratios to the softmax of the same rows in the same round, medians over rounds."""
    from benchmarks._report import about

    facts, shuffle = about(torch.device("cpu")), random.Random(0)
    base = {key: facts[key] for key in ("device", "torch", "date")}
    workers = {"before": _worker(before), "after": _worker(HERE)}
    lines = []
    try:
        for number, *cell in ((number, *cell) for number in threads for cell in cells):
            ratios: dict[str, list[float]] = {name: [] for name in workers}
            for turn in range(rounds + 1):
                for name, worker in shuffle.sample(list(workers.items()), 2):
                    assert worker.stdin is not None
                    assert worker.stdout is not None
                    worker.stdin.write(json.dumps([number, *cell]) + "\n")
                    worker.stdin.flush()
                    softmax, own = json.loads(worker.stdout.readline())
                    ratios[name] += [own / softmax] if turn else []
            figures = {name: f"{median(found):.3g}" for name, found in ratios.items()}
            named = dict(zip(("B", "c", "k", "rows"), cell, strict=True))
            lines.append({**base, "threads": number, **named, **figures, "budget": _budget(*cell[1:])})
            sys.stdout.write(" ".join(str(lines[-1][key]) for key in COLUMNS[3:]) + "\n")
    finally:
        for worker in workers.values():
            worker.kill()
            worker.communicate()
    return lines


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print as it comes, write the CSV."""
    parser = argparse.ArgumentParser(description="What the correction costs in two checkouts.")
    parser.add_argument("before", type=Path, help="folder of the other checkout")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--quick", action="store_true", help="one small shape: does everything work?")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.worker:
        _work()
        return
    wanted = [("ordinary", 2)] if options.quick else [(kind, k) for kind in SPREAD for k in (1, 2, 3, 4)]
    shapes = ((8, 10),) if options.quick else SHAPES
    cells = [(*shape, k, kind) for shape in shapes for kind, k in wanted]
    threads, rounds = ([1], 1) if options.quick else (options.threads, options.rounds)
    lines = measure(options.before, threads, cells, rounds)
    options.out.mkdir(parents=True, exist_ok=True)
    with (options.out / "before_after_cpu.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)


if __name__ == "__main__":
    main()
