"""The differences and the curves of a comparison with their intervals, as pictures."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ida_lightning.studies.compare.estimates import METRICS, Estimate, Metric, Result, difference, level
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
        for place, method in enumerate(methods):
            for weights, offset in (("best", -0.13), ("last", 0.13)):
                pair = difference(results, method, settings.reference, weights, metric)
                if pair is not None:
                    _draw(panel, pair, metric, place + offset, _COLOURS[weights])
        panel.set_title(metric.title + (f"\n({metric.better} is better)" if metric.better else "\n(with the teacher)"))
        panel.set_yticks(range(len(methods)), methods)
        panel.set_ylim(len(methods) - 0.5, -0.5)
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(axis="x", alpha=0.3)
    _explain_colours(figure, panels[0])
    return figure


def plot_curves(results: Sequence[Result], settings: Settings) -> Figure:
    """Draw accuracy and NLL against the numbers of every curve of the settings, a row of panels each."""
    figure = Figure(figsize=(4.6 * len(_CURVED), 1.1 + 2.7 * len(settings.curves)), layout="constrained")
    figure.suptitle(f"Mean and 95 % interval over {len({result['seed'] for result in results})} seeds")
    rows = figure.subplots(len(settings.curves), len(_CURVED), squeeze=False)
    for panels, (name, places) in zip(rows, settings.curves.items(), strict=True):
        apart = 0.008 * (max(places.values()) - min(places.values()))
        for panel, metric in zip(panels, _CURVED, strict=True):
            for weights, shift in (("best", -apart), ("last", apart)):
                found = [(x + shift, level(results, method, weights, metric)) for method, x in places.items()]
                _trace(panel, [(x, value) for x, value in found if value is not None], metric, _COLOURS[weights])
            panel.set_xlabel(name)
            panel.set_ylabel(f"{metric.title} ({metric.better} is better)")
            panel.spines[["top", "right"]].set_visible(False)
            panel.grid(alpha=0.3)
    _explain_colours(figure, rows[0, 0])
    return figure


def _trace(panel: Axes, found: list[tuple[float, Estimate]], metric: Metric, colour: str) -> None:
    found.sort()
    xs, means = [x for x, _ in found], [metric.scale * value.mean for _, value in found]
    panel.plot(xs, means, "o-", color=colour, markersize=4)
    for x, value in found:
        if value.low is not None and value.high is not None:
            panel.plot([x, x], [metric.scale * value.low, metric.scale * value.high], "-", color=colour, alpha=0.6)


def _explain_colours(figure: Figure, panel: Axes) -> None:
    for weights, colour in _COLOURS.items():
        panel.plot([], [], "o", color=colour, label=_LABELS[weights])
    handles, labels = panel.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)


def _draw(panel: Axes, pair: Estimate, metric: Metric, height: float, colour: str) -> None:
    mean = pair.mean * metric.scale
    face = colour if pair.told_apart else "white"
    if pair.low is not None and pair.high is not None:
        ends = [pair.low * metric.scale, pair.high * metric.scale]
        panel.plot(ends, [height, height], "-", color=colour)
    panel.plot([mean], [height], "o", color=colour, markerfacecolor=face)
