"""What was wrong on the command line, in one line and in the user's words."""

from __future__ import annotations

import difflib
import os
import re
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import lightning as L

# Options of methods that have gone, and what to write instead.
_INSTEAD = {
    **dict.fromkeys(("role", "added_weight"), "AddedTermCallback with method: and weight:"),
    **dict.fromkeys(("compat", "student_softmax", "same_class"), "AuthorsIsotonicCallback"),
    **dict.fromkeys(("network", "damping", "hessian_rows"), "influence: {network, damping, hessian_rows}"),
}
_KINDS = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "str": "a text",
    "list": "a list",
    "dict": "a mapping",
}


@contextmanager
def importing_from_here() -> Iterator[None]:
    """Let classes of the user be imported from the working directory inside, as with ``python -m``."""
    here = os.getcwd()
    # With -P or PYTHONSAFEPATH, which Python 3.10 does not have, nothing is to be imported from there.
    safe = getattr(sys.flags, "safe_path", False)
    added = not safe and "" not in sys.path and here not in sys.path
    if added:
        sys.path.insert(0, here)
    try:
        yield
    finally:
        if added and here in sys.path:
            sys.path.remove(here)


def one_line(message: str) -> str:
    """Replace every run of white space in a message by one blank."""
    return " ".join(message.split())


def explain(message: str, error: BaseException | None = None) -> str:
    """Return the informative part of a message of jsonargparse: the key and what is wrong with it.

    Args:
        message: as it would be printed.
        error: what led to it.

    Example:
        >>> explain("Problem with given class_path 'nowhere.Net': No module named 'nowhere'").partition(" in /")[0]
        "cannot import 'nowhere.Net': found no module 'nowhere'"
    """
    return _in_words(_informative_part(message, error))


def _informative_part(message: str, error: BaseException | None) -> str:
    key = re.match(r'Parser key "(.+?)":', message)
    text = one_line(message[key.end() if key else 0 :])
    named = f"{key[1]}: " if key else ""
    if "cannot import '" not in text and (failed := _failed_import(message, error)):
        return named + failed
    if other := re.search(r"Expected '(\S+?)' to be a (?:function that returns|subclass of) <class '(\w+)'>", message):
        return f"{named}expected a class or function that gives {_with_article(other[2])}, got {other[1]}"
    if text.startswith("Unexpected config:"):
        return f"config: expected keys and their values, got {text.partition(':')[2].strip()[:80] or 'an empty file'}"
    errors = re.search(r"Errors:\n(.*?)(?:\n\s*Given value|$)", message, re.DOTALL)
    if not errors:
        return _joined(key, text)
    reasons = dict.fromkeys(one_line(part) for part in re.split(r"(?:^|\n)\s*- ", errors[1]) if part.strip())
    unknown = re.search(r"Expected a dot import path string: (\S+)", message)
    if unknown:
        near = difflib.get_close_matches(unknown[1], _class_names(L.LightningModule, L.LightningDataModule, L.Callback))
        reasons = {f"no class {unknown[1]!r}" + (f"; did you mean {near[0]}?" if near else ""): None}
        if re.search(r"Expected a <class '(?:float|int)'>|Subtypes: .*<class '(?:float|int)'>", message):
            reasons = {f"expected a number, got {unknown[1]}": None}
    useful = [reason for reason in reasons if "NoneType" not in reason] or list(reasons)
    if len(useful) > 1 and useful[0] in ("Expected a <class 'list'>", "Expected a <class 'str'>"):
        del useful[0]  # a class was meant
    for option, instead in _INSTEAD.items():
        useful = [f"{reason}; use {instead}" if f"Option '{option}' is not" in reason else reason for reason in useful]
    value = re.search(r"Given value: (.*)", message)
    given = re.sub(r"NestedArg\(key='class_path', val='(.+)'\)", r"\1", value[1]) if value else ""
    if kind := re.search(r"Import path does not correspond to a subclass of (\w+)", message):
        return f"{named}expected a class of the kind {kind[1]}, got {given}"
    if value and not unknown and all(reason.startswith("Expected a <class") for reason in useful):
        useful[-1] += f", got {given}"
    module = given.rpartition(".")[0]
    importable = re.fullmatch(r"\w+(\.\w+)*", module) and "File does not exist" not in text
    if importable and module not in sys.modules:  # its import failed for a reason of its own
        return _joined(key, f"cannot import {given!r}: {'; '.join(useful)}")
    return _joined(key, "; ".join(useful))


