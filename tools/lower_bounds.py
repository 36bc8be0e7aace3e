"""Print every dependency of pyproject.toml at exactly its lower bound, one line each, for `pip install -r`."""

import argparse
import sys
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:  # where pytest brings the same code under this name
    import tomli as tomllib

ROOT = Path(__file__).parents[1]


def at_lower_bound(requirement: str) -> str:
    """Return a requirement that allows exactly the lowest version which `requirement` allows.

    Raises:
        ValueError: `requirement` has no lower bound, or more than one.

    >>> at_lower_bound("jsonargparse[signatures]>=4.50,<5")
    'jsonargparse[signatures]==4.50'
    """
    asked = Requirement(requirement)
    lowest = [bound.version for bound in asked.specifier if bound.operator == ">="]
    if len(lowest) != 1:
        raise ValueError(f"expected one lower bound (>=) in pyproject.toml, got {requirement!r}")
    extras = f"[{','.join(sorted(asked.extras))}]" if asked.extras else ""
    marker = f" ; {asked.marker}" if asked.marker else ""
    return f"{asked.name}{extras}=={lowest[0]}{marker}"


def lower_bounds(pyproject: Path, extras: list[str]) -> list[str]:
    """Return the dependencies of a project, and those of the named extras, at their lower bounds.

    An extra may ask for further extras of the project itself.
    """
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"]]
    for extra in extras:
        wanted += _of_extra(extra, project)
    return [at_lower_bound(requirement) for requirement in wanted]


def _of_extra(name: str, project: dict[str, Any]) -> list[str]:
    """Return what an extra asks for, with what is in the extras of the project itself that it names."""
    wanted = []
    for line in project["optional-dependencies"][name]:
        asked = Requirement(line)
        own = asked.name == project["name"]
        wanted += [each for extra in sorted(asked.extras) for each in _of_extra(extra, project)] if own else [line]
    return wanted


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("extras", nargs="*", help="optional dependencies to include, such as dev")
    sys.stdout.writelines(line + "\n" for line in lower_bounds(ROOT / "pyproject.toml", parser.parse_args().extras))
