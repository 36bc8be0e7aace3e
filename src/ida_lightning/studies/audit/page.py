"""An audit as one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Iterable, Sequence

from ida_lightning.studies.audit.measure import CORRECTIONS, corrected_name
from ida_lightning.studies.audit.report import Pair, Report
from ida_lightning.studies.audit.verdict import Verdict, percent
from ida_lightning.studies.stddev import agreement_with_paper
from ida_lightning.studies.tables import html_table

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1080px; margin: 2em auto; padding: 0 1em; color: #222; }
h1 { font-size: 1.5em; } h2 { font-size: 1.15em; margin-top: 2em; }
.verdict { border-left: 5px solid #00798c; background: #eef6f7; padding: .6em 1em; font-size: 1.1em; }
table { border-collapse: collapse; font-size: .93em; margin: .6em 0; }
th, td { padding: .2em .8em; text-align: right; border-bottom: 1px solid #ddd; }
th:first-child, td:first-child { text-align: left; }
img { max-width: 100%; } pre { background: #f5f5f5; padding: 1em; overflow-x: auto; font-size: .85em; }
small { color: #666; }
"""
_RATES = {
    "accuracy": "heaviest class first",
    "mix_reversed": "lighter above heavier",
    "rest_above": "rest above the image's",
    "violated": "either",
    "tau": "tau",
    "covers_any": "a class in top 2",
    "covers_all": "all in top 2",
}
_MOVES = ("moved_mass", "correction_kl")


def write_page(report: Report, verdict: Verdict, picture: bytes, run: str) -> str:
    """Return the page.

    Args:
        report: the numbers.
        verdict: what they mean.
        picture: a PNG file.
        run: the mark of the files that belong together.
    """
    facts, mixed, pairs = report.facts, html.escape(report.mixed), report.worst_pairs[report.mixed]
    encoded = base64.b64encode(picture).decode()
    spaces = [(name, each) for each in dict.fromkeys((report.configured.temperature, 1.0)) for name in CORRECTIONS]
    lambdas = [*_RATES, report.configured.moved]
    bins = ["several classes", *report.lambda_bins(report.mixed), "one class"]

    def rates(mixing: str, metrics: Iterable[str], rows: str = "all") -> list[str]:
        values = [(metric, report.value(mixing, metric, rows)) for metric in metrics]
        shown = [f"{value:.3f}" if metric == "tau" else percent(value) for metric, value in values]
        return [*shown, f"{report.rows(mixing, rows):,}"]

    def moved(mixing: str, name: str, temperature: float) -> str:
        mass, kl = (report.value(mixing, corrected_name(key, name, temperature)) for key in _MOVES)
        return f"{percent(mass)}; {kl:.4f}"

    parts = [
        "<h1>Audit of a teacher</h1>",
        f'<p class="verdict"><b>{html.escape(verdict.headline)}</b></p>',
        _list(verdict.reasons),
        f"<p>Thresholds (this audit: <b>{html.escape(verdict.code)}</b>):</p>",
        _list(verdict.thresholds),
        f'<p><img alt="violations, moved mass, pairs" src="data:image/png;base64,{encoded}"></p>',
        "<h2>Order, by way of mixing</h2>",
        html_table(["", *_RATES.values(), "rows"], [[name, *rates(name, _RATES)] for name in report.mixings]),
        "<h2>Target that a correction moves</h2>",
        "<p>The isotonic correction by space, and label revision. Share of the soft label (total variation), and "
        "KL(corrected || soft label) in nats.</p>",
        html_table(
            ["", *(f"{name}, T = {temperature:g}" for name, temperature in spaces)],
            [[mixing, *(moved(mixing, *space) for space in spaces)] for mixing in report.mixings],
        ),
        f"<h2>By the share of the heaviest class ({mixed})</h2>",
        html_table(
            ["share", *_RATES.values(), "target moved", "rows"],
            [[name, *rates(report.mixed, lambdas, name)] for name in bins if report.rows(report.mixed, name)],
        ),
        f"<h2>Worst pairs of classes ({mixed})</h2>",
        f"<p>{pairs.judged:,} of {pairs.pairs:,} pairs have {pairs.least_rows} images or more; the others are not "
        "judged. The worst of many small groups are partly chance.</p>",
        "<h3>Most target moved</h3>" + _pairs(pairs.by_moved_mass),
        "<h3>Most violations</h3>" + _pairs(pairs.by_violated),
        *_stddevs(report),
        "<h2>What was audited</h2>",
        html_table(["", ""], [[key, _plain(value)] for key, value in facts.items() if key != "config"]),
        f"<pre>{html.escape(json.dumps(facts['config'], indent=1))}</pre>",
        f"<p><small>All numbers: audit.json; one a line: audit.csv; all of run {run}.</small></p>",
    ]
    head = f'<meta charset="utf-8"><title>Audit of a teacher</title><style>{_STYLE}</style>'
    return f'<!DOCTYPE html>\n<html lang="en"><head>{head}</head><body>\n' + "\n".join(parts) + "\n</body></html>\n"


def _stddevs(report: Report) -> list[str]:
    if not report.stddevs:
        return []
    identity, agreement = report.stddevs[0].value, agreement_with_paper(report.stddevs)
    return [
        "<h2>T. stddev, by augmentation</h2>",
        "<p>How much the teacher's mean answer varies; lower is better for distillation (Wang et al., NeurIPS 2022). "
        f"In the paper's order on CIFAR-100, the worst first; Spearman's correlation with it is {agreement:.2f}.</p>",
        html_table(
            ["", "T. stddev", "of identity", "images"],
            [[m.mixing, f"{m.value:.5f}", percent(m.value / identity), f"{m.rows:,}"] for m in report.stddevs],
        ),
    ]


def _pairs(pairs: Sequence[Pair]) -> str:
    return html_table(
        ["classes", "images", "order broken", "target moved"],
        [
            [" + ".join(pair.classes), f"{pair.rows:,}", percent(pair.violated), percent(pair.moved_mass)]
            for pair in pairs
        ],
    )


def _list(sentences: Iterable[str]) -> str:
    return "<ul>" + "".join(f"<li>{html.escape(sentence)}</li>" for sentence in sentences) + "</ul>"


def _plain(value: object) -> str:
    return ", ".join(f"{key} {_plain(part)}" for key, part in value.items()) if isinstance(value, dict) else str(value)
