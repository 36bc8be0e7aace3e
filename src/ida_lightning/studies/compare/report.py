"""The tables of a comparison, as CSV and as text."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from ida_lightning.files import replacing
from ida_lightning.studies.compare.estimates import (
    METRICS,
    TIME,
    WEIGHTS,
    Estimate,
    Metric,
    Result,
    difference,
    extra_cost,
    level,
    other_starts,
)
from ida_lightning.studies.compare.settings import Settings

_NAMES = {"best": "the best epoch on validation", "last": "the last epoch"}


def write_results(path: Path, results: Sequence[Result]) -> None:
    """Write ``results.csv``: a row per cell, with every figure of both weights and what training logged."""
    rows = []
    for result in results:
        row = {key: result[key] for key in ("method", "seed")}
        for weights in WEIGHTS:
            row |= {f"{weights}_{key}": value for key, value in result[weights].items()}
        row |= {key.removeprefix("train/"): value for key, value in result["logged"].items()}
        row |= {key: result[key] for key in ("steps", "seconds_per_step", "seconds", "device")}
        row |= {key: (result[key] or "")[:12] for key in ("initial_weights", "teacher_sha256", "config_sha256")}
        rows.append(row)
    _write(path, list(dict.fromkeys(key for row in rows for key in row)), rows)


def write_summary(path: Path, results: Sequence[Result], settings: Settings) -> None:
    """Write ``summary.csv``: a row per weights, figure and method, unscaled."""
    rows = []
    for weights in WEIGHTS:
        for metric in (*METRICS, TIME) if weights == "last" else METRICS:
            for method in settings.methods:
                own = level(results, method, weights, metric)
                if own is None:
                    continue
                pair = difference(results, method, settings.reference, weights, metric)
                row: dict[str, Any] = {"weights": weights, "metric": metric.key, "method": method}
                row |= {"seeds": own.seeds, "mean": own.mean, "std": own.std}
                if pair is not None and method != settings.reference:
                    row |= {"pairs": pair.seeds, "difference": pair.mean, "low": pair.low, "high": pair.high}
                rows.append(row)
    columns = ["weights", "metric", "method", "seeds", "mean", "std", "pairs", "difference", "low", "high"]
    _write(path, columns, rows)


def _write(path: Path, columns: Sequence[str], rows: Iterable[dict[str, Any]]) -> None:
    with replacing(path) as unfinished, unfinished.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, restval="")
        writer.writeheader()
        writer.writerows(rows)


def summary(results: Sequence[Result], settings: Settings) -> str:
    """The comparison as Markdown: levels, differences, and what may be read out of them."""
    lines = [f"# Comparison on {settings.fit}, reference: {settings.reference}", ""]
    for weights in WEIGHTS:
        lines += [f"Test images, weights of {_NAMES[weights]}: mean ± standard deviation over seeds", ""]
        lines += [*_levels(results, settings, weights), ""]
        lines += [f"Minus {settings.reference}, same seeds, weights of {_NAMES[weights]}: mean [95 % interval]", ""]
        lines += [*_differences(results, settings, weights), ""]
    return "\n".join(lines + _notes(results, settings))


def _levels(results: Sequence[Result], settings: Settings, weights: str) -> list[str]:
    rows = []
    for method in settings.methods:
        seeds = sum(result["method"] == method for result in results)
        cells = [_with_std(level(results, method, weights, metric), metric) for metric in (*METRICS, TIME)]
        cost = extra_cost(results, method, settings.reference)
        shown = "" if cost is None or method == settings.reference else f"{cost.mean:+.1%}"
        if shown and cost is not None and cost.low is not None and cost.high is not None:
            shown += f" [{cost.low:+.1%}, {cost.high:+.1%}]"
        rows.append([method, str(seeds), *cells, shown])
    return _table(["method", "seeds", *(metric.title for metric in (*METRICS, TIME)), "extra time"], rows)


def _differences(results: Sequence[Result], settings: Settings, weights: str) -> list[str]:
    rows = []
    for method in settings.methods:
        if method != settings.reference:
            pairs = [difference(results, method, settings.reference, weights, metric) for metric in METRICS]
            rows.append([method, *map(_with_interval, pairs, METRICS)])
    return _table(["method", *(metric.title for metric in METRICS)], rows)


def _with_std(value: Estimate | None, metric: Metric) -> str:
    if value is None:
        return ""
    mean = f"{value.mean * metric.scale:.{metric.digits}f}"
    return mean if value.std is None else f"{mean} ± {value.std * metric.scale:.{metric.digits}f}"


def _with_interval(pair: Estimate | None, metric: Metric) -> str:
    if pair is None:
        return ""
    mean, *ends = (
        None if value is None else f"{value * metric.scale:+.{metric.digits}f}"
        for value in (pair.mean, pair.low, pair.high)
    )
    if None in ends:
        return f"{mean} [no interval]"
    return f"{mean} [{ends[0]}, {ends[1]}]{' *' if pair.told_apart else ''}"


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"

    return [line(columns), "|" + "|".join("-" * (width + 2) for width in widths) + "|", *map(line, rows)]


def _notes(results: Sequence[Result], settings: Settings) -> list[str]:
    lines, count = [], 0
    for weights in WEIGHTS:
        for method in settings.methods:
            for metric in METRICS if method != settings.reference else ():
                pair = difference(results, method, settings.reference, weights, metric)
                count += pair is not None and pair.low is not None
                if pair is not None and pair.told_apart:
                    lines.append(f"- {method}, {_NAMES[weights]}: {_in_words(pair, metric)}")
    notes = ["No intervals: they take two seeds or more."]
    if count:
        notes = [f"Intervals that leave out 0 (*): {len(lines)} of {count}.", *lines, ""]
        notes.append(f"Of {count} intervals at 95 % about {0.05 * count:.1g} leave out 0 by chance alone.")
        notes.append(f"Where one holds 0, this many seeds do not tell the method from {settings.reference}.")
    notes += [
        "",
        "NLL and calibration error (ECE, 15 bins) are given as they are and after temperature scaling fitted on the",
        "validation images, which takes away what a network gains by only saying less. The best epoch is that of the",
        "highest validation accuracy; no figure here was looked at in choosing it. Agreement is with the teacher.",
    ]
    if settings.jobs > 1:
        notes.append(f"Steps were timed with up to {settings.jobs} runs side by side, which slow each other down.")
    unscaled = sum(result[weights]["temperature"] is None for result in results for weights in WEIGHTS)
    if unscaled:
        notes.append(
            f"No temperature in {unscaled} of {2 * len(results)} evaluations: every validation image was right, so the "
            "larger the confidence the better."
        )
    starts = other_starts(results)
    if starts:
        notes.append(f"Not the same initial weights: {'; '.join(starts)}.")
    return notes


def _in_words(pair: Estimate, metric: Metric) -> str:
    direction = "higher" if pair.mean > 0 else "lower"
    judged = "" if not metric.better else ", better" if direction == metric.better else ", worse"
    return f"{metric.title} {direction} by {_with_interval(pair, metric).lstrip('+-').removesuffix(' *')}{judged}"
