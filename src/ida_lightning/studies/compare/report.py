"""Writes the tables of a comparison as CSV and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ida_lightning.studies.compare.cells import Result
from ida_lightning.studies.compare.estimates import (
    METRICS,
    TIME,
    WEIGHTS,
    Estimate,
    Metric,
    difference,
    differences,
    extra_cost,
    level,
    other_starts,
)
from ida_lightning.studies.compare.settings import Settings
from ida_lightning.studies.tables import csv_table, markdown_table

_NAMES = {"best": "the best epoch on validation", "last": "the last epoch"}


def results_csv(results: Sequence[Result], run: str) -> str:
    """Return ``results.csv``: a row per cell, with every figure of both weights, what training logged, and ``run``."""
    rows = []
    for result in results:
        row = {key: result[key] for key in ("method", "seed")}
        for weights in WEIGHTS:
            row |= {f"{weights}_{key}": value for key, value in result[weights].items()}
        row |= {key.removeprefix("train/"): value for key, value in result["logged"].items()}
        row |= {key: result[key] for key in ("steps", "seconds_per_step", "seconds", "device")}
        row |= {key: (result[key] or "")[:12] for key in ("initial_weights", "teacher_sha256", "config_sha256")}
        rows.append(row | {"run": run})
    return csv_table(rows)


def summary_csv(results: Sequence[Result], settings: Settings, run: str) -> str:
    """Return ``summary.csv``: a row per weights, figure and method, unscaled, with the ``run`` it is of."""
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
                shown = pair._asdict() if pair is not None and method != settings.reference else {}
                names = {"pairs": "seeds", "difference": "mean", "low": "low", "high": "high"}
                rows.append(row | {name: shown.get(key) for name, key in names.items()} | {"run": run})
    return csv_table(rows)


def summary(results: Sequence[Result], settings: Settings) -> str:
    """Return the comparison as Markdown: levels, differences, and what may be read out of them."""
    reference = settings.reference
    lines = [f"# Comparison on {settings.fit}, reference: {reference}", ""]
    for weights in WEIGHTS:
        levels = []
        for method in settings.methods:
            seeds = sum(result["method"] == method for result in results)
            cells = [_with_std(level(results, method, weights, metric), metric) for metric in (*METRICS, TIME)]
            cost = extra_cost(results, method, reference) if method != reference else None
            levels.append([method, str(seeds), *cells, _as_share(cost)])
        pairs: dict[str, list[str]] = {method: [method] for method in settings.methods if method != reference}
        for method, metric, pair in differences(results, settings.methods, settings.reference, weights):
            pairs[method].append(_with_interval(pair, metric))
        titles = [metric.title for metric in METRICS]
        lines += [f"Test images, weights of {_NAMES[weights]}: mean ± standard deviation over seeds", ""]
        lines += [*markdown_table(["method", "seeds", *titles, TIME.title, "extra time"], levels), ""]
        lines += [f"Minus {reference}, same seeds, weights of {_NAMES[weights]}: mean [95 % interval]", ""]
        lines += [*markdown_table(["method", *titles], list(pairs.values())), ""]
    return "\n".join(lines + _notes(results, settings))


def _as_share(cost: Estimate | None) -> str:
    if cost is None:
        return ""
    interval = f" [{cost.low:+.1%}, {cost.high:+.1%}]" if cost.low is not None else ""
    return f"{cost.mean:+.1%}{interval}"


def _with_std(value: Estimate | None, metric: Metric) -> str:
    if value is None:
        return ""
    mean = f"{value.mean * metric.scale:.{metric.digits}f}"
    return mean if value.std is None else f"{mean} ± {value.std * metric.scale:.{metric.digits}f}"


def _with_interval(pair: Estimate | None, metric: Metric) -> str:
    if pair is None:
        return ""
    mean, *ends = (
        f"{value * metric.scale:+.{metric.digits}f}" for value in (pair.mean, pair.low, pair.high) if value is not None
    )
    return f"{mean} [{', '.join(ends) or 'no interval'}]{' *' if pair.told_apart else ''}"


def _notes(results: Sequence[Result], settings: Settings) -> list[str]:
    lines, count = [], 0
    for weights in WEIGHTS:
        for method, metric, pair in differences(results, settings.methods, settings.reference, weights):
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
