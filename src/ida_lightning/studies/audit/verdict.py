"""Derives the verdict of an audit and its reasons, in words, from the numbers."""

from __future__ import annotations

import math
from typing import NamedTuple

from ida_lightning.studies.audit.measure import SPACES, corrected_name
from ida_lightning.studies.audit.report import Report

# A pilot with small networks on CIFAR-100 (four seeds) saw no gain where 2 % of the target moved. So 1 % is hardly a
# change, and what is to be noticed should be several times as much.
HARDLY, CLEARLY = 0.01, 0.05
_RARELY = 0.01
_NAMES = {"clean": "clean", "mixup": "mixup", "cutmix": "CutMix", "both": "mixup/CutMix", "mosaic": "mosaic"}


class Verdict(NamedTuple):
    """The answer.

    Attributes:
        code: ``teacher_first``, ``not_worth_it``, ``small`` or ``worth_comparing``.
        headline: the answer in a sentence.
        reasons: the numbers behind it, in sentences.
        thresholds: how the code follows from the numbers.
    """

    code: str
    headline: str
    reasons: list[str]
    thresholds: list[str]


def percent(share: float) -> str:
    """Write a share in percent; "-" for NaN."""
    if math.isnan(share):
        return "-"
    return f"{100 * share:.{2 if 0 < abs(share) < 0.01 else 1}f} %"


def least_accuracy(classes: int) -> float:
    """Return the accuracy below which a teacher is close to chance: twice chance, half-way up for two classes."""
    return min(2 / classes, (1 + 1 / classes) / 2)


def judge(report: Report) -> Verdict:
    """Judge what the config would do, from the numbers alone."""
    space, temperature = report.configured.space, report.configured.temperature
    least = least_accuracy(report.facts["data"]["classes"])
    moved: dict[str, float] = {
        name: report.value(report.configured.mixing, corrected_name("moved_mass", name, temperature)) for name in SPACES
    }
    most = max(moved, key=lambda name: moved[name])
    images = f"on {_NAMES[report.configured.mixing]} images"
    target = f"correcting would move {percent(moved[space])} of the target ({space} space, T = {temperature:g})"
    accuracy, violated = report.value("clean", "accuracy"), report.value(report.configured.mixing, "violated")
    if accuracy < least:
        code = "teacher_first"
        headline = f"Train the teacher first: it is right on {percent(accuracy)} of the clean images, close to chance."
    elif violated < _RARELY:
        code = "not_worth_it"
        headline = f"Not worth it: {images} the teacher breaks the order in {percent(violated)} of the rows only."
    elif moved[space] < HARDLY:
        code, elsewhere = "not_worth_it", "The other spaces change as little."
        if moved[most] >= HARDLY:
            elsewhere = f"In {most} space it would be {percent(moved[most])}."
        headline = f"Not worth it as configured: {images} {target}. {elsewhere}"
    elif moved[space] < CLEARLY:
        code = "small"
        headline = f"A small change: {images} {target}. An effect on the student may be hard to see."
    else:
        code, headline = "worth_comparing", f"Worth a comparison: {images} {target}."
    thresholds = [
        f"teacher_first: accuracy on clean training images below {percent(least)}",
        f"not_worth_it: fewer than {100 * _RARELY:g} % of the rows break the order, or less than {100 * HARDLY:g} % of "
        "the target moves in the configured space",
        f"small: {100 * HARDLY:g} to {100 * CLEARLY:g} % of the target moves",
        f"worth_comparing: {100 * CLEARLY:g} % or more moves",
    ]
    return Verdict(code, headline, _reasons(report, most), thresholds)


