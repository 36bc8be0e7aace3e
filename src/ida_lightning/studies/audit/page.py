"""An audit as one HTML file that needs nothing else; its text is in ``page.html.j2``."""

from __future__ import annotations

import base64
import json
from pathlib import Path

from ida_lightning.studies.audit.examples import OTHERS, draw_examples
from ida_lightning.studies.audit.measure import CORRECTIONS, corrected_name
from ida_lightning.studies.audit.report import Report
from ida_lightning.studies.audit.verdict import MIXING_NAMES, Verdict, percent
from ida_lightning.studies.stddev import agreement_with_paper
from ida_lightning.studies.tables import as_png, render


def write_page(report: Report, verdict: Verdict, picture: bytes, run: str) -> str:
    """Return the page; ``picture`` is a PNG file, ``run`` the mark of the files that belong together."""
    examples = report.examples if report.examples is not None and len(report.examples.moved) else None
    return render(
        Path(__file__).with_name("page.html.j2"),
        report=report,
        verdict=verdict,
        picture=base64.b64encode(picture).decode(),
        examples=examples,
        examples_picture=base64.b64encode(as_png(draw_examples(examples), run)).decode() if examples else "",
        names=MIXING_NAMES,
        others=OTHERS,
        run=run,
        corrections=CORRECTIONS,
        corrected_name=corrected_name,
        agreement=agreement_with_paper(report.stddevs) if report.stddevs else None,
        config=json.dumps(report.facts["config"], indent=1),
        percent=percent,
    )
