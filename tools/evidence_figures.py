"""Draw the figures of docs/evidence.md, write its tables, from the result files: ``python -m tools.evidence_figures``.

``map.png``: accuracy against the share of truth in what is taught, a line per teacher. ``prediction.png``: the best
share against what is measured of the teacher, and what rules lose. ``real_case.png``: methods on photographs.
``taught.png`` of docs/how_much_truth.md: accuracy against how far a method goes towards the truth.
"""

from __future__ import annotations

import csv
import json
import math
from collections import defaultdict
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ida_lightning.files import replacing
from tools import taught
from tools.evidence_tables import Repair, gains, repairs, tables, taught_table, written
from tools.predict_share import FOLDER, RULE, Regime, all_regimes, table

PAGES = (Path("docs/evidence.md"), Path("docs/how_much_truth.md"))
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
        here = [regime for regime in regimes if regime.name[::2] == place]
        for regime in sorted(here, key=lambda regime: -int(regime.name[1])):
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
        rule.plot([missed] * 2, regime.near, color=colour, linewidth=3, alpha=0.5)
        rule.plot([missed], [regime.best[0]], "o", color=colour, label=" ".join(regime.name))
    rule.plot(_FINE, _FINE**RULE, color="black", linewidth=1, label="share: auto")
    _finish(rule, "images whose top class is not in them, over guessing", "best share (bars: within half a point)")
    rule.legend(fontsize=7, loc="lower right")
    for place, name in enumerate(regimes[0].figures):
        points = [float(line[f"{name}: lost"]) for line in lines]
        for number, each in enumerate(points):
            lost.plot([each], [place + 0.05 * (number - len(points) / 2)], "o", color=f"C{number % 10}", markersize=5)
    lost.set_yticks(range(len(regimes[0].figures)), list(regimes[0].figures))
    lost.axvline(0.5, color="black", linewidth=0.8, linestyle=":")
    lost.set_xlabel("points lost to the best share, regime left out")
    lost.grid(alpha=0.3)
    return figure


def real_case(results: Path, outside: Path) -> dict[str, list[float]]:
    """Return test accuracies in percent by method, a seed each: of this package's comparison, then of timm's task.

    Args:
        results: of ``configs/imagenette/compare.yaml``.
        outside: lines of ``tools.timm_task``, those of other configs among them.
    """
    found: dict[str, list[float]] = defaultdict(list)
    with results.open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            found[row["method"]].append(100 * float(row["last_test_acc"]))
    for line in outside.read_text(encoding="utf-8").splitlines():
        if (run := json.loads(line))["config"].startswith("configs/imagenette"):
            found[f"timm, T = {run['temperature']:g}"].append(100 * run["test"])
    return dict(found)


def draw_real_case(found: dict[str, list[float]]) -> Figure:
    """Draw the test accuracy of every method and seed on photographs."""
    figure = Figure(figsize=(6.5, 0.4 * len(found) + 1.2), layout="constrained")
    panel = figure.subplots()
    for place, values in enumerate(found.values()):
        panel.plot(values, [place] * len(values), "o", color="C0")
    panel.set_yticks(range(len(found)), list(found))
    panel.invert_yaxis()
    panel.set_xlabel("test accuracy, %")
    panel.grid(alpha=0.3)
    return figure


def draw_taught(found: list[Repair]) -> Figure:
    """Draw accuracy against the step towards the truth: blends as a line, repairs as points, a panel per regime."""
    regimes = {each.regime.name: each.regime for each in found}
    figure = Figure(figsize=(4.6 * max(1, len(regimes)), 4.6), layout="constrained")
    panels = figure.subplots(1, max(1, len(regimes)), squeeze=False)[0]
    for panel, (place, regime) in zip(panels, regimes.items(), strict=False):
        panel.plot(np.sqrt(_FINE), [regime.at(share) for share in _FINE], color="0.6", label="blend with that share")
        for number, each in enumerate(one for one in found if one.regime.name == place):
            at = math.sqrt(min(1.0, max(0.0, each.towards)))
            panel.plot(
                [at], [each.accuracy], "osD^v"[number % 5], color=f"C{number % 10}", markersize=5, label=each.name
            )
        panel.set_title(f"teacher of {regime.name[1]} epochs, {_TITLES[regime.name[2]]}", fontsize=10)
        panel.set_xticks(np.sqrt(_SHOWN), [f"{share:g}" for share in _SHOWN])
        _finish(panel, "step towards the truth", "test accuracy, %")
        panel.legend(fontsize=6, ncols=2)
    return figure


def _finish(panel: Axes, across: str, up: str) -> None:
    panel.set_xlabel(across)
    panel.set_ylabel(up)
    panel.legend(fontsize=7, title_fontsize=8)
    panel.grid(alpha=0.3)


def main() -> None:
    """Draw and write what there are results for."""
    results = FOLDER / "results"
    regimes = all_regimes()
    photographs = real_case(results / "imagenette.csv", results / "timm.jsonl")
    mapped = [regime for regime in regimes if regime.name[1] != "imagenet"]
    repaired = repairs(mapped, taught.read(), results / "map.csv")
    figures = {"map": draw_map(mapped), "prediction": draw_prediction(regimes), "taught": draw_taught(repaired)}
    figures["real_case"] = draw_real_case(photographs)
    for name, figure in figures.items():
        figure.savefig(FOLDER / f"{name}.png", dpi=110, metadata={"Software": None})
    texts = tables(regimes, photographs) | {"taught": taught_table(repaired)}
    texts["gains"] = gains(mapped, results / "map.csv")
    for page in PAGES:
        with replacing(page) as unfinished:
            unfinished.write_text(written(page.read_text(encoding="utf-8"), texts), encoding="utf-8")


if __name__ == "__main__":
    main()
