"""An audit as one HTML file that needs nothing else; its text is in ``page.html.j2``."""

from __future__ import annotations

import base64
import json
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from ida_lightning.studies.audit.measure import CORRECTIONS, corrected_name
from ida_lightning.studies.audit.report import Report
from ida_lightning.studies.audit.verdict import Verdict, percent
from ida_lightning.studies.stddev import agreement_with_paper

_RATES = {
    "accuracy": "heaviest class first",
    "mix_reversed": "lighter above heavier",
    "rest_above": "rest above the image's",
    "violated": "either",
    "tau": "tau",
    "covers_any": "a class in top 2",
    "covers_all": "all in top 2",
}


def write_page(report: Report, verdict: Verdict, picture: bytes, run: str) -> str:
    """Return the page; ``picture`` is a PNG file, ``run`` the mark of the files that belong together."""
    corrections = {
        (name, temperature): f"{name}, T = {temperature:g}"
        for temperature in dict.fromkeys((report.configured.temperature, 1.0))
        for name in CORRECTIONS
    }

    def rates(mixing: str, rows: str = "all", *more: str) -> list[str]:
        values = {metric: report.value(mixing, metric, rows) for metric in (*_RATES, *more)}
        shown = [f"{value:.3f}" if metric == "tau" else percent(value) for metric, value in values.items()]
        return [*shown, f"{report.rows(mixing, rows):,}"]

    def moved(mixing: str) -> list[str]:
        def value(quantity: str, correction: tuple[str, float]) -> float:
            return report.value(mixing, corrected_name(quantity, *correction))

        return [f"{percent(value('moved_mass', each))}; {value('correction_kl', each):.4f}" for each in corrections]

    # Whatever is put in is text, also class names and paths with signs of HTML in them.
    template = Environment(autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True).from_string(
        Path(__file__).with_name("page.html.j2").read_text()
    )
    bins = ["several classes", *report.lambda_bins(report.mixed), "one class"]
    return template.render(
        report=report,
        verdict=verdict,
        picture=base64.b64encode(picture).decode(),
        run=run,
        titles=list(_RATES.values()),
        rates=rates,
        corrections=corrections,
        moved=moved,
        shares=[name for name in bins if report.rows(report.mixed, name)],
        worst=report.worst_pairs[report.mixed],
        agreement=agreement_with_paper(report.stddevs) if report.stddevs else None,
        config=json.dumps(report.facts["config"], indent=1),
        percent=percent,
        in_words=_in_words,
    )


def _in_words(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_in_words(part)}" for key, part in value.items())
    return str(value)
