"""The numbers of a comparison, from results made by hand."""

import csv
import re
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from ida_lightning.studies.compare.estimates import METRICS, estimate, extra_cost, holm, other_starts, outcomes
from ida_lightning.studies.compare.picture import plot_curves, plot_differences
from ida_lightning.studies.compare.report import summary, summary_csv
from ida_lightning.studies.compare.scores import _figures
from ida_lightning.studies.compare.settings import Settings

KEYS = [metric.key for metric in METRICS]


def result(method, seed, value, seconds=0.1, start="same", **changes):
    figures = dict.fromkeys(KEYS, value) | {"temperature": 1.5} | changes
    return {
        "method": method,
        "seed": seed,
        "last": figures,
        "best": figures,
        "seconds_per_step": seconds,
        "initial_weights": start,
    }


def fraction(right, images):
    """The accuracy that a cell reports."""
    return _figures("test", torch.eye(2)[(torch.arange(images) < right).long()], torch.ones(images).long())["test_acc"]


def settings(tmp_path, *methods):
    return Settings("fit.yaml", {method: {} for method in methods}, [0, 1, 2], "kd", str(tmp_path))


def outcome(results, method, weights, *methods):
    return outcomes(results, settings(Path(), "kd", *methods))[weights, METRICS[0], method]


@pytest.mark.parametrize("seeds", [2, 3, 10])
def test_intervals_are_those_of_scipys_paired_t_test(seeds):
    rng = np.random.default_rng(seeds)
    kd, ours = rng.normal(0.7, 0.02, seeds), rng.normal(0.71, 0.02, seeds)
    results = [result("kd", s, v) for s, v in enumerate(kd)] + [result("ours", s, v) for s, v in enumerate(ours)]
    found = outcome(results, "ours", "best", "ours").difference
    expected = scipy.stats.ttest_rel(ours, kd).confidence_interval(0.95)
    assert (found.seeds, found.mean) == (seeds, pytest.approx((ours - kd).mean()))
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))
    assert found.std == pytest.approx((ours - kd).std(ddof=1))
    reference = outcome(results, "kd", "last")
    assert reference.level.mean == pytest.approx(kd.mean())
    assert reference.difference is None


def test_only_seeds_that_both_have_are_paired():
    results = [result("kd", 0, 0.5), result("kd", 1, 0.6), result("ours", 1, 0.7), result("ours", 2, 0.9)]
    found = outcome(results, "ours", "last", "ours").difference
    assert (found.seeds, found.mean, found.low) == (1, pytest.approx(0.1), None)
    assert outcome([*results[:1], *results[3:]], "ours", "last", "ours").difference is None


def test_one_value_and_equal_values_have_no_interval():
    assert estimate([]) is None
    assert estimate([0.3])[2:] == (None, None, None)
    assert estimate([0.1 + 0.2, 0.3, 0.3])[3:] == (None, None)
    assert not estimate([0.3, 0.3, 0.3]).told_apart
    images, right = 360, (357, 351, 340)
    pairs = [(fraction(n, images), fraction(n - 1, images)) for n in right]
    assert estimate([own - other for own, other in pairs])[3:] == (None, None), "one image less, three times"


def test_extra_cost_is_a_share_of_the_references_step():
    results = [result("kd", s, 0.5, 0.1 * (s + 1)) for s in (0, 1)]
    results += [result("ours", s, 0.5, 0.11 * (s + 1)) for s in (0, 1)]
    assert extra_cost(results, "ours", "kd").mean == pytest.approx(0.1)
    results[-1]["seconds_per_step"] = 0.24
    text = summary(results, settings(Path(), "kd", "ours"))
    assert "| +15.0% [-48.5%, +78.5%] |" in text, "and has an interval: ratios of 1.1 and 1.2"


