"""Draws the differences and the curves of a comparison with their intervals."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ida_lightning.studies.compare.cells import Result
from ida_lightning.studies.compare.estimates import METRICS, Estimate, Metric, difference, level
from ida_lightning.studies.compare.settings import Settings

_COLOURS = {"best": "#00798c", "last": "#8d99ae"}
_CURVED = METRICS[:2]  # accuracy and NLL
_LABELS = {"best": "best epoch on validation", "last": "last epoch"}


def plot_differences(results: Sequence[Result], settings: Settings) -> Figure:
    """Draw method minus reference with its 95 % interval, a panel per figure; hollow where the interval holds 0."""
    methods = [method for method in settings.methods if method != settings.reference]
    figure = Figure(figsize=(3.2 * len(METRICS), 1.6 + 0.42 * len(methods)), layout="constrained")
    figure.suptitle(f"Minus {settings.reference}, same seeds: mean and 95 % interval (hollow: it holds 0)")
    if not methods:
        return figure
    panels = figure.subplots(1, len(METRICS), sharey=True, squeeze=False)[0]
    for panel, metric in zip(panels, METRICS, strict=True):
        panel.axvline(0, color="black", linewidth=0.8)
        for height, method in enumerate(methods):
            for weights, offset in (("best", -0.13), ("last", 0.13)):
                pair = difference(results, method, settings.reference, weights, metric)
                if pair is not None:
                    colour, x, y = _COLOURS[weights], metric.scale * pair.mean, height + offset
                    if ends := _ends(pair, metric):
                        panel.plot(ends, [y, y], "-", color=colour)
                    panel.plot([x], [y], "o", color=colour, markerfacecolor=colour if pair.told_apart else "white")
        panel.set_title(metric.title + (f"\n({metric.better} is better)" if metric.better else "\n(with the teacher)"))
        panel.set_yticks(range(len(methods)), methods)
        panel.set_ylim(len(methods) - 0.5, -0.5)
        _finish(panel, axis="x")
    _explain_colours(figure, panels[0])
    return figure


def plot_curves(results: Sequence[Result], settings: Settings) -> Figure:
    """Draw accuracy and NLL against the numbers of every curve of the settings, a row of panels each."""
    figure = Figure(figsize=(4.6 * len(_CURVED), 1.1 + 2.7 * len(settings.curves)), layout="constrained")
    figure.suptitle(f"Mean and 95 % interval over {len({result['seed'] for result in results})} seeds")
    rows = figure.subplots(len(settings.curves), len(_CURVED), squeeze=False)
    for panels, (name, numbers) in zip(rows, settings.curves.items(), strict=True):
        apart = 0.008 * (max(numbers.values()) - min(numbers.values()))
        for panel, metric in zip(panels, _CURVED, strict=True):
            for weights, shift in (("best", -apart), ("last", apart)):
                levels = [(x + shift, level(results, method, weights, metric)) for method, x in numbers.items()]
                curve = sorted((x, value) for x, value in levels if value is not None)
                means = [metric.scale * value.mean for _, value in curve]
                panel.plot([x for x, _ in curve], means, "o-", color=_COLOURS[weights], markersize=4)
                for x, value in curve:
                    if ends := _ends(value, metric):
                        panel.plot([x, x], ends, "-", color=_COLOURS[weights], alpha=0.6)
            panel.set_xlabel(name)
            panel.set_ylabel(f"{metric.title} ({metric.better} is better)")
            _finish(panel, axis="both")
    _explain_colours(figure, rows[0, 0])
    return figure


def _ends(value: Estimate, metric: Metric) -> list[float]:
    """Return the ends of an interval as they are shown; none where there is no interval."""
    return [metric.scale * end for end in (value.low, value.high) if end is not None]


def _finish(panel: Axes, axis: Literal["x", "both"]) -> None:
    panel.spines[["top", "right"]].set_visible(False)
    panel.grid(axis=axis, alpha=0.3)


def _explain_colours(figure: Figure, panel: Axes) -> None:
    for weights, colour in _COLOURS.items():
        panel.plot([], [], "o", color=colour, label=_LABELS[weights])
    handles, labels = panel.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
