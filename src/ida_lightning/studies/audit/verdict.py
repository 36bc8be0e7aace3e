"""Derives the verdict of an audit and its reasons, in words, from the numbers."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, NamedTuple

from ida_lightning.studies.audit.expectation import expect
from ida_lightning.studies.audit.measure import SPACES, corrected_name
from ida_lightning.studies.audit.report import Report
from ida_lightning.studies.tables import render

# Below this share what is taught is what the teacher says.
_HARDLY = 0.02
MIXING_NAMES = {"clean": "clean", "mixup": "mixup", "cutmix": "CutMix", "both": "mixup/CutMix", "mosaic": "mosaic"}


class Verdict(NamedTuple):
    """The answer.

    Attributes:
        code: ``teacher_first``, ``own_answers``, ``labels_alone`` or ``blend``.
        headline: the answer in a sentence.
        reasons: the numbers behind it, in sentences.
        thresholds: how the code follows from the numbers.
        truth: the share that is needed, and what it did for students of teachers that miss as often
            (:class:`~ida_lightning.studies.audit.expectation.Expectation`).
    """

    code: str
    headline: str
    reasons: list[str]
    thresholds: list[str]
    truth: dict[str, Any]


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
    configured, least = report.configured, least_accuracy(report.facts["data"]["classes"])
    moved: dict[str, float] = {
        name: report.value(configured.mixing, corrected_name("moved_mass", name, configured.temperature))
        for name in SPACES
    }
    share = report.truth_needed(configured.mixing)
    expected = expect(report.missed(configured.mixing))
    if report.value("clean", "accuracy") < least:
        code = "teacher_first"
    elif share < _HARDLY:
        code = "own_answers"
    else:
        code = "blend" if expected.over_labels.high > 0 else "labels_alone"

    def worst_bin(metric: str) -> str:
        return max(report.lambda_bins(report.mixed), key=lambda name: report.value(report.mixed, metric, name))

    text = render(
        Path(__file__).with_name("verdict.txt.j2"),
        report=report,
        code=code,
        moved=moved,
        share=share,
        expected=expected,
        limits={"least": least, "hardly": _HARDLY},
        names=MIXING_NAMES,
        corrected_name=corrected_name,
        percent=percent,
        worst_bin=worst_bin,
    )
    [headline], thresholds, reasons = (
        [" ".join(paragraph.split()) for paragraph in part.split("\n\n") if paragraph.strip()]
        for part in text.split("\n---\n")
    )
    return Verdict(code, headline, reasons, thresholds, {"share": share, **expected._asdict()})
