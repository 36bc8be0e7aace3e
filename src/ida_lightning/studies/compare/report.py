"""Writes the tables of a comparison as CSV and as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain, product
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from ida_lightning.studies.compare.cells import Result
from ida_lightning.studies.compare.estimates import (
    METRICS,
    TIME,
    WEIGHTS,
    Corrected,
    Estimate,
    Metric,
    Outcome,
    extra_cost,
    holm,
    other_starts,
    outcomes,
)
from ida_lightning.studies.compare.passes import mean_passes
from ida_lightning.studies.compare.settings import Settings
from ida_lightning.studies.compare.tuning import Choice, Trial, in_words
from ida_lightning.studies.tables import csv_table, markdown_table, render

_Key = tuple[str, Metric, str]
"""Weights, figure and method."""
_NAMES = {"best": "the best epoch on validation", "last": "the last epoch"}


class Tuned(NamedTuple):
    """What a comparison with ``tune`` has beside its results.

    Attributes:
        trials: every setting that was tried.
        choices: by method.
        scaled: the results with equal student passes of those methods for which they are others.
    """

    trials: Sequence[Trial] = ()
    choices: Mapping[str, Choice | None] = {}
    scaled: Mapping[str, Sequence[Result]] = {}


def labelled(results: Sequence[Result], tuned: Tuned) -> list[Result]:
    """Return the results of all cells with ``purpose`` (tuning, report or equal_passes) and ``setting``, in words."""
    rows = [
        {**result, "purpose": "tuning", "method": trial.method, "setting": in_words(trial.setting)}
        for trial in tuned.trials
        for cell in trial.cells
        if (result := cell.result()) is not None
    ]
    for purpose, shown in {"report": results, "equal_passes": chain(*tuned.scaled.values())}.items():
        for result in shown:
            choice = tuned.choices.get(result["method"])
            rows.append({**result, "purpose": purpose, "setting": in_words(choice.trial.setting) if choice else ""})
    return rows


def results_csv(results: Sequence[Result], run: str) -> str:
    """Return ``results.csv``: a row per cell, with every figure of both weights, what training logged, and ``run``."""
    rows = []
    for result in results:
        row = {key: result[key] for key in ("method", "seed", "purpose", "setting")}
        for weights in WEIGHTS:
            row |= {f"{weights}_{key}": value for key, value in result[weights].items()}
        row |= {key.removeprefix("train/"): value for key, value in result["logged"].items()}
        row |= {key: result.get(key) for key in ("steps", "student_passes", "seconds_per_step", "seconds", "device")}
        row |= {key: result.get(key) for key in ("answers", "live_batches", "stored_batches")}
        row |= {key: (result[key] or "")[:12] for key in ("initial_weights", "teacher_sha256", "config_sha256")}
        rows.append(row | {"run": run})
    return csv_table(rows)


def summary_csv(results: Sequence[Result], settings: Settings, run: str, tuned: Tuned = Tuned()) -> str:  # noqa: B008
    """Return ``summary.csv``: a row per view, weights, figure and method, unscaled, with the ``run`` it is of."""
    rows = []
    for view, shown in _views(results, tuned).items():
        found = outcomes(shown, settings)
        corrected = _corrected(found, settings)
        for (weights, metric, method), (level, difference) in found.items():
            if level is None or (metric is TIME and weights == "best"):  # a step takes as long whatever is kept of it
                continue
            row: dict[str, Any] = {"view": view, "weights": weights, "metric": metric.key, "method": method}
            row |= {"seeds": level.seeds, "mean": level.mean, "std": level.std}
            pairs, mean, _, low, high = difference or (None,) * 5
            row |= {"pairs": pairs, "difference": mean, "low": low, "high": high}
            holm_low, holm_high, p = corrected.get((weights, metric, method)) or (None,) * 3
            rows.append(row | {"holm_low": holm_low, "holm_high": holm_high, "holm_p": p, "run": run})
    return csv_table(rows)


def summary(results: Sequence[Result], settings: Settings, tuned: Tuned = Tuned()) -> str:  # noqa: B008
    """Return the comparison as Markdown: levels, differences, and what may be read out of them."""
    found = outcomes(results, settings)
    keys = [(weights, metric, method) for weights in WEIGHTS for method in settings.methods for metric in METRICS]
    pairs = [(key, pair) for key in keys if (pair := found[key].difference) is not None and pair.low is not None]
    return render(
        Path(__file__).with_name("summary.md.j2"),
        settings=settings,
        names=_NAMES,
        views={view: _tables(shown, settings) for view, shown in _views(results, tuned).items()},
        choices=_choices(settings, tuned) if tuned.trials else "",
        intervals=len(pairs),
        apart=[(name, kept, _in_words(pair, metric)) for (kept, metric, name), pair in pairs if pair.told_apart],
        unscaled=sum(result[weights]["temperature"] is None for result in results for weights in WEIGHTS),
        evaluations=len(WEIGHTS) * len(results),
        starts=other_starts(results),
        sharing=_sharing(results),
    ).rstrip()


def _views(results: Sequence[Result], tuned: Tuned) -> dict[str, Sequence[Result]]:
    if not tuned.scaled:
        return {"equal epochs": results}
    others = [result for result in results if result["method"] not in tuned.scaled]
    return {"equal epochs": results, "equal student passes": [*others, *chain(*tuned.scaled.values())]}


def _corrected(found: Mapping[_Key, Outcome], settings: Settings) -> dict[_Key, Corrected]:
    """Correct the differences of each figure for the number of methods."""
    corrected: dict[_Key, Corrected] = {}
    for weights, metric in product(WEIGHTS, METRICS):
        pairs = {method: found[weights, metric, method].difference for method in settings.methods}
        corrected |= {(weights, metric, method): interval for method, interval in holm(pairs).items()}
    return corrected


def _tables(results: Sequence[Result], settings: Settings) -> dict[str, Any]:
    """Return a view's tables of levels, differences and corrected differences by weights, and its student passes."""
    reference, found = settings.reference, outcomes(results, settings)
    corrected = _corrected(found, settings)
    titles, compared = [metric.title for metric in METRICS], [name for name in settings.methods if name != reference]
    tables: dict[str, Any] = {"passes": mean_passes(results)}
    for weights in WEIGHTS:
        levels = []
        for method in settings.methods:
            seeds = sum(result["method"] == method for result in results)
            cells = [_with_std(found[weights, metric, method].level, metric) for metric in (*METRICS, TIME)]
            cost = extra_cost(results, method, reference) if method != reference else None
            levels.append([method, str(seeds), *cells, _as_share(cost)])
        keys = {method: [(weights, metric, method) for metric in METRICS] for method in compared}
        plain = [[name, *(_with_interval(found[key].difference, key[1]) for key in keys[name])] for name in compared]
        strict = [
            [name, *(_with_p(found[key].difference, corrected.get(key), key[1]) for key in keys[name])]
            for name in compared
        ]
        tables[weights] = {
            "levels": _lines(["method", "seeds", *titles, TIME.title, "extra time"], levels),
            "differences": _lines(["method", *titles], plain),
            "corrected": _lines(["method", *titles], strict) if len({key[2] for key in corrected}) > 1 else "",
        }
    return tables