def test_the_text_claims_only_what_an_interval_shows(tmp_path):
    results = [result("kd", seed, 0.5 + seed / 100) for seed in range(3)]
    results += [result("noisy", seed, 0.5 + seed / 100 + d) for seed, d in enumerate((0.05, -0.03, 0.02))]
    results += [result("lower", seed, 0.4 + seed / 100 + d) for seed, d in enumerate((0.001, -0.001, 0.0))]
    text = summary(results, settings(tmp_path, "kd", "noisy", "lower"))
    assert "Intervals that leave out 0 (*): 12 of 24." in text
    assert "- lower, the best epoch on validation: accuracy % lower by 10.00 [-10.25, -9.75], worse" in text
    assert "- lower, the last epoch: NLL lower by 0.1000 [-0.1025, -0.0975], better" in text
    assert "agreement % lower by 10.00 [-10.25, -9.75]\n" in text, "agreement is neither good nor bad"
    assert "- noisy" not in text
    assert re.search(r"\+1\.33 \[-8\.71, \+11\.37\] +\|", text), "and no star"
    assert "Of 24 intervals at 95 % about 1 leave out 0 by chance alone." in text


def test_the_text_names_what_is_missing(tmp_path):
    results = [result("kd", 0, 0.5), result("other", 0, 0.6, start="another", temperature=None, test_nll_scaled=None)]
    text = summary(results, settings(tmp_path, "kd", "other")._replace(jobs=2))
    assert "No intervals: they take two seeds or more." in text
    assert "No temperature in 2 of 4 evaluations" in text
    assert "Not the same initial weights: seed 0: kd | other." in text
    assert "up to 2 runs side by side" in text
    assert other_starts(results[:1]) == []


def test_picture_has_every_difference_and_interval(tmp_path):
    results = [result(m, s, 0.5 + d * s) for m, d in (("kd", 0), ("ours", 0.01)) for s in range(3)]
    results.append(result("once", 0, 0.6))
    figure = plot_differences(results, settings(tmp_path, "kd", "ours", "once"))
    panel = figure.axes[0]
    assert len(figure.axes) == len(METRICS)
    assert [label.get_text() for label in panel.get_yticklabels()] == ["ours", "once"]
    shown = [(points.lines[0].get_data(), points.lines[2][0].get_segments()[0]) for points in panel.containers]
    assert [y for (_, [y]), _ in shown] == pytest.approx([-0.13, 0.87, 0.13, 1.13]), "best, then last"
    assert shown[0][0][0] == pytest.approx([1.0])
    ends = [segment[:, 0] for _, segment in shown]
    expected = outcome(results, "ours", "best", "ours").difference
    assert ends[0] == pytest.approx([100 * expected.low, 100 * expected.high])
    assert ends[1] == pytest.approx([10, 10]), "one seed has no interval"
    fillings = [points.lines[0].get_markerfacecolor() for points in panel.containers[:2]]
    assert fillings == ["white", "white"]


def test_curves_have_every_method_at_its_number(tmp_path):
    values = {"kd": (0.5, 0.6), "ours": (0.7, 0.9), "once": (0.8,)}
    results = [result(m, s, value) for m, found in values.items() for s, value in enumerate(found)]
    curves = {"strength": {"once": 0.5, "ours": 1.0, "kd": 0}, "share": {"kd": 0, "ours": 1}}
    figure = plot_curves(results, settings(tmp_path, *values)._replace(curves=curves))
    assert [panel.get_xlabel() for panel in figure.axes] == ["strength", "strength", "share", "share"]
    assert "over 2 seeds" in figure.get_suptitle()
    (best, _, (intervals,)), last = figure.axes[0].containers
    assert best.get_xdata() == pytest.approx([0, 0.5, 1], abs=0.01), "in the order of the numbers"
    assert best.get_ydata() == pytest.approx([55, 80, 80])
    assert last.lines[0].get_xdata() == pytest.approx(best.get_xdata(), abs=0.02)
    for segment, method in zip(intervals.get_segments()[::2], ("kd", "ours"), strict=True):
        expected = outcome(results, method, "best", *values).level
        assert segment[:, 1] == pytest.approx([100 * expected.low, 100 * expected.high])
    assert intervals.get_segments()[1][:, 1] == pytest.approx([80, 80]), "one seed has no interval"
    assert figure.axes[3].lines[0].get_ydata() == pytest.approx([0.55, 0.8])


