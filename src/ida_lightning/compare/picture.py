"""The differences of a comparison with their intervals, as a picture."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.figure import Figure

from ida_lightning.compare.estimates import METRICS, Estimate, Metric, Result, difference
from ida_lightning.compare.settings import Settings

_COLOURS = {"best": "#00798c", "last": "#8d99ae"}
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
    for weights, colour in _COLOURS.items():
        panels[0].plot([], [], "o", color=colour, label=_LABELS[weights])
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    return figure


def _draw(panel: object, pair: Estimate, metric: Metric, height: float, colour: str) -> None:
    mean = pair.mean * metric.scale
    face = colour if pair.told_apart else "white"
    if pair.low is not None and pair.high is not None:
        ends = [pair.low * metric.scale, pair.high * metric.scale]
        panel.plot(ends, [height, height], "-", color=colour)  # type: ignore[attr-defined]
    panel.plot([mean], [height], "o", color=colour, markerfacecolor=face)  # type: ignore[attr-defined]
