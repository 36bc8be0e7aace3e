"""Makes links of the roles in docstrings when the site is built: the extension that ``mkdocs.yml`` names.

Docstrings name other objects as Sphinx does, by roles. In the site what is public becomes a link to its entry,
everything else plain code.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import griffe

_ROLE = re.compile(r":(?:func|class|meth|mod|data|attr):`(~?)([\w.]+)`")


@cache
def public_names() -> frozenset[str]:
    """Return the names that ``ida_lightning`` exports, from its stub."""
    stub = Path(__file__).parents[1] / "src" / "ida_lightning" / "__init__.pyi"
    return frozenset(re.findall(r" as (\w+)", stub.read_text()))


def as_markdown(text: str) -> str:
    """Return a docstring with links for its roles, and the headings and colons that the site's parser knows.

    Example:
        >>> as_markdown("see :func:`ida_lightning.order_penalty` and :func:`~ida_lightning.files.replacing`, in YAML::")
        'see [`order_penalty`][ida_lightning.order_penalty] and `replacing`, in YAML:'
    """

    def link(match: re.Match[str]) -> str:
        short, path = match.groups()
        parts = path.removeprefix("ida_lightning.").split(".")
        known = [n for n, part in enumerate(parts) if part in public_names()]
        if not known:
            return f"`{parts[-1] if short else path}`"
        name = ".".join(parts[known[-1] :])
        return f"[`{name}`][ida_lightning.{name}]"

    text = re.sub(r"^(\s*)Example:$", r"\1Examples:", _ROLE.sub(link, text), flags=re.MULTILINE)
    return re.sub(r"::$", ":", text, flags=re.MULTILINE)


class DocstringRoles(griffe.Extension):
    """Replaces the roles of every docstring that is collected."""

    def on_instance(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Rewrite the docstring of a module, class, function or attribute."""
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)
