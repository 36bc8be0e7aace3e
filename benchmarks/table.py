"""Write the solver table of docs/solvers.md from the benchmark's CSV files.

python benchmarks/table.py            rewrites the block between the markers
python benchmarks/table.py --check    exits with 1 if that would change anything
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Sequence
from pathlib import Path

if not __package__:  # run as a file: Python looks beside this file, and the packages are one floor up
    sys.path[0] = str(Path(__file__).parents[1])

from ida_lightning.files import replacing

BEGIN, END = "<!-- solvers:begin -->", "<!-- solvers:end -->"
ROWS, DTYPE, CLASSES, RATES = "256", "float32", ("100", "1000", "21841"), (1.0, 0.5)
# Candidate in the CSV, its name in the table, when it is chosen. What has no figure in a CSV gets no line.
SOLVERS = (
    ("threshold", "`threshold`", "`auto` on the CPU, and wherever `triton` cannot run"),
    ("threshold_compiled", "`threshold` under `torch.compile`", "inside a training step that is compiled"),
    ("triton", "`triton`", "`auto` on CUDA after a trial, up to 8,192 classes, not in float64"),
    ("weak_order", "`weak_order`", "for checking: readable, row by row"),
    ("tree", "`tree`", "for checking: IRT-BIN, row by row"),
    ("scipy", "SciPy, row by row", "to compare"),
    ("sklearn", "scikit-learn, row by row", "to compare"),
    ("torchsort", "sort + torchsort", "to compare"),
    ("python_merge", "block merge in plain Python", "to compare"),
    ("python_merge_lists", "the same merge on lists", "to compare"),
    ("softmax_kernel", "softmax alone, without the division by T", "floor"),
    ("kl_forward_backward", "KL divergence, forward and backward", "floor"),
)
OWED = "Figures for a GPU are still owed; `make gpu-check` and `python benchmarks/isotonic.py --device cuda` make them."


def block(files: Sequence[Path]) -> str:
    """The text between the markers: one table for every CSV file."""
    parts = [_table(file) for file in files]
    if not any(file.stem.endswith("_cuda") for file in files):
        parts.append(OWED)
    return "\n\n".join(parts)


def _table(file: Path) -> str:
    with file.open(newline="") as opened:
        lines = [line for line in csv.DictReader(opened) if line["B"] == ROWS and line["dtype"] == DTYPE]
    if not lines:
        raise SystemExit(f"{file}: no lines with {ROWS} rows and {DTYPE}")
    ratios = {_key(line): float(line["ratio_to_softmax"]) for line in lines if line["ratio_to_softmax"]}
    # A disturbed time, or a disturbed floor under it, is no figure to publish.
    noisy = {_key(line) for line in lines if "noisy" in line["note"]}
    floors = {key[1:] for key in noisy if key[0] == "softmax"}
    text = ["| solver | when | " + " | ".join(f"c = {label}" for label in CLASSES) + " |", "|---|---|" + "---|" * 3]
    for candidate, name, when in SOLVERS:
        keys = [[(candidate, label, rate) for rate in RATES] for label in CLASSES]
        if any(key in ratios for pair in keys for key in pair):
            cells = [
                " / ".join(
                    "noisy" if key in noisy or (key[1:] in floors and key in ratios) else _number(ratios.get(key))
                    for key in pair
                )
                for pair in keys
            ]
            text.append(f"| {name} | {when} | " + " | ".join(cells) + " |")
    # One machine may have taken more than one run (--append).
    on = " and ".join(sorted({f"{line['device']}, {line['threads']} threads, torch {line['torch']}" for line in lines}))
    commits = " and ".join(sorted({f"{line['date']}, commit {line['commit']}" for line in lines}))
    text.append(
        f"\nTime of one call as a multiple of `softmax(logits / T)` of the same batch ({ROWS} rows, {DTYPE}), where "
        "every row / every second row breaks its order; – was skipped as too slow. "
        f"{on}; {commits}; `make bench-isotonic`."
    )
    return "\n".join(text)


def _key(line: dict[str, str]) -> tuple[str, str, float]:
    return line["candidate"], line["c"], float(line["violation_rate"])


def _number(ratio: float | None) -> str:
    """Two digits are what such a measurement is good for."""
    if ratio is None:
        return "–"
    return f"{ratio:.2f}" if ratio < 1 else f"{ratio:.1f}" if ratio < 10 else f"{float(f'{ratio:.2g}'):,.0f}"


def renewed(page: str, text: str) -> str:
    """The page with ``text`` between the markers."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"the page needs a line {BEGIN} and, after it, a line {END}")
    return f"{before}{BEGIN}\n{text}\n{END}{after}"


def main(argv: Sequence[str] | None = None) -> int:
    """Rewrite the page, or say whether it is up to date."""
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(
        description="Write the solver table of docs/solvers.md from the benchmark's CSV files."
    )
    parser.add_argument("--results", type=Path, default=here / "results", help="folder of isotonic_<device>.csv")
    parser.add_argument("--page", type=Path, default=here.parent / "docs" / "solvers.md")
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 if the page is stale")
    options = parser.parse_args(argv)
    files = sorted(options.results.glob("isotonic_*.csv"))
    if not files:
        raise SystemExit(f"{options.results}: no isotonic_*.csv there; make bench-isotonic writes one")
    old = options.page.read_text(encoding="utf-8")
    new = renewed(old, block(files))
    if options.check:
        if new != old:
            sys.stderr.write(f"{options.page}: the solver table is not that of {options.results}; run {__file__}\n")
        return int(new != old)
    with replacing(options.page) as unfinished:
        unfinished.write_text(new, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
