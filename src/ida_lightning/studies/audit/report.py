"""Reduces rows to numbers: means by way of mixing and share, and the worst pairs of classes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch

from ida_lightning.studies.audit.examples import Examples
from ida_lightning.studies.audit.measure import Rows, corrected_name
from ida_lightning.studies.tables import csv_table
from ida_lightning.truth import missed_over_guessing, share_of_truth

LAMBDA_EDGES = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
LEAST_ROWS = 5  # of a pair of classes that is judged
_WORST = 10


class Measurement(NamedTuple):
    """One number, one line of ``audit.csv``.

    Attributes:
        mixing: ``clean``, ``mixup``, ``cutmix``, ``both`` (half and half) or ``mosaic``; for ``t_stddev`` one of
            :data:`ida_lightning.studies.stddev.AUGMENTATIONS`.
        bin: which rows; see :func:`bins`.
        metric: what; see :func:`ida_lightning.studies.audit.measure.measure_rows`.
        value: its mean over the rows.
        rows: how many.
    """

    mixing: str
    bin: str
    metric: str
    value: float
    rows: int


@dataclass(frozen=True)
class Pair:
    """Rates of the images whose two heaviest classes are these; ``moved_mass`` is that of the configured space."""

    classes: tuple[str, str]
    rows: int
    violated: float
    moved_mass: float


@dataclass(frozen=True)
class WorstPairs:
    """The worst of the pairs that have at least ``least_rows`` images.

    Attributes:
        pairs: how many pairs of classes were seen.
        judged: how many of them have enough images.
        least_rows: how many are enough.
        by_violated: highest violation rate first, equal ones by moved mass.
        by_moved_mass: highest moved mass first.
    """

    pairs: int
    judged: int
    least_rows: int
    by_violated: list[Pair]
    by_moved_mass: list[Pair]


class Configured(NamedTuple):
    """What the config would do in training.

    Attributes:
        mixing: the way of mixing, as :class:`Measurement` names it.
        probability: of mixing at all.
        space: that is corrected; softened, the default, if the config corrects nothing.
        strength: of the correction; None if the config corrects nothing.
        role: of the correction, likewise.
        temperature: of the soft labels.
        rectangles: whether CutMix is among the ways of mixing that were measured.
    """

    mixing: str
    probability: float
    space: str
    strength: float | None
    role: str | None
    temperature: float
    rectangles: bool = True

    @property
    def mixed(self) -> str:
        """The way of mixing, or half and half if the config does not mix; mixup where that is the only one."""
        if self.mixing != "clean":
            return self.mixing
        return "both" if self.rectangles else "mixup"

    @property
    def moved(self) -> str:
        """Name the moved mass in the configured space at the configured temperature."""
        return corrected_name("moved_mass", self.space, self.temperature)


@dataclass(frozen=True)
class Report:
    """All that an audit found.

    Attributes:
        facts: what was audited, with what, when.
        configured: what the config would do.
        measurements: every number.
        worst_pairs: by way of mixing.
        stddevs: T. stddev by augmentation, if it was measured; see :mod:`ida_lightning.studies.stddev`.
        examples: the mixed images that the correction would change most, for the page alone; None if there are none.
    """

    facts: dict[str, Any]
    configured: Configured
    measurements: list[Measurement]
    worst_pairs: dict[str, WorstPairs]
    stddevs: Sequence[Measurement] = ()
    examples: Examples | None = field(default=None, compare=False)

    @cached_property
    def _by_key(self) -> dict[tuple[str, str, str], Measurement]:
        return {(m.mixing, m.bin, m.metric): m for m in self.measurements}

    def value(self, mixing: str, metric: str, rows: str = "all") -> float:
        """Return the value of one measurement, NaN if there were no such rows."""
        measurement = self._by_key.get((mixing, rows, metric))
        return float("nan") if measurement is None else measurement.value

    def missed(self, mixing: str) -> float:
        """Return how often the teacher misses images of one way of mixing, over how often guessing would, at most 1."""
        return float(missed_over_guessing(*self._rates(mixing)))

    def truth_needed(self, mixing: str) -> float:
        """Return the share of truth that the answers to images of one way of mixing need."""
        return float(share_of_truth(*self._rates(mixing)))

    def _rates(self, mixing: str) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.tensor(self.value(mixing, "missed")), torch.tensor(self.value(mixing, "missed_by_guessing"))

    def rows(self, mixing: str, rows: str = "all") -> int:
        """Return the number of rows of a bin."""
        measurement = self._by_key.get((mixing, rows, "violated"))
        return 0 if measurement is None else measurement.rows

    @property
    def mixings(self) -> list[str]:
        """All measured ways of mixing, in order."""
        return list(dict.fromkeys(m.mixing for m in self.measurements))

    @property
    def mixed(self) -> str:
        """The configured way of mixing, or half and half if the config does not mix."""
        return self.configured.mixed

    def lambda_bins(self, mixing: str) -> list[str]:
        """List the bins of the heaviest share that have rows."""
        known = dict.fromkeys(m.bin for m in self.measurements if m.mixing == mixing)
        return [name for name in known if name[0].isdigit() or name.startswith("below")]

    def json(self, **more: Any) -> str:
        """Return everything as JSON."""
        content = {
            **self.facts,
            "configured": self.configured._asdict(),
            **more,
            "worst_pairs": {name: asdict(worst) for name, worst in self.worst_pairs.items()},
            "measurements": [m._asdict() for m in (*self.measurements, *self.stddevs)],
        }
        return json.dumps(content, indent=1, allow_nan=False) + "\n"

    def csv(self, run: str) -> str:
        """Return the measurements as CSV, one a line, each with the run that it is of."""
        return csv_table([{**m._asdict(), "run": run} for m in (*self.measurements, *self.stddevs)])


def bins(rows: Rows) -> dict[str, np.ndarray]:
    """Return the rows of every bin, bool ``(rows,)`` by name.

    The bins: ``all``, ``several classes``, those by the share of the heaviest, and ``one class``. Images of one class,
    unmixed or mixed with their own kind, have a bin to themselves: they have no second class and would all fall into
    the last bin of the shares. A bin holds its lower edge, the last one both.
    """
    several = rows.classes > 1
    inside = {"all": np.ones_like(several), "several classes": several}
    inside[f"below {LAMBDA_EDGES[0]:g}"] = several & (rows.heaviest < LAMBDA_EDGES[0])  # three images or more
    for low, high in pairwise(LAMBDA_EDGES):
        below = rows.heaviest <= high if high == LAMBDA_EDGES[-1] else rows.heaviest < high
        inside[f"{low:g}-{high:g}"] = several & (rows.heaviest >= low) & below
    return {**inside, "one class": ~several}


def summarise(mixing: str, rows: Rows) -> list[Measurement]:
    """Average every quantity by bin; rows whose order says nothing at all have no tau and do not count in it."""
    means = []
    for name, inside in bins(rows).items():
        for metric, values in rows.values.items():
            counted = values[inside & ~np.isnan(values)]
            if len(counted):
                means.append(Measurement(mixing, name, metric, float(counted.mean()), len(counted)))
    return means


def worst_pairs(rows: Rows, moved: str, class_names: list[str]) -> WorstPairs:
    """Find the pairs of classes with most violations and with most mass moved.

    Args:
        rows: of one way of mixing.
        moved: the name of the moved mass to go by.
        class_names: of all classes.
    """
    several = rows.classes > 1
    pairs, number = np.unique(np.sort(rows.labels[several], 1), axis=0, return_inverse=True)
    counts = np.bincount(number.ravel(), minlength=len(pairs))
    violated, mass = (
        np.bincount(number.ravel(), rows.values[name][several], len(pairs)) / counts for name in ("violated", moved)
    )
    judged = np.flatnonzero(counts >= LEAST_ROWS)

    def worst(*keys: np.ndarray) -> list[Pair]:
        ranked = judged[np.lexsort([-key[judged] for key in reversed(keys)])][:_WORST]
        names = [(class_names[first], class_names[second]) for first, second in pairs[ranked]]
        figures = (column[ranked].tolist() for column in (counts, violated, mass))
        return [Pair(*pair) for pair in zip(names, *figures, strict=True)]

    return WorstPairs(len(pairs), len(judged), LEAST_ROWS, worst(violated, mass), worst(mass, violated))
