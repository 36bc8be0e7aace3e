"""Everything that a GPU is needed for, in one go: is the CUDA path right, and what does it cost?

    python benchmarks/gpu_check.py [--device cpu|cuda] [--minutes 8] [--out benchmarks/results]

writes ``gpu_check_<device>.json`` and ``.md``, the tables that the README takes over, and ends with 1 if anything
failed. It needs neither network nor pytest, jsonargparse or wandb. On a CPU it does the same, smaller, so that it is
known to work.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

if not __package__:  # run as a file: Python looks beside this file, and the packages are one floor up
    sys.path[0] = str(Path(__file__).parents[1])

from benchmarks import _gpu_checks as checks
from benchmarks import _timing as timing
from benchmarks import data as data_bench
from benchmarks import step as step_bench
from benchmarks._cells import TEMPERATURE, make_cell
from benchmarks._report import about
from ida_lightning.files import replacing
from ida_lightning.isotonic import Solver, describe_trials, isotonic_soft_labels, isotonic_softmax, kernel_trials

Part = tuple[str, Callable[[], Any]]
KINDS = ("none", "mixup", "cutmix", "mosaic", "both")


def parts(device: torch.device, small: bool, folder: Path) -> list[Part]:
    """What is done, in the order of its worth: what must hold first, then the figures."""
    cuda = device.type == "cuda"
    # Triton runs on a CPU in its interpreter only, which is for tests.
    solvers: list[Solver] = ["threshold", "triton"] if cuda else ["threshold"]
    todo: list[Part] = []
    for solver in solvers:
        largest = 100 if small else 65_536
        todo += [
            (f"agrees with float64: {solver}", partial(checks.solver_agrees, device, solver, largest)),
            (f"gradient: {solver}", partial(checks.gradients_agree, device, solver)),
            (f"torch.compile: {solver}", partial(checks.compiles, device, solver)),
            (f"the host never waits: {solver}", partial(checks.never_waits, device, solver)),
            (f"another device: {solver}", partial(checks.other_device, device, solver)),
        ]
        if cuda:  # on a CPU labels out of range are refused
            todo.append((f"bad rows are NaN: {solver}", partial(checks.bad_rows_are_nan, device, solver)))
    todo.append(("auto passes its trial", partial(checks.trial_is_passed, device)))
    fits = [(kind, "32-true", False) for kind in KINDS] + [("cutmix", "bf16-mixed", False)]
    fits += [("cutmix", "bf16-mixed" if cuda else "32-true", True)] if cuda or not small else []
    todo.append(("solver times", partial(solver_times, device, small)))
    for kind, precision, compiled in fits:
        name = f"ten steps: {kind}, {precision}{', torch.compile' if compiled else ''}"
        todo.append((name, partial(checks.fit_ten_steps, device, kind, precision, compiled, small or not cuda)))
    todo.append(("step", partial(step_times, device, small)))
    todo.append(("data", partial(data_rates, device, small, folder)))
    return todo


def solver_times(device: torch.device, small: bool) -> list[dict[str, Any]]:
    """Every solver and the softmax in milliseconds, and as a multiple of the softmax of the same rows."""
    lines = []
    shapes = [(16, 10), (16, 50)] if small else [(128, 10), (128, 100), (256, 1000), (1024, 1000), (256, 21_841)]
    for (rows, classes), rate in ((shape, rate) for shape in shapes for rate in ((1.0,) if small else (0.0, 1.0))):
        cell = make_cell(rows, classes, rate, torch.float32, device)
        calls: dict[str, timing.Call] = {
            "softmax": lambda z=cell.teacher_logits: (z / TEMPERATURE).softmax(1),
            "softmax_kernel": lambda z=cell.teacher_logits: z.softmax(1),
            "threshold": lambda c=cell: isotonic_soft_labels(c.soft_labels, c.mix, "threshold", validate=False),
        }
        if device.type == "cuda":
            calls["triton"] = lambda c=cell: isotonic_soft_labels(c.soft_labels, c.mix, "triton", validate=False)
            calls["softmax and triton"] = lambda c=cell: isotonic_softmax(
                c.teacher_logits, c.mix, TEMPERATURE, "triton", validate=False
            )
        times = timing.interleaved(calls, device, rounds=3 if small else 15)
        lines += [
            {"rows": rows, "classes": classes, "wrong": rate, "what": name, "ms": round(median(own), 4),
             "of the softmax": round(timing.ratio(own, times["softmax"]), 2),
             "of its kernel": round(timing.ratio(own, times["softmax_kernel"]), 2)}
            for name, own in times.items()
        ]  # fmt: skip
    return lines


def step_times(device: torch.device, small: bool) -> list[dict[str, Any]]:
    """A training step of the candidates that have budgets, in two precisions."""
    lines = []
    for precision in ("32",) if small else ("32", "bf16"):
        options = step_bench.parse(
            ["--device", device.type, "--precision", precision, *(["--quick"] if small else ["--rounds", "3"])]
        )
        bench = step_bench.Bench(options)
        names = ["bare", "kd", "kd_i"] if small else ["bare", "timm", "kd", "kd_measure", "kd_i", "parts"]
        found = step_bench.lines_of(bench, *step_bench.measure(bench, names))
        lines += [{"precision": precision, "what": line["name"], "ms a step": line["median_ms"],
                   "of bare": line["ratio_to_bare"], "note": line["note"]} for line in found]  # fmt: skip
    return lines


def data_rates(device: torch.device, small: bool, folder: Path) -> list[dict[str, Any]]:
    """Images a second of the pipelines."""
    options = data_bench.parse(["--device", device.type, "--out", str(folder)])
    count, batch, rounds, batches = (256, 16, 1, 2) if small else (20_000, options.batch, 3, 60)
    pictures, workers = data_bench.Pictures, 0 if small else options.workers
    streams = {
        "ours": data_bench.ours(pictures(count), batch, device),
        "torchvision": data_bench.torchvision_pipeline(pictures(count), batch, workers, device),
    }
    if not small:
        streams["timm"] = data_bench.timm_pipeline(pictures(count), batch, workers, device)
    found = data_bench.rates(streams, batch, batches, rounds, device)
    return [{"what": name, "images/s": round(median(values))} for name, values in found.items()]


def run(todo: Sequence[Part], minutes: float) -> list[dict[str, Any]]:
    """Do part after part; one that fails stops no other, and what would begin too late is left out."""
    begun, outcomes = time.monotonic(), []
    for number, (name, call) in enumerate(todo, 1):
        sys.stderr.write(f"{number} of {len(todo)}: {name}\n")
        start = time.monotonic()
        outcome: dict[str, Any] = {"part": name, "outcome": "ok", "found": None}
        if minutes and start - begun > 60 * minutes:
            outcome["outcome"] = "not begun: time was up"
        else:
            try:
                outcome["found"] = call()
            except Exception as error:  # noqa: BLE001  (whatever a GPU can come up with belongs into the report)
                outcome["outcome"] = f"FAILED: {type(error).__name__}: {' '.join(str(error).split())[:400]}"
                outcome["traceback"] = traceback.format_exc()
        outcome["seconds"] = round(time.monotonic() - start, 1)
        outcomes.append(outcome)
    return outcomes


def markdown(facts: dict[str, Any], outcomes: Sequence[dict[str, Any]]) -> str:
    """The report as tables: what held, then every list of figures."""
    text = [", ".join(f"{key} {value}" for key, value in facts.items()), "", "| part | outcome | found | s |",
            "|---|---|---|---|"]  # fmt: skip
    for outcome in outcomes:
        found = outcome["found"]
        told = f"{len(found)} lines below" if isinstance(found, list) else "" if found is None else str(found)
        text.append(f"| {outcome['part']} | {outcome['outcome'].replace('|', '/')} | {told} | {outcome['seconds']} |")
    for outcome in outcomes:
        if isinstance(outcome["found"], list) and outcome["found"]:
            columns = list(outcome["found"][0])
            text += [
                "",
                f"{outcome['part'].capitalize()}:",
                "",
                f"| {' | '.join(columns)} |",
                "|---" * len(columns) + "|",
            ]
            text += [f"| {' | '.join(str(line[column]) for column in columns)} |" for line in outcome["found"]]
    return "\n".join(text) + "\n"


def main(argv: Sequence[str] | None = None) -> None:
    """Run all parts, write the report, and fail if any part did."""
    parser = argparse.ArgumentParser(description="Is the CUDA path right, and what does it cost?")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--minutes", type=float, default=7, help="nothing begins later; 0: no limit")
    parser.add_argument("--small", action="store_true", help="sizes that a test can wait for; always on a CPU")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results")
    options = parser.parse_args(argv)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch finds no CUDA device here")
    device = torch.device(options.device)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*does not have many workers")
        warnings.filterwarnings("ignore", ".*LeafSpec", FutureWarning)
        outcomes = run(parts(device, options.small or device.type == "cpu", options.out), options.minutes)
    facts = {**about(device), "solver": describe_trials()}
    options.out.mkdir(parents=True, exist_ok=True)
    target = options.out / f"gpu_check_{options.device}.json"
    trials = [trial._asdict() for trial in kernel_trials()]
    with replacing(target) as unfinished:
        unfinished.write_text(json.dumps({"facts": facts, "trials": trials, "parts": outcomes}, indent=1) + "\n")
    with replacing(target.with_suffix(".md")) as unfinished:
        unfinished.write_text(markdown(facts, outcomes))
    sys.stdout.write(markdown(facts, outcomes))
    if any(outcome["outcome"].startswith("FAILED") for outcome in outcomes):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
