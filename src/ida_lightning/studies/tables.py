"""Tables as CSV and Markdown."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

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