def _in_words(text: str) -> str:
    """Replace what jsonargparse calls types by words."""
    text = re.sub(r"Expected a <class '(\w+)'>", lambda kind: f"expected {_KINDS.get(kind[1], kind[1])}", text)
    choices = re.findall(r"Expected a typing\.Literal\[([^\]]*)\]", text)
    if choices:
        first, last = text.index("Expected a typing"), text.rindex("]") + 1
        named = ", ".join(dict.fromkeys(", ".join(choices).replace("'", "").split(", ")))
        text = f"{text[:first]}expected one of {named}{text[last:]}"
    text = re.sub(r"unrecognized arguments: --([\w.]+)=\S*$", r"no option \1", text) if ": unrec" in text else text
    text = re.sub(r"Option '([\w.]+)' is not accepted", r"no option \1", text)
    return text.replace(". Got value: ", ", got ")


def _joined(key: re.Match[str] | None, text: str) -> str:
    """Put the key in front; of what was said of an argument of the argument, as the first part of its name."""
    if key is None:
        return text
    return f"{key[1]}.{text}" if re.match(r"[a-z_.]+: ", text) else f"{key[1]}: {text}"


def _failed_import(message: str, error: BaseException | None) -> str | None:
    """Say which module or class could not be had, where it was looked for and what to set; None if all could."""
    given = re.search(r"(?:class_path '|Expected a path but |(?:Got|Given) value: |val=')(\w+(?:\.\w+)+)", message)
    wanted = given[1] if given else ""
    if lacking := re.search(r"module '([\w.]+)' has no attribute '(\w+)'", message):
        module = sys.modules.get(lacking[1])
        near = difflib.get_close_matches(lacking[2], dir(module), n=1)
        where = (vars(module) if module else {}).get("__file__")
        advice = f"; did you mean {near[0]}?" if near else ""
        return f"cannot import '{lacking[1]}.{lacking[2]}': {where} has no {lacking[2]!r}{advice}"
    if missing := re.search(r"No module named '([\w.]+)'", message):
        if wanted and not f"{wanted}.".startswith(f"{missing[1]}."):
            return f"cannot import {wanted!r}: it needs the module {missing[1]!r}, which is not installed"
        return (
            f"cannot import {(wanted or missing[1])!r}: found no module {missing[1]!r} in {os.getcwd()} or among what "
            "is installed; start from the folder that it is in, or set PYTHONPATH to that folder"
        )
    while error is not None:
        frames = traceback.extract_tb(error.__traceback__)
        if any(frame.name == "import_object" for frame in frames[:-1]) or isinstance(error, SyntaxError):
            where = "" if isinstance(error, SyntaxError) else f" ({frames[-1].filename}, line {frames[-1].lineno})"
            return f"cannot import {wanted!r}: {type(error).__name__}: {one_line(str(error))}{where}"
        error = error.__cause__ or error.__context__
    return None


def _with_article(noun: str) -> str:
    return f"{'an' if noun[0] in 'AEIOU' or noun.startswith('LR') else 'a'} {noun}"


def _class_names(*bases: type) -> list[str]:
    subclasses: list[type] = []
    for base in bases:
        subclasses += type.__subclasses__(base)
    return [kind.__name__ for kind in subclasses] + (_class_names(*subclasses) if subclasses else [])
