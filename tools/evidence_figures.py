"""Draw the three figures of docs/evidence.md from the result files: ``python -m tools.evidence_figures``.

``map.png``: accuracy against the share of truth in what is taught, a line per teacher. ``prediction.png``: the best
share against what is measured of the teacher, and what rules lose. ``real_case.png``: methods on photographs.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tools.predict_share import FOLDER, Regime, read_regimes, table

_FINE = np.linspace(0, 1, 201)
_SHOWN = np.array([0, 0.1, 0.3, 0.6, 1])
_TITLES = {
    "few": "100 images a class",
    "all": "450 images a class",
    "cutmix": "CutMix",
    "mixup": "mixup",
    "none": "plain",
}


def draw_map(regimes: list[Regime]) -> Figure:
    """Draw accuracy against share, a panel for each size of data and way of mixing."""
    places = sorted({regime.name[::2] for regime in regimes}, key=lambda place: (place[0] == "all", place[1]))
    teachers = sorted({regime.name[1] for regime in regimes}, key=int, reverse=True)
    figure = Figure(figsize=(3.3 * len(places), 3.8), layout="constrained")
    panels = figure.subplots(1, len(places), sharey=True, squeeze=False)[0]
    for panel, place in zip(panels, places, strict=True):
        for regime in (regime for regime in regimes if regime.name[::2] == place):
            colour = f"C{teachers.index(regime.name[1])}"
            panel.plot(np.sqrt(_FINE), [regime.at(share) for share in _FINE], color=colour)
            tried = sorted(regime.accuracy)
            found, epochs = [regime.accuracy[share] for share in tried], f"{regime.name[1]} epochs"
            panel.plot(np.sqrt(tried), found, "o", color=colour, markersize=4, label=epochs)
        panel.set_title(", ".join(_TITLES[part] for part in place), fontsize=10)
        panel.set_xticks(np.sqrt(_SHOWN), [f"{share:g}" for share in _SHOWN])
        _finish(panel, "share of truth (1: labels alone)", "test accuracy, %" if panel is panels[0] else "")
        panel.get_legend().set_title("teacher of")
    return figure


def draw_prediction(regimes: list[Regime]) -> Figure:
    """Draw the best share against the first figure with its rule, and what every rule loses on regimes left out."""
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    rule, lost = figure.subplots(1, 2)
    lines = table(regimes)
    for number, regime in enumerate(regimes):
        colour, missed = f"C{number % 10}", next(iter(regime.figures.values()))
        near = [share for share in _FINE if regime.best[1] - regime.at(share) <= 0.5]
        rule.plot([missed] * 2, [min(near), max(near)], color=colour, linewidth=3, alpha=0.5)
        rule.plot([missed], [regime.best[0]], "o", color=colour, label=" ".join(regime.name))
    rule.plot(_FINE, _FINE**2, color="black", linewidth=1, label="share: auto")
    _finish(rule, "images whose top class is not in them, over guessing", "best share (bars: within half a point)")
    for place, name in enumerate(regimes[0].figures):
        points = [float(line[f"{name}: lost"]) for line in lines]
        for number, each in enumerate(points):
            lost.plot([each], [place + 0.05 * (number - len(points) / 2)], "o", color=f"C{number % 10}", markersize=5)
    lost.set_yticks(range(len(regimes[0].figures)), list(regimes[0].figures))
    lost.axvline(0.5, color="black", linewidth=0.8, linestyle=":")
    lost.set_xlabel("points lost to the best share, regime left out")
    lost.grid(alpha=0.3)
    return figure


def draw_real_case(results: Path, outside: Path) -> Figure:
    """Draw the test accuracy of every method and seed on photographs.

    Args:
        results: of the comparison ``configs/imagenette/compare.yaml``.
        outside: lines of ``tools.timm_task``.
    """
    found: dict[str, list[float]] = defaultdict(list)
    for path, name in ((results, "method"), (outside, "loss")):
        with path.open(encoding="utf-8", newline="") as lines:
            for row in csv.DictReader(lines):
                found[row[name]].append(100 * float(row["last_test_acc"]))
    figure = Figure(figsize=(6.5, 0.4 * len(found) + 1.2), layout="constrained")
    panel = figure.subplots()
    for place, values in enumerate(found.values()):
        panel.plot(values, [place] * len(values), "o", color="C0")
    panel.set_yticks(range(len(found)), list(found))
    panel.invert_yaxis()
    panel.set_xlabel("test accuracy, %")
    panel.grid(alpha=0.3)
    return figure


def _finish(panel: Axes, across: str, up: str) -> None:
    panel.set_xlabel(across)
    panel.set_ylabel(up)
    panel.legend(fontsize=7, title_fontsize=8)
    panel.grid(alpha=0.3)


def main() -> None:
    """Draw what there are results for."""
    results = FOLDER / "results"
    regimes = read_regimes(results / "map.csv", results / "map_teachers.csv")
    figures = {"map": draw_map(regimes), "prediction": draw_prediction(regimes)}
    figures["real_case"] = draw_real_case(results / "imagenette.csv", results / "imagenette_timm.csv")
    for name, figure in figures.items():
        figure.savefig(FOLDER / f"{name}.png", dpi=110, metadata={"Software": None})


if __name__ == "__main__":
    main()
