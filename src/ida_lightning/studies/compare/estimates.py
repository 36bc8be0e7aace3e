"""Reduces finished cells to means over seeds, and paired differences with their intervals."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from statistics import fmean, stdev
from typing import NamedTuple

from scipy.stats import t

from ida_lightning.studies.compare.cells import Result

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
    half = float(t.ppf((1 + LEVEL) / 2, count - 1)) * std / count**0.5
    return Estimate(count, mean, std, mean - half, mean + half)


def values_of(results: Sequence[Result], method: str, weights: str, key: str) -> dict[int, float]:
    """Return a figure of a method by seed, of the seeds that have it."""
    values = {r["seed"]: r[key] if key == TIME.key else r[weights][key] for r in results if r["method"] == method}
    return {seed: value for seed, value in values.items() if value is not None}


def level(results: Sequence[Result], method: str, weights: str, metric: Metric) -> Estimate | None:
    """Estimate a method's figure over seeds."""
    return estimate(list(values_of(results, method, weights, metric.key).values()))


def difference(results: Sequence[Result], method: str, reference: str, weights: str, metric: Metric) -> Estimate | None:
    """Estimate method minus reference over the seeds of both, which share initial weights, shuffling and draws."""
    own, other = (values_of(results, name, weights, metric.key) for name in (method, reference))
    return estimate([own[seed] - other[seed] for seed in own if seed in other])


def differences(
    results: Sequence[Result], methods: Iterable[str], reference: str, weights: str
) -> Iterator[tuple[str, Metric, Estimate | None]]:
    """Estimate every method but the reference, in every figure, minus the reference."""
    for method in methods:
        for metric in METRICS if method != reference else ():
            yield method, metric, difference(results, method, reference, weights, metric)


def extra_cost(results: Sequence[Result], method: str, reference: str) -> Estimate | None:
    """Estimate time per step as a share more than the reference's, over the seeds that both have."""
    own, other = (values_of(results, name, "last", TIME.key) for name in (method, reference))
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
