"""The tables of docs/evidence.md and docs/how_much_truth.md, from the result files, for tools/evidence_figures.py."""

from __future__ import annotations

import csv
import math
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ida_lightning.studies.compare.estimates import estimate
from tools import taught
from tools.predict_share import SHARE, Regime, table


class _Run(NamedTuple):
    seed: str
    teacher: str
    accuracy: float
    nll: float
    agreement: float


def _beside(runs: list[_Run], others: list[_Run]) -> list[_Run]:
    """Return those of other runs that had the same teacher, else those of the same seeds, else all of them.

    A teacher that was trained anew on another kind of machine is another one, by a point.
    """
    for key in (1, 0):
        if same := [other for other in others if other[key] in {run[key] for run in runs}]:
            return same
    return others


def _means(runs: list[_Run]) -> list[float]:
    return [float(each) for each in np.mean([run[2:] for run in runs], 0)]


class Repair(NamedTuple):
    """A method beside the shares of truth, and what is left of its accuracy when its step towards the truth is known.

    Attributes:
        regime: in which it was tried, with blends of the same teacher file or seeds.
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
    runs_at: dict[tuple[str, ...], list[_Run]] = defaultdict(list)
    with results.open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            if row["teacher_epochs"] == "labels":  # they agree with nobody
                continue
            measured = [float(row[key]) for key in ("last_test_acc", "last_test_nll_scaled", "last_agreement")]
            run = _Run(row["seed"], row["teacher_sha256"], *measured)
            runs_at[tuple(row[key] for key in taught.PLACE)].append(run)
    repaired: list[Repair] = []
    for regime in sorted(regimes, key=lambda regime: -int(regime.name[1])):
        for place, step in steps.items():
            name, runs = place[3], runs_at.get(place)
            if place[:3] != regime.name or not runs or name in ("kd", "kd_aug") or SHARE.fullmatch(name):
                continue
            own_runs = _beside(runs, runs_at[(*regime.name, "kd_aug")])
            blends = {share: runs_at.get((*regime.name, f"share_{share}"), []) for share in regime.accuracy}
            blends[0.0] = own_runs
            same = {share: 100 * _means(_beside(runs, each))[0] for share, each in blends.items() if each}
            accuracy, nll, agreement = _means(runs)
            _, own_nll, own_agreement = _means(own_runs)
            towards, explained, ties = (float(step[key]) for key in ("towards", "explained", "ties"))
            blended = regime._replace(accuracy={**regime.accuracy, **same})
            more = (nll - own_nll, 100 * (agreement - own_agreement))
            repaired.append(Repair(blended, name, towards, explained, ties, 100 * accuracy, *more))
    return repaired


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


def gains(regimes: list[Regime], results: Path) -> str:
    """Return the table of what the best share and ``auto`` gain where there is more than one seed.

    Differences of runs of one seed, their means, and 95 % intervals by Student's t.

    Args:
        regimes: of the map.
        results: rows of the map.
    """
    runs: dict[tuple[str, ...], dict[str, float]] = defaultdict(dict)
    with results.open(encoding="utf-8", newline="") as lines:
        for row in csv.DictReader(lines):
            runs[tuple(row[key] for key in taught.PLACE)][row["seed"]] = 100 * float(row["last_test_acc"])

    def gained(method: tuple[str, ...], other: tuple[str, ...]) -> str:
        both = sorted(runs[method].keys() & runs[other].keys())
        found = estimate([runs[method][seed] - runs[other][seed] for seed in both])
        if found is None or found.low is None:
            return "–"
        return f"{found.mean:+.1f} [{found.low:+.1f}, {found.high:+.1f}]"

    rows = []
    for regime in regimes:
        images, teacher, mixing = regime.name
        own, labels = (*regime.name, "kd_aug"), (images, "labels", mixing, "labels_soft")
        best, auto = (*regime.name, f"share_{regime.best[0]}"), (*regime.name, "share_auto")
        if len(runs[own]) > 1 and best in runs:
            pairs = ((best, own), (best, labels), (auto, own), (auto, best))
            seeds = str(len(runs[own]))
            rows.append([images, teacher, mixing, seeds, f"{regime.best[0]:g}", *(gained(*pair) for pair in pairs)])
    heads = ["images", "teacher's epochs", "mixing", "seeds", "best share", "over own answers", "over labels"]
    return _markdown([*heads, "auto over own answers", "auto over the best share"], rows)


def taught_table(repaired: list[Repair]) -> str:
    """Return the table of the repairs."""
    heads = ["teacher's epochs", "method", "towards the truth", "of its change", "ties", "accuracy", "beyond a blend"]
    rows = [
        [
            repair.regime.name[1],
            repair.name,
            f"{repair.towards:.2f}",
            "–" if math.isnan(repair.explained) else f"{repair.explained:.2f}",
            *(f"{repair.ties:.2f}", f"{repair.accuracy:.1f}", f"{repair.beyond:+.1f}", f"{repair.nll:+.2f}"),
            f"{repair.agreement:+.1f}",
        ]
        for repair in sorted(repaired, key=lambda repair: (-int(repair.regime.name[1]), -repair.beyond))
    ]
    return _markdown([*heads, "scaled NLL", "agreement"], rows)


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
