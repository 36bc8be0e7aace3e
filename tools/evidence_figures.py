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
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ida_lightning.files import replacing
from tools import taught
from tools.predict_share import FOLDER, RULE, SHARE, Regime, all_regimes, table

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


class Repair(NamedTuple):
    """A method beside the shares of truth, and what is left of its accuracy when its step towards the truth is known.

    Attributes:
        regime: in which it was tried.
        name: of the method.
        towards: the truth, as a share of the way.
        explained: how much of what it changes is such a step; NaN if it changes no target.
        ties: share of rows with more than one largest value.
        accuracy: in percent; means over seeds, as are the next two.
        nll: scaled, above that of the teacher's own answers.
        agreement: with the teacher in percent, above that of its own answers.
    """

    regime: Regime
    name: str
    towards: float
    explained: float
    ties: float
    accuracy: float
    nll: float
    agreement: float

    @property
    def beyond(self) -> float:
        """Accuracy above that of a blend which goes as far towards the truth."""
        return self.accuracy - self.regime.at(min(1.0, max(0.0, self.towards)))


def repairs(regimes: list[Regime], steps: Mapping[tuple[str, ...], Mapping[str, str]], results: Path) -> list[Repair]:
    """Return the methods that were both trained with and listened to, shares of truth on all rows left out.

    Args:
        regimes: of the map.
        steps: lines of ``tools.taught``.
        results: rows of the map.
    """
    found: dict[tuple[str, ...], list[list[float]]] = defaultdict(list)
    with results.open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            if row["teacher_epochs"] == "labels":  # they agree with nobody
                continue
            measured = [float(row[key]) for key in ("last_test_acc", "last_test_nll_scaled", "last_agreement")]
            found[tuple(row[key] for key in taught.PLACE)].append(measured)
    lines_of: list[Repair] = []
    for regime in regimes:
        for place, step in steps.items():
            name = place[3]
            if place[:3] != regime.name or place not in found or name in ("kd", "kd_aug") or SHARE.fullmatch(name):
                continue
            accuracy, nll, agreement = np.mean(found[place], 0)
            _, own_nll, own_agreement = np.mean(found[(*regime.name, "kd_aug")], 0)
            numbers = [float(step[key]) for key in ("towards", "explained", "ties")]
            more = (100 * accuracy, nll - own_nll, 100 * (agreement - own_agreement))
            lines_of.append(Repair(regime, name, *numbers, *(float(each) for each in more)))
    return lines_of


def draw_taught(found: list[Repair]) -> Figure:
    """Draw accuracy against the step towards the truth: blends as a line, repairs as points, a panel per regime."""
    regimes = list({each.regime.name: each.regime for each in found}.values())
    figure = Figure(figsize=(4.6 * max(1, len(regimes)), 4.6), layout="constrained")
    for panel, regime in zip(figure.subplots(1, max(1, len(regimes)), squeeze=False)[0], regimes, strict=False):
        panel.plot(np.sqrt(_FINE), [regime.at(share) for share in _FINE], color="0.6", label="blend with that share")
        for number, each in enumerate(one for one in found if one.regime is regime):
            at = math.sqrt(min(1.0, max(0.0, each.towards)))
            panel.plot(
                [at], [each.accuracy], "osD^v"[number % 5], color=f"C{number % 10}", markersize=5, label=each.name
            )
        panel.set_title(f"teacher of {regime.name[1]} epochs, {_TITLES[regime.name[2]]}", fontsize=10)
        panel.set_xticks(np.sqrt(_SHOWN), [f"{share:g}" for share in _SHOWN])
        _finish(panel, "step towards the truth", "test accuracy, %")
        panel.legend(fontsize=6, ncols=2)
    return figure


def taught_table(found: list[Repair]) -> str:
    """Return the table of the repairs."""
    heads = ["teacher's epochs", "method", "towards the truth", "of its change", "ties", "accuracy", "beyond a blend"]
    rows = [
        [
            each.regime.name[1],
            each.name,
            f"{each.towards:.2f}",
            "–" if math.isnan(each.explained) else f"{each.explained:.2f}",
            *(f"{each.ties:.2f}", f"{each.accuracy:.1f}", f"{each.beyond:+.1f}", f"{each.nll:+.2f}"),
            f"{each.agreement:+.1f}",
        ]
        for each in sorted(found, key=lambda each: (-int(each.regime.name[1]), -each.beyond))
    ]
    return _markdown([*heads, "scaled NLL", "agreement"], rows)


def tables(regimes: list[Regime], photographs: dict[str, list[float]]) -> dict[str, str]:
    """Return the tables of the page by the name of their place."""
    shares = sorted({share for regime in regimes for share in regime.accuracy})
    rows = [
        [*regime.name, f"{next(iter(regime.figures.values())):.2f}"]
        + [f"{regime.accuracy[share]:.1f}" if share in regime.accuracy else "–" for share in shares]
        + ["–" if math.isnan(regime.auto) else f"{regime.auto:.1f}"]
        for regime in regimes
    ]
    heads = [
        "images",
        "teacher's epochs",
        "mixing",
        "missed, over guessing",
        *(f"{share:g}" for share in shares),
        "auto",
    ]
    lines = table(regimes)
    rules = [
        [name, *(f"{pick([float(line[f'{name}: lost']) for line in lines]):.1f}" for pick in (np.mean, max))]
        for name in regimes[0].figures
    ]
    cases = [[name, ", ".join(f"{value:.1f}" for value in values)] for name, values in photographs.items()]
    return {
        "map": _markdown(heads, rows),
        "rules": _markdown(["figure of the teacher", "points lost, mean", "at most"], rules),
        "real_case": _markdown(["taught", "test accuracy, %"], cases),
    }


def _markdown(heads: list[str], rows: list[list[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (heads, ["---"] * len(heads), *rows))


def written(page: str, texts: Mapping[str, str]) -> str:
    """Return a page with the texts between the comments of their names, of those that it has."""
    for name, text in texts.items():
        before, begin, rest = page.partition(f"<!-- {name}:begin -->\n")
        _, end, after = rest.partition(f"<!-- {name}:end -->")
        if begin and not end:
            raise ValueError(f"expected <!-- {name}:end --> after <!-- {name}:begin -->")
        page = f"{before}{begin}{text}\n{end}{after}" if begin else page
    return page


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
    for page in PAGES:
        with replacing(page) as unfinished:
            unfinished.write_text(written(page.read_text(encoding="utf-8"), texts), encoding="utf-8")


if __name__ == "__main__":
    main()
