"""Writes the tables of a comparison as CSV and as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from ida_lightning.studies.compare.cells import Result
from ida_lightning.studies.compare.estimates import (
    METRICS,
    TIME,
    WEIGHTS,
    Estimate,
    Metric,
    extra_cost,
    other_starts,
    outcomes,
)
from ida_lightning.studies.compare.settings import Settings
from ida_lightning.studies.tables import csv_table, markdown_table, render

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
        row |= {key: result.get(key) for key in ("answers", "live_batches", "stored_batches")}
        row |= {key: (result[key] or "")[:12] for key in ("initial_weights", "teacher_sha256", "config_sha256")}
        rows.append(row | {"run": run})
    return csv_table(rows)


def summary_csv(results: Sequence[Result], settings: Settings, run: str) -> str:
    """Return ``summary.csv``: a row per weights, figure and method, unscaled, with the ``run`` it is of."""
    rows = []
    for (weights, metric, method), (level, difference) in outcomes(results, settings).items():
        if level is None or (metric is TIME and weights == "best"):  # a step takes as long whatever is kept of it
            continue
        row: dict[str, Any] = {"weights": weights, "metric": metric.key, "method": method}
        row |= {"seeds": level.seeds, "mean": level.mean, "std": level.std}
        pairs, mean, _, low, high = difference or (None,) * 5
        rows.append(row | {"pairs": pairs, "difference": mean, "low": low, "high": high, "run": run})
    return csv_table(rows)


def summary(results: Sequence[Result], settings: Settings) -> str:
    """Return the comparison as Markdown: levels, differences, and what may be read out of them."""
    reference, found = settings.reference, outcomes(results, settings)
    titles = [metric.title for metric in METRICS]

    def levels(weights: str) -> str:
        rows = []
        for method in settings.methods:
            seeds = sum(result["method"] == method for result in results)
            cells = [_with_std(found[weights, metric, method].level, metric) for metric in (*METRICS, TIME)]
            cost = extra_cost(results, method, reference) if method != reference else None
            rows.append([method, str(seeds), *cells, _as_share(cost)])
        return "\n".join(markdown_table(["method", "seeds", *titles, TIME.title, "extra time"], rows))

    def differences(weights: str) -> str:
        rows = [
            [method, *(_with_interval(found[weights, metric, method].difference, metric) for metric in METRICS)]
            for method in settings.methods
            if method != reference
        ]
        return "\n".join(markdown_table(["method", *titles], rows))

    keys = [(weights, metric, method) for weights in WEIGHTS for method in settings.methods for metric in METRICS]
    pairs = [(key, pair) for key in keys if (pair := found[key].difference) is not None and pair.low is not None]
    return render(
        Path(__file__).with_name("summary.md.j2"),
        settings=settings,
        names=_NAMES,
        levels=levels,
        differences=differences,
        intervals=len(pairs),
        apart=[(name, kept, _in_words(pair, metric)) for (kept, metric, name), pair in pairs if pair.told_apart],
        unscaled=sum(result[weights]["temperature"] is None for result in results for weights in WEIGHTS),
        evaluations=len(WEIGHTS) * len(results),
        starts=other_starts(results),
        sharing=_sharing(results),
    ).rstrip()


def _sharing(results: Sequence[Result]) -> dict[str, Any] | None:
    """Return what replaying the teacher's answers has saved, and what steps took; None if none were replayed."""
    saved = sum(result.get("stored_batches", 0) for result in results)
    if not saved:
        return None
    times: dict[str, list[float]] = {"live": [], "recorded": [], "stored": []}
    for result in results:
        if result["seconds_per_step"] is not None and result.get("answers") is not None:
            times[result["answers"]].append(1000 * result["seconds_per_step"])
    return {
        "saved": saved,
        "asked": saved + sum(result.get("live_batches", 0) for result in results),
        "times": [f"{median(values):.1f} ms {name} ({len(values)} runs)" for name, values in times.items() if values],
        "live": [f"{r['method']}, seed {r['seed']}" for r in results if r.get("answers") == "live"],
    }


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


def _in_words(pair: Estimate, metric: Metric) -> str:
    direction = "higher" if pair.mean > 0 else "lower"
    judged = "" if not metric.better else ", better" if direction == metric.better else ", worse"
    return f"{metric.title} {direction} by {_with_interval(pair, metric).lstrip('+-').removesuffix(' *')}{judged}"