def _reasons(report: Report, most: str) -> list[str]:
    mixing, probability, space, strength, role, temperature = report.configured

    def value(metric: str, way: str = mixing) -> float:
        return report.value(way, metric)

    def spaces(at: float) -> str:
        return ", ".join(f"{name} {percent(value(corrected_name('moved_mass', name, at)))}" for name in SPACES)

    def gain(to: str) -> str:
        return f"{100 * value(corrected_name(to, space, temperature)):+.2f}"

    def worst_bin(metric: str) -> str:
        rates = {name: report.value(report.mixed, metric, name) for name in report.lambda_bins(report.mixed)}
        name = max(rates, key=lambda name: rates[name])
        return f"{name} ({percent(rates[name])})"

    reasons = [
        f"Violations, {_NAMES[mixing]} ({report.rows(mixing):,} rows): {percent(value('violated'))} of the rows "
        f"break the order; in {percent(value('mix_reversed'))} a lighter class of the image is above a heavier one, in "
        f"{percent(value('rest_above'))} a class that is not in the image is above one that is. Kendall's tau over the "
        f"known pairs is {value('tau'):.3f}.",
        f"Clean training images: accuracy {percent(value('accuracy', 'clean'))}, another class above the image's "
        f"own in {percent(value('rest_above', 'clean'))}, so what is beyond that comes from mixing.",
    ]
    if report.lambda_bins(report.mixed):
        reasons.append(
            f"By the share of the heavier class ({_NAMES[report.mixed]}): most violations at {worst_bin('violated')}, "
            f"most mass moved at {worst_bin(report.configured.moved)}."
        )
    reasons.append(f"Target moved at T = {temperature:g}: {spaces(temperature)}; most in {most} space.")
    if temperature != 1:
        reasons.append(f"The same at T = 1: {spaces(1.0)}.")
    reasons.append(
        f"In expectation ({space} space, T = {temperature:g}), in points of 100: heaviest class {gain('to_heaviest')}, "
        f"the image's other classes {gain('to_others')}, all the rest {gain('to_rest')}."
    )
    reasons += _revision(report)
    if strength is None:
        reasons.append("The config corrects nothing; what is said of it is about softened space, the default.")
    elif strength != 1:
        reasons.append(f"The numbers are of full correction; the config has strength {strength:g}.")
    if role == "add":
        reasons.append("They are of replacing the soft label; the config adds a second term, and so moves less.")
    if probability < 1 and mixing != "clean":
        reasons.append(f"The numbers are of mixed images; the config mixes with probability {probability:g}.")
    left_out = report.facts["data"]["nonfinite_rows"][mixing]
    if left_out:
        reasons.append(f"Left out: {left_out:,} rows for which the teacher's logits were NaN or infinite.")
    reasons.append(
        "This says how much of the target changes and where, not whether a student becomes more accurate: only "
        "students trained both ways, with several seeds, can tell."
    )
    return reasons


def _revision(report: Report) -> list[str]:
    """Describe what label revision and data selection would do, beside the correction."""
    revision, selection = report.facts["revision"], report.facts["selection"]
    temperature = report.configured.temperature

    def shares(metric: str) -> str:
        ways = {"clean": "clean", report.mixed: _NAMES[report.mixed], "validation": "validation"}
        return ", ".join(f"{percent(report.value(way, metric))} ({name})" for way, name in ways.items())

    sentences = [
        f"Label revision (eta {revision['eta']:g}, {revision['space']} space, T = {temperature:g}): the teacher is "
        f"wrong about the order of {shares('violated')} of the images; revising moves "
        f"{shares(corrected_name('moved_mass', 'revision', temperature))} of the target, correcting "
        f"{shares(report.configured.moved)}."
    ]
    if selection is None:
        return sentences
    if "trusted" not in selection:
        return [*sentences, "Data selection looks at the student, whom an audit does not train."]
    parts = {"right": "trusted_where_right", f"wrong ({percent(selection['teacher_wrong'])})": "trusted_where_wrong"}
    trusted = " and ".join(
        f"{percent(selection[key])} of those where it is {where}"
        for where, key in parts.items()
        if selection[key] is not None
    )
    helped = ""
    if selection["score"] == "influence":
        helped = f"; to the first order it helps more than the ground truth on {percent(selection['positive_scores'])}"
    sentence = f"Data selection ({selection['score']}): the teacher teaches {percent(selection['trusted'])} of the"
    return [*sentences, f"{sentence} training images, {trusted}{helped}."]
