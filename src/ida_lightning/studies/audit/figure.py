"""Draws an audit on one page."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ida_lightning.studies.audit.measure import SPACES, corrected_name
from ida_lightning.studies.audit.report import Report
from ida_lightning.studies.audit.verdict import CLEARLY, HARDLY, Verdict

_RED, _TEAL, _OCHRE, _GREY = "#d1495b", "#00798c", "#edae49", "#8d8d8d"
_SPACE_COLOURS = (_TEAL, "#6a4c93", "#5b7c33")
_KINDS = {
    "mix_reversed": ("lighter class above heavier", _OCHRE),
    "rest_above": ("class not in the image above one that is", _RED),
    "violated": ("either", _GREY),
}
_NAME = 14  # letters of a class name


def draw(report: Report, verdict: Verdict) -> Figure:
    """Draw violations, tau and coverage by way of mixing, violations by share, mass moved by space, the worst pairs."""
    figure = Figure(figsize=(17, 8.5), layout="constrained")
    figure.suptitle(verdict.headline, fontsize=12, wrap=True)
    (violations, tau, coverage), (by_lambda, by_space, by_pair) = figure.subplots(2, 3)
    bars = {metric: (label, colour, 1.0) for metric, (label, colour) in _KINDS.items()}
    _grouped_bars(violations, report, bars, step=0.27, width=0.25, fmt="%.0f", fontsize=8)
    _percent_of_rows(violations, report, "Rows whose order is broken", columns=3)
    values = [report.value(mixing, "tau") for mixing in report.mixings]
    tau.bar_label(tau.bar(_with_rows(report), values, 0.5, color=_TEAL), fmt="%.2f", fontsize=8)
    tau.set_title("Kendall's tau over the pairs whose order is known", fontsize=11)
    tau.set_ylim(min(0, *values), 1.1)
    bars = {"covers_any": ("one or more", _TEAL, 1.0), "covers_all": ("all", _OCHRE, 1.0)}
    _grouped_bars(coverage, report, bars, step=0.4, width=0.37, fmt="%.0f", fontsize=8)
    _percent_of_rows(coverage, report, "Classes of the image among the teacher's top 2", columns=2)
    _by_lambda(by_lambda, report)
    _by_space(by_space, report)
    _by_pair(by_pair, report)
    for ax in figure.axes:
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize=9)
    return figure


def _grouped_bars(
    ax: Axes, report: Report, bars: dict[str, tuple[str, str, float]], step: float, width: float, **text: Any
) -> None:
    """Draw a group of bars for every way of mixing; ``bars`` has label, colour and alpha by metric."""
    for number, (metric, (label, colour, alpha)) in enumerate(bars.items()):
        centres = np.arange(len(report.mixings)) + step * (number - (len(bars) - 1) / 2)
        heights = [100 * report.value(mixing, metric) for mixing in report.mixings]
        drawn = ax.bar(centres, heights, width, color=colour, alpha=alpha, label=label)
        ax.bar_label(drawn, **text)


def _percent_of_rows(ax: Axes, report: Report, title: str, columns: int) -> None:
    ax.set_xticks(np.arange(len(report.mixings)), _with_rows(report))
    ax.set_title(title, fontsize=11)
    ax.set_ylabel("% of rows")
    _percent_axis(ax, 0, columns)


def _percent_axis(ax: Axes, low: float, columns: int) -> None:
    ax.set_ylim(low, 118)
    ax.set_yticks(range(0, 101, 20))
    _legend(ax, columns)


def _legend(ax: Axes, columns: int) -> None:
    ax.legend(fontsize=8, frameon=False, loc="upper center", ncols=columns, columnspacing=1)


def _with_rows(report: Report) -> list[str]:
    return [f"{name}\n{report.rows(name):,} rows" for name in report.mixings]


def _by_lambda(ax: Axes, report: Report) -> None:
    ax.set_title(f"By the share of the heaviest class ({report.mixed})", fontsize=11)
    names = report.lambda_bins(report.mixed)
    if not names:
        _write(ax, "no image of several classes")
        return
    lines = {metric: (label, colour, "-") for metric, (label, colour) in _KINDS.items()}
    lines[report.configured.moved] = (f"target moved ({report.configured.space})", _TEAL, "--")
    for metric, (label, colour, style) in lines.items():
        values = [100 * report.value(report.mixed, metric, name) for name in names]
        ax.plot(names, values, style, color=colour, marker="o", markersize=4, label=label)
    ax.set_ylabel("%")
    _percent_axis(ax, -3, columns=2)


def _by_space(ax: Axes, report: Report) -> None:
    shades = list(zip(dict.fromkeys((report.configured.temperature, 1.0)), (1.0, 0.4), strict=False))
    bars = {
        corrected_name("moved_mass", space, temperature): (f"{space}, T = {temperature:g}", colour, alpha)
        for space, colour in zip(SPACES, _SPACE_COLOURS, strict=True)
        for temperature, alpha in shades
    }
    step = 0.85 / len(bars)
    _grouped_bars(ax, report, bars, step, 0.92 * step, fmt="%.1f", fontsize=7, rotation=90, padding=2)
    for threshold in (HARDLY, CLEARLY):
        ax.axhline(100 * threshold, color=_GREY, linewidth=0.8, linestyle=":", zorder=0)
    ax.set_xticks(np.arange(len(report.mixings)), report.mixings)
    ax.margins(y=0.35)
    ax.set_title(f"Target that a correction moves (dotted: {100 * HARDLY:g} and {100 * CLEARLY:g} %)", fontsize=11)
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
    names = [f"{' + '.join(_shortened(name) for name in pair.classes)} ({pair.rows})" for pair in worst.by_moved_mass]
    moved = [100 * pair.moved_mass for pair in worst.by_moved_mass]
    bars = ax.barh(np.arange(len(names)), moved, 0.7, color=_TEAL)
    ax.bar_label(bars, [f"{100 * pair.violated:.0f} % broken" for pair in worst.by_moved_mass], fontsize=8, padding=3)
    ax.set_yticks(np.arange(len(names)), names)
    ax.invert_yaxis()
    ax.margins(x=0.2)
    ax.set_xlabel(f"% of the soft label ({report.configured.space}, T = {report.configured.temperature:g})")


def _write(ax: Axes, text: str) -> None:
    ax.text(0.5, 0.5, text, ha="center", transform=ax.transAxes)


def _shortened(name: str) -> str:
    # A dollar would start a formula.
    return (name if len(name) <= _NAME else name[: _NAME - 1] + "…").replace("$", r"\$")
