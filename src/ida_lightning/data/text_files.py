"""Reads labelled texts: tables, JSON lines, lines of a label and a text, and data sets of other libraries."""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from ida_lightning.checks import path_like, text, texts
from ida_lightning.data.decoded import attribute_of
from ida_lightning.errors import InputError, at_least, flag, kind_of

FORMS = {".csv": ",", ".tsv": "\t", ".jsonl": None, ".json": None, ".txt": None}
_Cell = tuple[str, Any, Any]  # where it stands, text, label


@dataclass(frozen=True)
class TextFields:
    """Where texts and labels stand in a file or a data set.

    Args:
        text: name of the column (of a key in JSON lines, of a field of a data set), or its number, from 0, in a table
            without a header.
        label: likewise.
        coarse: whether of labels such as ``HUM:ind`` only what stands before the colon counts.
        encoding: of files.
        class_names: what the labels stand for, in order; None takes the labels themselves, sorted, or the names that a
            data set of Hugging Face has for them.

    Raises:
        InputError: for values of another kind.

    Example:
        >>> TextFields(coarse=True, encoding="latin-1").label
        'label'
    """

    text: str | int = "text"
    label: str | int = "label"
    coarse: bool = False
    encoding: str = "utf-8"
    class_names: list[str] | None = None

    def __post_init__(self) -> None:
        for name in ("text", "label"):
            value = vars(self)[name]
            if isinstance(value, int):
                at_least(f"fields.{name}", value, 0)
            else:
                text(f"fields.{name}", value)
        if isinstance(self.text, int) != isinstance(self.label, int):
            raise InputError(f"fields.label: expected a name or a number as in fields.text, got {self.label!r}")
        flag("fields.coarse", self.coarse)
        try:
            codecs.lookup(self.encoding)
        except (LookupError, TypeError) as error:
            raise InputError(f"fields.encoding: expected one that Python knows, got {self.encoding!r}") from error
        if self.class_names is not None:
            texts("fields.class_names", self.class_names, 2)


class LabelledTexts(NamedTuple):
    """Texts with their labels as they were written, and where each stands, in words."""

    texts: list[str]
    labels: list[str]
    places: list[str]


def check_source(name: str, source: Any) -> Any:
    """Return the source of a split, which must be a path or have items by number.

    Example:
        >>> check_source("train", 3)
        Traceback (most recent call last):
        ...
        ida_lightning.errors.InputError: train: expected a path or a data set with items by number, got int 3
    """
    if isinstance(source, (str, Path)):
        return path_like(name, source)
    listed = hasattr(source, "__getitem__") and hasattr(source, "__len__") and not isinstance(source, type)
    if not listed or isinstance(source, (bytes, Mapping, Tensor, np.ndarray)) or not len(source):
        raise InputError(f"{name}: expected a path or a data set with items by number, got {kind_of(source)}")
    return source


def read_texts(name: str, source: Any, fields: TextFields) -> LabelledTexts:
    """Read a split.

    Args:
        name: of the split, for messages.
        source: path of a file, or a data set of mappings or pairs ``(text, label)``, such as one of Hugging Face.
        fields: where text and label stand.

    Raises:
        InputError: for a file that is not there, of another form or encoding; for a row without text or label.
    """
    if isinstance(source, Path):
        cells, origin = _cells_of_file(name, source, fields), str(source)
    else:
        cells, origin = _cells_of_items(name, source, fields), name
    read = LabelledTexts([], [], [])
    for place, found, label in cells:
        if not isinstance(found, str) or not found.strip():
            raise InputError(f"{name}: expected a text in every row, got {kind_of(found)} in {place}")
        if label is None or isinstance(label, (float, list, dict)) or not str(label).strip():
            raise InputError(f"{name}: expected a label in every row, got {kind_of(label)} in {place}")
        written = str(label).strip()
        for column, value in zip(read, (found, written.partition(":")[0] if fields.coarse else written, place),
                                 strict=True):  # fmt: skip
            column.append(value)
    if not read.texts:
        raise InputError(f"{name}: expected texts, got none in {origin}")
    return read


def _cells_of_file(name: str, path: Path, fields: TextFields) -> Iterator[_Cell]:
    if path.suffix not in FORMS:
        raise InputError(f"{name}: expected a file named {', '.join(f'*{form}' for form in FORMS)}, got {path}")
    if not path.is_file():
        raise InputError(f"{name}: expected a file at {path.resolve()}, found none")
    content = _decoded(path, fields.encoding)
    if FORMS[path.suffix] is not None:
        yield from _table(path, content, fields)
        return
    for number, line in enumerate(content.replace("\r\n", "\n").split("\n"), 1):
        place = f"{path}, line {number}"
        if not line.strip():
            continue
        if path.suffix == ".txt":
            label, _, found = line.partition(" ")
            yield place, found, label
        else:
            yield (place, *_from_json(line, place, fields))


def _decoded(path: Path, encoding: str) -> str:
    content = path.read_bytes()
    try:
        return content.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        column = error.start - content.rfind(b"\n", 0, error.start)
        raise InputError(
            f"fields.encoding: expected text in {encoding}, got byte 0x{content[error.start]:02x} in {path}, line "
            f"{line}, byte {column}; older files are often latin-1"
        ) from error


def _table(path: Path, content: str, fields: TextFields) -> Iterator[_Cell]:
    reader = csv.reader(io.StringIO(content, newline=""), delimiter=FORMS[path.suffix] or ",")
    try:
        wanted = {"text": fields.text, "label": fields.label}
        header = [] if isinstance(fields.text, int) else next(reader, [])
        columns = [
            value if isinstance(value, int) else _column(f"fields.{name}", value, header, path)
            for name, value in wanted.items()
        ]
        for row in reader:
            if row:
                found, label = (row[column] if column < len(row) else None for column in columns)
                yield f"{path}, line {reader.line_num}", found, label
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: expected a table, got an error: {error}") from error


def _column(argument: str, name: str, header: Sequence[str], path: object) -> int:
    if name not in header:
        raise InputError(f"{argument}: expected a column {name!r} in {path}, it has {', '.join(header) or 'none'}")
    return list(header).index(name)


def _from_json(line: str, place: str, fields: TextFields) -> tuple[Any, Any]:
    try:
        item = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{place}: expected an object in JSON, got an error: {error}") from error
    if not isinstance(item, Mapping):
        raise InputError(f"{place}: expected an object in JSON, got {kind_of(item)}")
    return _fields_of(item, place, fields)


def _fields_of(item: Mapping[Any, Any], place: str, fields: TextFields) -> tuple[Any, Any]:
    for name in ("text", "label"):
        key = vars(fields)[name]
        if key not in item:
            has = ", ".join(map(str, item)) or "nothing"
            raise InputError(f"fields.{name}: expected a field {key!r} in {place}, it has {has}")
    return item[fields.text], item[fields.label]


def _cells_of_items(name: str, source: Any, fields: TextFields) -> Iterator[_Cell]:
    """Yield the items of a data set; whole labels become names where the data set has some."""
    names = attribute_of((attribute_of(source, "features") or {}).get(fields.label), "names")
    for number in range(len(source)):
        item, place = source[number], f"item {number}"
        if isinstance(item, Mapping):
            found, label = _fields_of(item, place, fields)
        elif isinstance(item, (tuple, list)) and len(item) == 2:
            found, label = item
        else:
            raise InputError(f"{name}: expected a mapping or (text, label) in {place}, got {kind_of(item)}")
        named = names and isinstance(label, int) and 0 <= label < len(names)
        yield place, found, names[label] if named else label
