"""What students gained in set-ups that were measured, by how often their teacher misses the images that it is shown."""

from __future__ import annotations

import csv
from functools import cache
from importlib.resources import files
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

_COLUMNS = ("missed", "share_low", "share_high", "over_answers", "over_labels")


class Gain(NamedTuple):
    """Points of test accuracy, with the interval that holds every measured set-up when the others predict it."""

    points: float
    low: float
    high: float


class Expectation(NamedTuple):
    """What a share of truth did for students of teachers like one.

    Attributes:
        share_low: the least share that was within half a point of the best, and
        share_high: the greatest.
        over_answers: gain over the teacher's own answers.
        over_labels: gain over the labels alone, at the same temperature and weight.
    """

    share_low: float
    share_high: float
    over_answers: Gain
    over_labels: Gain


def expect(missed: float) -> Expectation:
    """Interpolate between the set-ups of ``known.csv``: 20 classes of CIFAR-100, ten of ImageNet; docs/evidence.md.

    Args:
        missed: the rate of images whose most probable class is not in them, over that of guessing.

    Example:
        >>> good, weak = expect(0.1), expect(0.7)
        >>> good.over_answers.points < weak.over_answers.points, good.over_labels.points > weak.over_labels.points
        (True, True)
    """
    at, low, high, *gains = known().T
    over_answers, over_labels = (_gain(missed, at, values) for values in gains)
    return Expectation(float(np.interp(missed, at, low)), float(np.interp(missed, at, high)), over_answers, over_labels)


@cache
def known() -> npt.NDArray[np.float64]:
    """Return what was measured, ``(set-ups, 5)``: columns of ``known.csv``, which ``tools.predict_share`` writes."""
    text = files(__package__).joinpath("known.csv").read_text(encoding="utf-8")
    rows = [[float(row[name]) for name in _COLUMNS] for row in csv.DictReader(text.splitlines())]
    return np.array(sorted(rows))


def _gain(missed: float, at: npt.NDArray[np.float64], values: npt.NDArray[np.float64]) -> Gain:
    left_out = [np.interp(at[i], np.delete(at, i), np.delete(values, i)) - values[i] for i in range(len(at))]
    points, off = float(np.interp(missed, at, values)), float(np.abs(left_out).max())
    return Gain(points, points - off, points + off)