def seeds_with(p, sign=1):
    """Two seeds' differences of which the paired t-test has this p-value."""
    ratio = scipy.stats.t.isf(p / 2, 1)
    return [sign * 1.0, sign * (ratio - 1) / (ratio + 1)]


@given(st.lists(st.tuples(st.floats(1e-4, 0.2), st.sampled_from([1, -1])), min_size=1, max_size=7))
@example([(0.02, 1), (0.03, 1), (0.04, -1)])  # the last one alone would be told from 0
@example([(0.01, 1), (0.02, 1), (0.04, 1)])  # each by the correction for those that are left
def test_holm_is_the_step_down_test(p_values):
    seeds = [seeds_with(*each) for each in p_values]
    pairs = {str(number): estimate(values) for number, values in enumerate(seeds)}
    corrected = holm(pairs)
    tested = {name: pair for name, pair in pairs.items() if pair.low is not None}
    assert corrected.keys() == tested.keys()
    plain = {name: scipy.stats.ttest_1samp(seeds[int(name)], 0).pvalue for name in tested}
    rejected, left = set(), dict(plain)
    while left and min(left.values()) <= 0.05 / len(left):
        rejected.add(min(left, key=left.get))
        del left[min(left, key=left.get)]
    for name, (low, high, p) in corrected.items():
        below = [other for other in plain if plain[other] <= plain[name]]
        steps = [(sum(plain[o] >= plain[other] for o in plain)) * plain[other] for other in below]
        assert p == pytest.approx(min(1, max(steps)), rel=1e-6, abs=1e-12)
        if abs(p - 0.05) > 1e-9:
            assert (not low <= 0 <= high) == (name in rejected) == (p <= 0.05)
        pair = tested[name]
        assert low <= pair.low + 1e-12, "never narrower than the plain interval"
        assert high >= pair.high - 1e-12
        assert low + high == pytest.approx(2 * pair.mean, abs=1e-9)


def test_one_method_needs_no_correction():
    pair = estimate([0.1, 0.3, 0.2])
    (found,) = holm({"ours": pair, "same": estimate([0.1, 0.1]), "none": None}).values()
    assert found[:2] == pytest.approx((pair.low, pair.high))
    assert found.p == pytest.approx(scipy.stats.ttest_1samp([0.1, 0.3, 0.2], 0).pvalue)


def test_corrected_intervals_stand_beside_the_plain_ones(tmp_path):
    results = [result("kd", seed, 0.5) for seed in range(3)]
    for name in ("one", "two"):
        results += [result(name, seed, 0.5 + d) for seed, d in enumerate((0.02, 0.03, 0.041))]
    pair = outcome(results, "one", "best", "one", "two").difference
    expected = scipy.stats.t.interval(1 - 0.05 / 2, 2, pair.mean, pair.std / 3**0.5)
    text = summary(results, settings(tmp_path, "kd", "one", "two"))
    assert f"+{100 * pair.mean:.2f} [{100 * expected[0]:+.2f}, {100 * expected[1]:+.2f}]" in text
    assert f"p {2 * scipy.stats.ttest_1samp((0.02, 0.03, 0.041), 0).pvalue:.2g}" in text
    rows = list(csv.DictReader(summary_csv(results, settings(tmp_path, "kd", "one", "two"), "run").splitlines()))
    row = next(row for row in rows if (row["method"], row["metric"]) == ("one", "test_acc"))
    assert float(row["holm_low"]) == pytest.approx(expected[0])
    assert float(row["low"]) == pytest.approx(pair.low)
    assert "Holm" not in summary(results[:6], settings(tmp_path, "kd", "one"))
