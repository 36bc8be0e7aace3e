"""What stored answers are answers to: the teacher and everything that decides about its pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ida_lightning.errors import InputError
from ida_lightning.files import replacing

FORMAT = 1
_NAME = "manifest.json"


def check_manifest(folder: Path, facts: Mapping[str, Any], new: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return what a folder of stored answers says of itself, which must be ``facts``.

    Args:
        folder: of the answers.
        facts: everything that decides about pictures and answers, as nested mappings of plain values. None is for what
            is not known here, and fits anything.
        new: facts to write where there is no manifest; None if there must be one.

    Raises:
        InputError: naming the first fact that differs, as it was recorded and as it is now, and for a folder that has
            no manifest or one that cannot be read.
    """
    now = _plain(facts)
    path = folder / _NAME
    if not path.is_file():
        if new is None:
            raise InputError(
                f"teacher_outputs: expected stored answers in {folder}, found no {_NAME}; mode: auto records them, as "
                "does ida-lightning teach"
            )
        if any(folder.glob("epoch_*")):
            raise InputError(f"teacher_outputs: expected an empty folder or one with {_NAME}, got {folder}")
        with replacing(path) as unfinished:
            unfinished.write_text(json.dumps(_plain(new), indent=1) + "\n")
        return _plain(new)
    try:
        stored = json.loads(path.read_bytes())
        if not isinstance(stored, dict):
            raise ValueError("no mapping")
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"teacher_outputs: {path} is damaged or no manifest ({error})") from error
    before, after = _flat(stored), _flat(now)
    for key in {**before, **after}:
        if before.get(key) != after.get(key) and after.get(key, "") is not None:
            raise InputError(
                f"teacher_outputs: expected {key} {before.get(key)!r}, with which {folder} was recorded, got "
                f"{after.get(key)!r}; name another folder"
            )
    return stored


def recorded_fact(folder: Path, group: str, name: str, otherwise: Any) -> Any:
    """Return one fact as a folder of stored answers was recorded with it, None if it says nothing of it.

    Args:
        folder: of the answers.
        group: of facts.
        name: of the fact.
        otherwise: what is returned where nothing is stored yet, or nothing that can be read.
    """
    try:
        return json.loads((folder / _NAME).read_bytes())[group].get(name)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return otherwise


def _plain(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return facts as they are read from a file, where tuples are lists."""
    return dict(json.loads(json.dumps({"format": FORMAT, **facts})))


def _flat(facts: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in facts.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
