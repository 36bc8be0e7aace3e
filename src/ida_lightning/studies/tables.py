"""Writes tables as CSV and Markdown, and texts out of templates."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from matplotlib.figure import Figure

from ida_lightning.files import replacing_set
from ida_lightning.texts import csv_text, markdown_text


def csv_table(rows: Sequence[Mapping[str, Any]]) -> str:
    r"""Return the content of a CSV file with a column for every key; what is missing or None is an empty cell.

    Cells of text that a spreadsheet would compute begin with an apostrophe.

    Example:
        >>> csv_table([{"name": "a", "value": 0.5}, {"name": "b", "note": "of, late"}])
        'name,value,note\na,0.5,\nb,,"of, late"\n'
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, list(dict.fromkeys(key for row in rows for key in row)), lineterminator="\n")
    writer.writeheader()
    plain = ({key: csv_text(value) if isinstance(value, str) else value for key, value in row.items()} for row in rows)
    writer.writerows(plain)
    return text.getvalue()


def run_id(*contents: Any) -> str:
    """Return a mark of results, the same for the same ones: it stands in every file that was made of them.

    Example:
        >>> run_id({"accuracy": 0.5}) == run_id({"accuracy": 0.5}), run_id(0.5) == run_id(0.25)
        (True, False)
    """
    return hashlib.sha256(json.dumps(contents, sort_keys=True, default=str).encode()).hexdigest()[:12]


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table whose columns are aligned in the source too; cells are plain text.

    Example:
        >>> markdown_table(["name", "value"], [["a", "0.5"]])
        ['| name | value |', '|------|-------|', '| a    | 0.5   |']
    """
    rows = [[markdown_text(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"

    return [line(columns), "|" + "|".join("-" * (width + 2) for width in widths) + "|", *map(line, rows)]


def render(template: Path, **values: Any) -> str:
    """Fill in a Jinja2 template, ``.html.j2`` or another; what is put into HTML is text, even if it looks like tags.

    Raises:
        UndefinedError: for a name in the template that is not among ``values``.
    """
    html = template.name.endswith(".html.j2")
    environment = Environment(
        autoescape=html, undefined=StrictUndefined, keep_trailing_newline=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["markdown"] = markdown_text
    return environment.from_string(template.read_text()).render(values)


def as_png(figure: Figure, run: str) -> bytes:
    """Return a picture as the content of a PNG file, with the ``run`` that it is of in its description."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None, "Description": f"Run {run}"})
    return buffer.getvalue()


def write_result(folder: Path, files: Mapping[str, str | bytes], names: Collection[str]) -> None:
    """Write files as one result that replaces the earlier one, see :func:`ida_lightning.files.replacing_set`.

    Args:
        folder: where they go.
        files: their contents by name.
        names: every file that can belong to a result; those that are not among ``files`` are removed.
    """
    with replacing_set(folder, names) as unfinished:
        for name, content in files.items():
            (unfinished / name).write_bytes(content if isinstance(content, bytes) else content.encode())
