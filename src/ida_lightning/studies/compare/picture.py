"""Draws the differences and the curves of a comparison with their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ida_lightning.plots import plain_text
from ida_lightning.studies.compare.cells import Result
from ida_lightning.studies.compare.estimates import METRICS, Estimate, Metric, outcomes
from ida_lightning.studies.compare.settings import Settings

_COLOURS = {"best": "#00798c", "last": "#8d99ae"}
_CURVED = METRICS[:2]  # accuracy and NLL
_LABELS = {"best": "best epoch on validation", "last": "last epoch"}


def plot_differences(results: Sequence[Result], settings: Settings) -> Figure:
    """Draw method minus reference with its 95 % interval, a panel per figure; hollow where the interval holds 0."""
    found, methods = outcomes(results, settings), [name for name in settings.methods if name != settings.reference]
    figure = Figure(figsize=(3.2 * len(METRICS), 1.6 + 0.42 * len(methods)), layout="constrained")
    figure.suptitle(f"Minus {settings.reference}, same seeds: mean and 95 % interval (hollow: it holds 0)")
    if not methods:
        return plain_text(figure)
    panels = figure.subplots(1, len(METRICS), sharey=True, squeeze=False)[0]
    for panel, metric in zip(panels, METRICS, strict=True):
        panel.axvline(0, color="black", linewidth=0.8)
        for weights, offset in (("best", -0.13), ("last", 0.13)):
            for height, method in enumerate(methods):
                pair, colour = found[weights, metric, method].difference, _COLOURS[weights]
                if pair is not None:
                    filling = colour if pair.told_apart else "white"
                    mean, half = metric.scale * pair.mean, _half_width(pair, metric)
                    panel.errorbar(mean, height + offset, xerr=half, fmt="o", color=colour, markerfacecolor=filling)
        panel.set_title(metric.title + (f"\n({metric.better} is better)" if metric.better else "\n(with the teacher)"))
        panel.set_yticks(range(len(methods)), methods)
        panel.set_ylim(len(methods) - 0.5, -0.5)
        _finish(panel, axis="x")
    _explain_colours(figure)
    return plain_text(figure)


def plot_curves(results: Sequence[Result], settings: Settings) -> Figure:
    """Draw accuracy and NLL against the numbers of every curve of the settings, a row of panels each."""
    found = outcomes(results, settings)
    figure = Figure(figsize=(4.6 * len(_CURVED), 1.1 + 2.7 * len(settings.curves)), layout="constrained")
    figure.suptitle(f"Mean and 95 % interval over {len({result['seed'] for result in results})} seeds")
    rows = figure.subplots(len(settings.curves), len(_CURVED), squeeze=False)
    for panels, (name, numbers) in zip(rows, settings.curves.items(), strict=True):
        apart = 0.008 * (max(numbers.values()) - min(numbers.values()))
        for panel, metric in zip(panels, _CURVED, strict=True):
            for weights, shift in (("best", -apart), ("last", apart)):
                levels = [(x + shift, found[weights, metric, method].level) for method, x in numbers.items()]
                curve = sorted(((x, level) for x, level in levels if level is not None), key=itemgetter(0))
                means = [metric.scale * level.mean for _, level in curve]
                halves = [_half_width(level, metric) for _, level in curve]
                colour = _COLOURS[weights]
                panel.errorbar([x for x, _ in curve], means, halves, fmt="o-", markersize=4, color=colour)
            panel.set_xlabel(name)
            panel.set_ylabel(f"{metric.title} ({metric.better} is better)")
            _finish(panel, axis="both")
    _explain_colours(figure)
    return plain_text(figure)


def _half_width(value: Estimate, metric: Metric) -> float:
    """Return half of an interval as it is shown; 0, of which nothing is seen, where there is no interval."""
    return 0 if value.high is None else metric.scale * (value.high - value.mean)


def _finish(panel: Axes, axis: Literal["x", "both"]) -> None:
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(axis=axis, alpha=0.3)


def _explain_colours(figure: Figure) -> None:
    handles = [Line2D([], [], linestyle="", marker="o", color=_COLOURS[weights]) for weights in _LABELS]
    figure.legend(handles, list(_LABELS.values()), loc="outside lower center", ncols=2, frameon=False)
