"""Draws an audit on one page."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ida_lightning.plots import plain_text, shortened
from ida_lightning.studies.audit.measure import SPACES, corrected_name
from ida_lightning.studies.audit.report import Report
from ida_lightning.studies.audit.verdict import Verdict

_RED, _TEAL, _OCHRE, _GREY = "#d1495b", "#00798c", "#edae49", "#8d8d8d"
_SPACE_COLOURS = (_TEAL, "#6a4c93", "#5b7c33")
_Bars = dict[str, tuple[str, str, float]]
"""Label, colour and alpha by metric."""
_KINDS: _Bars = {
    "mix_reversed": ("lighter class above heavier", _OCHRE, 1.0),
    "rest_above": ("class not in the image above one that is", _RED, 1.0),
    "violated": ("either", _GREY, 1.0),
}
_COVERAGE: _Bars = {"covers_any": ("one or more", _TEAL, 1.0), "covers_all": ("all", _OCHRE, 1.0)}
_NAME = 14  # letters of a class name


def draw(report: Report, verdict: Verdict) -> Figure:
    """Draw violations, tau and coverage by way of mixing, violations by share, mass moved by space, the worst pairs."""
    figure = Figure(figsize=(17, 8.5), layout="constrained")
    figure.suptitle(verdict.headline, fontsize=12, wrap=True)
    (violations, tau, coverage), (by_lambda, by_space, by_pair) = figure.subplots(2, 3)
    _by_mixing(violations, report, "Rows whose order is broken", _KINDS)
    _percent_axis(violations, "% of rows", columns=3)
    _by_mixing(tau, report, "Kendall's tau over the pairs whose order is known", {"tau": ("", _TEAL, 1.0)}, 1, "%.2f")
    tau.set_ylim(min(0, *(report.value(mixing, "tau") for mixing in report.mixings)), 1.1)
    _by_mixing(coverage, report, "Classes of the image among the teacher's top 2", _COVERAGE)
    _percent_axis(coverage, "% of rows", columns=2)
    _by_lambda(by_lambda, report)
    _by_space(by_space, report)
    _by_pair(by_pair, report)
    for ax in figure.axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize=9)
    return plain_text(figure)


def _by_mixing(
    ax: Axes, report: Report, title: str, bars: _Bars, scale: float = 100, fmt: str = "%.0f", **text: Any
) -> None:
    """Draw a group of bars for every way of mixing."""
    step, ways = 0.82 / len(bars), np.arange(len(report.mixings))
    for number, (metric, (label, colour, alpha)) in enumerate(bars.items()):
        heights = [scale * report.value(mixing, metric) for mixing in report.mixings]
        centres = ways + step * (number - (len(bars) - 1) / 2)
        drawn = ax.bar(centres, heights, 0.92 * step, color=colour, alpha=alpha, label=label)
        ax.bar_label(drawn, fmt=fmt, **{"fontsize": 8, **text})
    ax.set_xticks(ways, [f"{name}\n{report.rows(name):,} rows" for name in report.mixings])
    ax.set_title(title, fontsize=11)


def _percent_axis(ax: Axes, label: str, columns: int, low: float = 0) -> None:
    ax.set_ylabel(label)
    ax.set_ylim(low, 118)
    ax.set_yticks(range(0, 101, 20))
    _legend(ax, columns)


def _legend(ax: Axes, columns: int) -> None:
    ax.legend(fontsize=8, frameon=False, loc="upper center", ncols=columns, columnspacing=1)


def _by_lambda(ax: Axes, report: Report) -> None:
    ax.set_title(f"By the share of the heaviest class ({report.mixed})", fontsize=11)
    names = report.lambda_bins(report.mixed)
    if not names:
        _write(ax, "no image of several classes")
        return
    moved = report.configured.moved
    lines: _Bars = {**_KINDS, moved: (f"target moved ({report.configured.space})", _TEAL, 1.0)}
    for metric, (label, colour, _) in lines.items():
        values = [100 * report.value(report.mixed, metric, name) for name in names]
        ax.plot(names, values, "--" if metric == moved else "-", color=colour, marker="o", markersize=4, label=label)
    _percent_axis(ax, "%", columns=2, low=-3)


def _by_space(ax: Axes, report: Report) -> None:
    alphas = {report.configured.temperature: 1.0}
    alphas.setdefault(1.0, 0.4)
    bars = {
        corrected_name("moved_mass", space, temperature): (f"{space}, T = {temperature:g}", colour, alpha)
        for space, colour in zip(SPACES, _SPACE_COLOURS, strict=True)
        for temperature, alpha in alphas.items()
    }
    _by_mixing(ax, report, "Target that a correction moves", bars, fmt="%.1f", fontsize=7, rotation=90, padding=2)
    ax.margins(y=0.35)
    ax.set_ylabel("% of the soft label")
    _legend(ax, columns=3)


def _by_pair(ax: Axes, report: Report) -> None:
    worst = report.worst_pairs[report.mixed]
    ax.set_title(
        f"Pairs with most target moved ({report.mixed}; {worst.judged:,} of {worst.pairs:,} pairs\n"
        f"have {worst.least_rows} images or more; the worst of many are partly chance)",
        fontsize=11,
    )
    if not worst.by_moved_mass:
        _write(ax, f"no pair of classes with {worst.least_rows} images")
        return
    names = [
        f"{' + '.join(shortened(name, _NAME) for name in pair.classes)} ({pair.rows})" for pair in worst.by_moved_mass
    ]
    moved = [100 * pair.moved_mass for pair in worst.by_moved_mass]
    bars = ax.barh(np.arange(len(names)), moved, 0.7, color=_TEAL)
    ax.bar_label(bars, [f"{100 * pair.violated:.0f} % broken" for pair in worst.by_moved_mass], fontsize=8, padding=3)
    ax.set_yticks(np.arange(len(names)), names)
    ax.invert_yaxis()
    ax.margins(x=0.2)
    ax.set_xlabel(f"% of the soft label ({report.configured.space}, T = {report.configured.temperature:g})")


def _write(ax: Axes, text: str) -> None:
    ax.text(0.5, 0.5, text, ha="center", transform=ax.transAxes)
