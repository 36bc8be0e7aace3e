"""Names that users give, as plain text: nothing in them is markup, a formula or a control character."""

from __future__ import annotations

import re

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?%?", re.IGNORECASE)
# What begins markup where it stands: an underscore within a word and a star on its own are letters, for example.
_MARKUP = re.compile(r"[\\`<>|~$]|\*(?=\S)|(?<=\S)\*|(?<![^\W_])_|_(?![^\W_])|\[(?=[^\]]*\]\()")


def printable(text: str) -> str:
    r"""Return text that every file and font can take: half a surrogate pair, as of a file name, becomes ``?``.

    Example:
        >>> printable("cat\udcff\n")
        'cat?'
    """
    return " ".join(text.encode("utf-8", "replace").decode().splitlines())


def csv_text(text: str) -> str:
    """Return a cell that a spreadsheet shows and does not compute; numbers stay as they are.

    Example:
        >>> csv_text("=1+1"), csv_text("-0.5"), csv_text("cat")
        ("'=1+1", '-0.5', 'cat')
    """
    return f"'{text}" if text.startswith(_FORMULA) and not _NUMBER.fullmatch(text) else text


def markdown_text(text: str) -> str:
    r"""Return text that Markdown shows as it is, in a table too.

    Example:
        >>> print(markdown_text("a|b_c <img>"))
        a\|b_c \<img\>
    """
    return _MARKUP.sub(r"\\\g<0>", printable(text))