def _choices(settings: Settings, tuned: Tuned) -> str:
    """Return the table of what was tried for each method, and what was chosen."""
    rows = []
    for method in settings.methods:
        axes = "; ".join(f"{key}: {', '.join(map(str, values))}" for key, values in settings.axes(method).items())
        choice = tuned.choices.get(method)
        if choice is None:
            rows.append([method, axes, "", "not yet" if method in tuned.choices else "nothing was tuned", "", ""])
            continue
        tried = f"{choice.tried} of {choice.grid}" + (f", {choice.failed} failed" if choice.failed else "")
        edges = in_words({key: choice.trial.setting[key] for key in choice.edges})
        rows.append([method, axes, tried, in_words(choice.trial.setting), f"{choice.accuracy:.2%}", edges])
    return _lines(
        ["method", "over", "settings tried", "chosen", "validation accuracy", "on the edge of the grid"], rows
    )


def _lines(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(markdown_table(columns, rows))


def _with_p(pair: Estimate | None, corrected: Corrected | None, metric: Metric) -> str:
    if pair is None or corrected is None:
        return ""
    return f"{_with_interval(pair._replace(low=corrected.low, high=corrected.high), metric)} p {corrected.p:.2g}"


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
        "times": [f"{median(values):.1f} ms {name} (runs: {len(values)})" for name, values in times.items() if values],
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
