"""Reduces finished cells to means over seeds, and paired differences with their intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import product
from statistics import fmean, stdev
from typing import NamedTuple

from scipy.stats import t

from ida_lightning.studies.compare.cells import Result
from ida_lightning.studies.compare.settings import Settings

LEVEL = 0.95
# Of the last epoch's weights, and of those of the best epoch on the validation images.
WEIGHTS = ("best", "last")


class Metric(NamedTuple):
    """A figure of a cell.

    Attributes:
        key: in ``cell.json``.
        title: for people.
        scale: what the figure is multiplied with there.
        digits: after the point.
        better: ``"higher"``, ``"lower"``, or ``""`` where neither is.
    """

    key: str
    title: str
    scale: float
    digits: int
    better: str


METRICS = (
    Metric("test_acc", "accuracy %", 100, 2, "higher"),
    Metric("test_nll", "NLL", 1, 4, "lower"),
    Metric("test_ece", "ECE %", 100, 2, "lower"),
    Metric("test_nll_scaled", "NLL, scaled", 1, 4, "lower"),
    Metric("test_ece_scaled", "ECE %, scaled", 100, 2, "lower"),
    Metric("agreement", "agreement %", 100, 2, ""),
)
TIME = Metric("seconds_per_step", "ms per step", 1000, 1, "")


class Estimate(NamedTuple):
    """A mean over seeds; ``std`` is None for one seed, ``low`` and ``high`` where there is no interval."""

    seeds: int
    mean: float
    std: float | None
    low: float | None
    high: float | None

    @property
    def told_apart(self) -> bool:
        """Whether the interval excludes 0."""
        return self.low is not None and self.high is not None and not self.low <= 0 <= self.high


def estimate(values: Sequence[float]) -> Estimate | None:
    """Estimate mean, standard deviation and the 95 % interval of the mean by Student's t; None without values.

    Of one value there is no interval, nor of values that are all the same: with few seeds on few images that happens
    by chance, and an interval without width would claim certainty.
    """
    if not values:
        return None
    mean, count = fmean(values), len(values)
    if count == 1:
        return Estimate(count, mean, None, None, None)
    std = stdev(values)
    if max(values) - min(values) <= 1e-9 * max(map(abs, values)):
        return Estimate(count, mean, std, None, None)
    half = _half_width(Estimate(count, mean, std, None, None), 1 - LEVEL)
    return Estimate(count, mean, std, mean - half, mean + half)


class Corrected(NamedTuple):
    """A difference among those of several methods: its interval and p-value after Holm's correction."""

    low: float
    high: float
    p: float


def holm(differences: Mapping[str, Estimate | None]) -> dict[str, Corrected]:
    """Correct several methods' differences for their number, so that chance tells none apart in 95 % of comparisons.

    The p-values of the paired t-tests are ordered. The i-th smallest of m is compared with 5 % / (m - i + 1), and its
    interval has the level that belongs to that; from the first on that is not below, all have that one's level. So an
    interval leaves out 0 just where Holm's step-down test tells the method from the reference. Nothing more is claimed:
    that all of them hold the true values at once is less likely than 95 %.

    Args:
        differences: by method; those without an interval are left out and do not count.

    Example:
        >>> pairs = {"one": estimate([1.0, 1.1, 0.9]), "other": estimate([1.0, -1.0, 0.5])}
        >>> {name: round(corrected.p, 3) for name, corrected in holm(pairs).items()}
        {'one': 0.007, 'other': 0.808}

    References:
        Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 6, 1979.
    """
    tested = {name: pair for name, pair in differences.items() if pair is not None and pair.low is not None}
    p_values = {name: _p_value(pair) for name, pair in tested.items()}
    corrected: dict[str, Corrected] = {}
    share, largest, rejects = 1 - LEVEL, 0.0, True
    for rank, name in enumerate(sorted(tested, key=lambda name: p_values[name])):
        left = len(tested) - rank
        share = (1 - LEVEL) / left if rejects else share
        largest = max(largest, min(1.0, left * p_values[name]))
        half = _half_width(tested[name], share)
        corrected[name] = Corrected(tested[name].mean - half, tested[name].mean + half, largest)
        rejects = rejects and p_values[name] <= share
    return corrected


def _p_value(pair: Estimate) -> float:
    assert pair.std is not None
    return float(2 * t.sf(abs(pair.mean) / (pair.std / math.sqrt(pair.seeds)), pair.seeds - 1))


def _half_width(value: Estimate, share: float) -> float:
    """Return half of the interval that leaves out the mean with a probability of ``share``."""
    assert value.std is not None
    return float(t.ppf(1 - share / 2, value.seeds - 1)) * value.std / math.sqrt(value.seeds)


class Outcome(NamedTuple):
    """A method in a metric: its level over its seeds, and its difference to the reference, of which there is none.

    The difference is method minus reference over the seeds of both, which share initial weights, shuffling and draws.
    """

    level: Estimate | None
    difference: Estimate | None


def outcomes(results: Sequence[Result], settings: Settings) -> dict[tuple[str, Metric, str], Outcome]:
    """Estimate levels and differences by weights, metric and method, in this order; time per step is among them."""
    outcomes = {}
    for weights, metric, method in product(WEIGHTS, (*METRICS, TIME), settings.methods):
        own, other = (_by_seed(results, name, weights, metric) for name in (method, settings.reference))
        pairs = [own[seed] - other[seed] for seed in own if seed in other and method != settings.reference]
        outcomes[weights, metric, method] = Outcome(estimate(list(own.values())), estimate(pairs))
    return outcomes


def _by_seed(results: Sequence[Result], method: str, weights: str, metric: Metric) -> dict[int, float]:
    if metric is TIME:
        results = timed(results)
    values = {r["seed"]: {**r, **r[weights]}[metric.key] for r in results if r["method"] == method}
    return {seed: value for seed, value in values.items() if value is not None}


def timed(results: Sequence[Result]) -> list[Result]:
    """Return the runs whose times compare: where some replayed answers, those that did or had no teacher."""
    replayed = [result for result in results if result.get("answers") in ("stored", None)]
    return replayed if any(result.get("answers") == "stored" for result in results) else list(results)


def extra_cost(results: Sequence[Result], method: str, reference: str) -> Estimate | None:
    """Estimate time per step as a share more than the reference's, over the seeds that both have."""
    own, other = (_by_seed(results, name, "last", TIME) for name in (method, reference))
    return estimate([own[seed] / other[seed] - 1 for seed in own if seed in other])


def other_starts(results: Sequence[Result]) -> list[str]:
    """List the seeds whose cells did not all start from the same weights, as different networks cannot."""
    starts: dict[int, dict[str, list[str]]] = {}
    for result in results:
        starts.setdefault(result["seed"], {}).setdefault(result["initial_weights"], []).append(result["method"])
    return [
        f"seed {seed}: {' | '.join(', '.join(methods) for methods in groups.values())}"
        for seed, groups in starts.items()
        if len(groups) > 1
    ]
