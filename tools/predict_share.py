"""Compare rules for the share of truth on the map: ``python -m tools.predict_share``, from the results that are there.

A regime is a size of data, a teacher and a way of mixing. Its students were taught with several shares of truth
(``docs/evidence/results/map.csv``); between these, accuracy is interpolated over the square root of the share, without
peaks of its own: the best share is one that was tried. A rule
makes a share of one figure of the teacher (``map_teachers.csv``) as ``figure ** power``. Its power is fitted on all
other regimes, so what it loses to the best share is always of a regime that it has not seen. The rule of
``ida_lightning.truth_needed`` is the first, with the power of that function. Writes ``prediction.csv`` beside the
results, which ``tools.evidence_figures`` draws, and from it what the audit expects of a teacher
(:mod:`ida_lightning.studies.audit.expectation`).
"""

from __future__ import annotations

import csv
import re
import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from scipy.interpolate import PchipInterpolator

from ida_lightning.files import replacing

FOLDER = Path("docs/evidence")
KNOWN = Path("src/ida_lightning/studies/audit/known.csv")
RULE = 2.0  # the power of ida_lightning.truth_needed
POWERS = np.arange(0.25, 6.01, 0.25)
SHARE = re.compile(r"share_[\d.]+")
_NAMES = ("images", "teacher_epochs", "mixing")


class Regime(NamedTuple):
    """What the map knows of one regime.

    Attributes:
        name: images, epochs of the teacher, and mixing.
        figures: of the teacher, from 0 to 1, the larger the weaker.
        accuracy: in percent, means over seeds, by share of truth.
        auto: of students taught by ``share: auto``; NaN if there are none yet.
    """

    name: tuple[str, str, str]
    figures: Mapping[str, float]
    accuracy: Mapping[float, float]
    auto: float

    def at(self, share: float) -> float:
        """Return the accuracy at a share of truth."""
        shares = sorted(self.accuracy)
        return float(PchipInterpolator(np.sqrt(shares), [self.accuracy[each] for each in shares])(np.sqrt(share)))

    @property
    def best(self) -> tuple[float, float]:
        """The best share that was tried, and its accuracy."""
        share = max(self.accuracy, key=lambda share: self.accuracy[share])
        return share, self.accuracy[share]

    @property
    def near(self) -> tuple[float, float]:
        """The least and the greatest share within half a point of the best accuracy."""
        near = [share for share in np.linspace(0, 1, 201) if self.best[1] - self.at(share) <= 0.5]
        return float(min(near)), float(max(near))


def read_regimes(results: Path, teachers: Path, photographs: Path | None = None) -> list[Regime]:
    """Read the regimes that have two shares or more between their teacher alone and the labels alone.

    Args:
        results: rows of the map.
        teachers: what is measured of their teachers.
        photographs: rows of ``configs/imagenette/compare.yaml``, one regime more.
    """
    with teachers.open(encoding="utf-8", newline="") as lines:
        measured = {tuple(row[name] for name in _NAMES): row for row in csv.DictReader(lines)}
    found: dict[tuple[str, ...], dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    with results.open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            found[tuple(row[name] for name in _NAMES)][row["method"]].append(100 * float(row["last_test_acc"]))
    if photographs is not None:
        with photographs.open(encoding="utf-8", newline="") as lines:
            for row in csv.DictReader(lines):
                teacher = "labels" if row["method"] == "labels_soft" else "imagenet"
                found["imagenette", teacher, "cutmix"][row["method"]].append(100 * float(row["last_test_acc"]))
    regimes = []
    for (images, epochs, mixing), methods in sorted(found.items()):
        labels = found[images, "labels", mixing].get("labels_soft", []) if epochs != "labels" else []
        shares = {float(name[6:]): np.mean(rows) for name, rows in methods.items() if SHARE.fullmatch(name)}
        if not labels or len(shares) < 2 or "kd_aug" not in methods or (images, epochs, mixing) not in measured:
            continue
        numbers = {key: float(value) for key, value in measured[images, epochs, mixing].items() if key not in _NAMES}
        figures = {
            "missed, over guessing": min(1.0, numbers["missed"] / numbers["missed_by_guessing"]),
            "wrong on what is shown": 1 - numbers["accuracy"],
            "order broken": numbers["violated"],
            "wrong on validation": 1 - numbers["val_accuracy"],
        }
        accuracy = {0.0: np.mean(methods["kd_aug"]), **shares, 1.0: shares.get(1.0, np.mean(labels))}
        auto = float(np.mean(methods["share_auto"])) if "share_auto" in methods else float("nan")
        regimes.append(Regime((images, epochs, mixing), figures, {s: float(a) for s, a in accuracy.items()}, auto))
    return regimes


def all_regimes() -> list[Regime]:
    """Read what is there."""
    return read_regimes(*(FOLDER / "results" / f"{name}.csv" for name in ("map", "map_teachers", "imagenette")))


def loss(regime: Regime, figure: str, power: float) -> float:
    """Return how many points a rule loses to the best share."""
    return regime.best[1] - regime.at(regime.figures[figure] ** power)


def fitted_power(regimes: list[Regime], figure: str) -> float:
    """Return the power that loses least on the mean of some regimes."""
    return float(POWERS[int(np.argmin([np.mean([loss(each, figure, power) for each in regimes]) for power in POWERS]))])


def table(regimes: list[Regime]) -> list[dict[str, str]]:
    """Make a line per regime: best share, that of every rule, and what is gained and lost."""
    lines = []
    for regime in regimes:
        others = [other for other in regimes if other is not regime]
        best_share, best = regime.best
        line = dict(zip(_NAMES, regime.name, strict=True))
        line |= {"best_share": f"{best_share:.2f}", "best": f"{best:.1f}", "own_answers": f"{regime.accuracy[0.0]:.1f}"}
        line |= {"labels_alone": f"{regime.accuracy[1.0]:.1f}", "share_auto": f"{regime.auto:.1f}"}
        for figure, value in regime.figures.items():
            power = RULE if figure == next(iter(regime.figures)) else fitted_power(others, figure)
            line[figure] = f"{value:.3f}"
            line[f"{figure}: share"] = f"{value**power:.2f}"
            line[f"{figure}: lost"] = f"{loss(regime, figure, power):.1f}"
        lines.append(line)
    return lines


def known(regimes: list[Regime]) -> list[dict[str, str]]:
    """Make a line per regime: how often its teacher misses, the shares near the best, and what ``auto`` gains."""
    lines = []
    for regime in regimes:
        missed = next(iter(regime.figures.values()))
        taught, accuracy = regime.at(missed**RULE), regime.accuracy
        line = {"missed": missed, "share_low": regime.near[0], "share_high": regime.near[1]}
        line |= {"over_answers": taught - accuracy[0.0], "over_labels": taught - accuracy[1.0]}
        lines.append({key: f"{value:.4g}" for key, value in line.items()} | {"set_up": " ".join(regime.name)})
    return lines


def main() -> int:
    """Write the tables, and print what every rule loses on regimes that it has not seen."""
    regimes = all_regimes()
    if len(regimes) < 3:
        print(f"predict_share: expected three regimes or more, got {len(regimes)}", file=sys.stderr)  # noqa: T201
        return 1
    lines = table(regimes)
    for path, rows in ((FOLDER / "results/prediction.csv", lines), (KNOWN, known(regimes))):
        with replacing(path) as unfinished, unfinished.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    for name in regimes[0].figures:
        lost = [float(line[f"{name}: lost"]) for line in lines]
        print(f"{name}: loses {np.mean(lost):.1f} points on the mean, {max(lost):.1f} at most")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
