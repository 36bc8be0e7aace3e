"""What the isotonic correction costs: its solvers, outsiders and floors, side by side.

    python benchmarks/isotonic.py [--quick] [--device cpu|cuda] [--out benchmarks/results]

writes ``isotonic_<device>.csv`` and ``isotonic_<device>.png``. benchmarks/README.md says what is measured and how.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from inspect import signature
from pathlib import Path
from statistics import median
from typing import Any, get_args

import torch
from torch import Tensor

if not __package__:  # run as a file: Python looks beside this file, and the packages are one floor up
    sys.path[0] = str(Path(__file__).parents[1])

from benchmarks import _baselines as outside
from benchmarks import _timing as timing
from benchmarks._cells import TEMPERATURE, Cell, allowed_error, error_of, make_cell
from benchmarks._report import COLUMNS, about, draw, summary
from ida_lightning.files import replacing
from ida_lightning.isotonic import Solver, isotonic_soft_labels
from ida_lightning.label_mix import LabelMix
from ida_lightning.metrics import violated_rows

# These always have a line in the CSV, whether this version has them or not; others have one once they exist.
SOLVERS = ["threshold", "weak_order", "triton"]
SOLVERS += [name for name in get_args(Solver) if name not in {"auto", *SOLVERS}]
OUTSIDERS = ["scipy", "sklearn", "torchsort", "python_merge", "python_merge_lists"]
FLOORS = ["softmax", "softmax_kernel", "kl_forward_backward"]
CANDIDATES = ["threshold", "threshold_compiled", *SOLVERS[1:], *OUTSIDERS, *FLOORS]
DTYPES = {"float32": torch.float32, "bf16": torch.bfloat16}
# float32 copies of (B, c) that inputs, results and the hungriest candidate hold at a time, on the high side.
COPIES = 16
# A training loop that watches its loss need not look at the values as well.
UNCHECKED: dict[str, Any] = {"validate": False} if "validate" in signature(isotonic_soft_labels).parameters else {}
# A median this many times the best round is marked: another process held a core that threads had to wait for.
NOISY = 3
# Seconds from which a call is work and not overhead: it will grow at least with the number of values.
WORK = 0.02


@dataclass
class Candidate:
    """Something to time. Without ``call`` it cannot run here, and ``note`` says why."""

    call: timing.Call | None
    note: str = ""
    corrects: bool = True


def solve(soft_labels: Tensor, mix: LabelMix, solver: str = "threshold") -> Tensor:
    """One of our solvers, through the one door."""
    return isotonic_soft_labels(soft_labels, mix, solver=solver, **UNCHECKED)  # type: ignore[arg-type]


def candidates_of(cell: Cell, compiled: Callable[[Tensor, LabelMix], Tensor] | None) -> dict[str, Candidate]:
    """Everything that is timed on a cell, by name; what corrects returns the corrected rows."""
    logits, student, soft, mix = cell
    found = {}
    for name in SOLVERS:
        if name not in get_args(Solver):
            found[name] = Candidate(None, "not a solver of this version")
        elif name == "triton" and soft.device.type != "cuda":
            found[name] = Candidate(None, "needs CUDA")
        else:
            found[name] = Candidate(partial(solve, soft, mix, name))
    found["threshold_compiled"] = (
        Candidate(partial(compiled, soft, mix)) if compiled else Candidate(None, "compiling was left out")
    )
    found["scipy"] = Candidate(partial(outside.scipy_rows, soft, mix))
    found["sklearn"] = Candidate(partial(outside.sklearn_rows, soft, mix))
    found["python_merge"] = Candidate(partial(outside.python_merge, soft, mix))
    found["python_merge_lists"] = Candidate(partial(outside.python_merge_lists, soft, mix))
    torchsort = outside.torchsort_solver(soft.device)
    found["torchsort"] = (
        Candidate(None, torchsort) if isinstance(torchsort, str) else Candidate(partial(torchsort, soft, mix))
    )
    scaled = logits / TEMPERATURE
    found["softmax"] = Candidate(lambda: torch.softmax(logits / TEMPERATURE, 1), corrects=False)
    found["softmax_kernel"] = Candidate(lambda: torch.softmax(scaled, 1), corrects=False)
    found["kl_forward_backward"] = Candidate(
        partial(outside.kl_forward_backward, student, soft, TEMPERATURE), corrects=False
    )
    return {name: found[name] for name in CANDIDATES}


class Bench:
    """Times cell after cell and remembers what got too slow to try again."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.device = torch.device(options.device)
        self.about = about(self.device)
        self.seconds_per_value: dict[str, float] = {}
        self.compiled: Callable[[Tensor, LabelMix], Tensor] | None = None
        self.compiled_shapes: dict[tuple[Any, ...], Candidate] = {}
        self.stop_at = time.monotonic() + 60 * options.minutes if options.minutes else float("inf")

    def lines(self, rows: int, classes: int, dtype: str, rate: float) -> list[dict[str, Any]]:
        """The lines of the CSV for one cell: one for every candidate."""
        options = self.options
        base = {**self.about, "B": rows, "c": classes, "dtype": dtype, "violation_rate": rate}
        wanted = COPIES * 4 * rows * classes / 1e9
        why = ""
        if wanted > options.memory_gb:
            why = f"skipped: up to {wanted:.1f} GB, over the budget of {options.memory_gb:g} GB"
        elif time.monotonic() > self.stop_at:
            why = f"skipped: the budget of {options.minutes:g} minutes for the run was spent"
        if why:
            return [{**base, "candidate": name, "note": why} for name in CANDIDATES]
        cell = make_cell(rows, classes, rate, DTYPES[dtype], self.device)
        base["violation_rate"] = float(violated_rows(cell.soft_labels, cell.mix).double().mean())
        if options.compile and (rows, classes, dtype) not in self.compiled_shapes:
            torch.compiler.reset()  # shapes of earlier cells shall not count towards the limit of recompilations
            self.compiled = torch.compile(solve, fullgraph=True, dynamic=False)
        found = candidates_of(cell, self.compiled)
        calls = {name: call for name in found if (call := self._tried(name, found[name], cell, dtype))}
        times = timing.interleaved(calls, self.device, options.rounds, options.warmup, seconds_each=options.seconds)
        lines = []
        for name, candidate in found.items():
            line = {**base, "candidate": name, "note": candidate.note}
            if name in times:
                middle = median(times[name])
                self._remember(name, middle / 1e3, rows * classes)
                if middle > NOISY * min(times[name]):
                    line["note"] = f"{candidate.note}; noisy: best {min(times[name]):.4g} ms".removeprefix("; ")
                line["median_ms"] = f"{middle:.4g}"
                if "softmax" in times:
                    line["ratio_to_softmax"] = f"{timing.ratio(times[name], times['softmax']):.4g}"
                if self.device.type == "cuda":
                    line["host_syncs"] = timing.host_syncs(calls[name])
                    line["peak_extra_mb"] = f"{timing.peak_extra_mb(calls[name]):.4g}"
            lines.append(line)
        return lines

    def _tried(self, name: str, candidate: Candidate, cell: Cell, dtype: str) -> timing.Call | None:
        """The call, if it works, is right and is quick enough; otherwise the note now says what is the matter."""
        limit, values, shape = self.options.call_seconds, cell.soft_labels.numel(), (*cell.soft_labels.shape, dtype)
        compiling = name == "threshold_compiled"
        if compiling and shape in self.compiled_shapes:
            candidate.note = self.compiled_shapes[shape].note
            if not self.compiled_shapes[shape].call:
                return None
        if candidate.call is None:
            return None
        expected = self.seconds_per_value.get(name, 0.0) * values
        if expected > limit:
            candidate.note = f"skipped: about {expected:.0f} s a call, over the budget of {limit:g} s"
            return None
        start = time.perf_counter()
        try:
            result = candidate.call()
        except Exception as error:  # noqa: BLE001 (whatever an outsider or a compiler raises, the others go on)
            candidate.note = f"failed: {type(error).__name__}: {' '.join(str(error).split())[:160]}"
            if compiling:
                self.compiled_shapes[shape] = Candidate(None, candidate.note)
            return None
        took = time.perf_counter() - start
        if compiling and shape not in self.compiled_shapes:
            slow = took > self.options.compile_seconds
            candidate.note = f"compiled in {took:.0f} s" + (", over the budget" if slow else "")
            self.compiled_shapes[shape] = Candidate(None if slow else candidate.call, candidate.note)
            if slow:
                return None
        if candidate.corrects and (error := error_of(result, cell)) > allowed_error(result.dtype):
            candidate.note = f"WRONG: {error:.2g} of the row's maximum away from SciPy"
            return None
        del result
        if compiling or took < 10 * limit:  # the first call also compiles kernels and fetches memory
            took = timing.time_once(candidate.call, self.device) / 1e3
        self._remember(name, took, values)
        if took > limit:
            candidate.note = f"skipped: {took:.1f} s a call, over the budget of {limit:g} s"
            return None
        return candidate.call

    def _remember(self, name: str, seconds: float, values: int) -> None:
        self.seconds_per_value[name] = seconds / values if seconds > WORK else 0.0


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The options of the command line."""
    parser = argparse.ArgumentParser(description="What the isotonic correction costs.")
    add = parser.add_argument
    add("--device", choices=("cpu", "cuda"), default="cpu")
    add("--out", type=Path, default=Path(__file__).parent / "results", help="folder for the CSV and the plot")
    add("--quick", action="store_true", help="a tiny grid without compiling: does everything work?")
    add("--rows", type=int, nargs="+", default=[64, 256, 1024])
    add("--classes", type=int, nargs="+", default=[10, 100, 1000, 21841, 100000])
    add("--rates", type=float, nargs="+", default=[0.0, 0.5, 1.0], help="shares of rows that break their order")
    add("--dtypes", nargs="+", choices=tuple(DTYPES), default=list(DTYPES))
    add("--threads", type=int, default=2, help="of PyTorch on the CPU")
    add("--rounds", type=int, default=15)
    add("--warmup", type=int, default=3)
    add("--seconds", type=float, default=5, help="for the rounds of a candidate that takes over 0.5 s a call")
    add("--call-seconds", type=float, default=3, help="candidates with slower calls are skipped")
    add("--compile-seconds", type=float, default=120, help="for compiling one shape")
    add("--no-compile", dest="compile", action="store_false")
    add("--memory-gb", type=float, default=8, help="cells that may need more are skipped")
    add("--minutes", type=float, default=0, help="cells that would start later than this are skipped; 0: no limit")
    add("--append", action="store_true", help="keep the lines of an earlier CSV for cells that this run leaves out")
    options = parser.parse_args(argv)
    if options.quick:
        options.rows, options.classes, options.rounds, options.warmup, options.compile = [8], [10, 50], 2, 1, False
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: PyTorch finds no CUDA device here")
    return options


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, write the CSV and the plot, and print a short table."""
    options = parse(argv)
    torch.set_num_threads(options.threads)
    target = options.out / f"isotonic_{options.device}.csv"
    bench = Bench(options)
    shapes = sorted(((b, c) for b in options.rows for c in options.classes), key=lambda shape: shape[0] * shape[1])
    # Small to large, so that what is too slow is noticed before it takes hours.
    cells = [(*shape, dtype, rate) for shape in shapes for dtype in options.dtypes for rate in options.rates]
    lines: list[dict[str, Any]] = []
    for number, cell in enumerate(cells, 1):
        sys.stderr.write(f"\r{number} of {len(cells)}: B {cell[0]}, c {cell[1]}, {cell[2]}, rate {cell[3]:g}   ")
        lines += bench.lines(*cell)
    sys.stderr.write("\n")
    lines = [{column: str(line.get(column, "")) for column in COLUMNS} for line in lines]
    if options.append and target.exists():
        own = {tuple(line[key] for key in ("B", "c", "dtype", "violation_rate", "candidate")) for line in lines}
        with target.open(newline="") as file:
            lines = [
                line
                for line in csv.DictReader(file)
                if tuple(line[key] for key in ("B", "c", "dtype", "violation_rate", "candidate")) not in own
            ] + lines
    with replacing(target) as unfinished, unfinished.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(lines)
    with replacing(target.with_suffix(".png")) as unfinished:
        draw(lines, CANDIDATES).savefig(unfinished, dpi=120)
    sys.stdout.write(summary(lines, CANDIDATES) + f"\n{target}\n")


if __name__ == "__main__":
    main()
