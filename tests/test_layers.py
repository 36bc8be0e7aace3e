"""Data flows one way: which part of the package may import which."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "ida_lightning"
LAYERS = [
    {"errors"},
    {"files", "label_mix"},
    {"isotonic", "mixing", "losses", "supervision"},
    {"metrics", "models", "plots", "adapters", "revision_selection", "augment"},
    {"lightning_internals"},
    {"data", "modules"},
    {"methods"},
    {"callbacks"},
    {"cli"},
    {"studies"},
    {"__main__"},
]
SIDEWAYS = {("cli", "studies")}
NUMERICS = LAYERS[0] | LAYERS[1] | LAYERS[2] | {"metrics", "revision_selection", "picking"}


def part_of(file):
    relative = file.relative_to(SOURCE)
    return relative.parts[0].removesuffix(".py")


def imports_of(file):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            yield node.module


FILES = sorted(file for file in SOURCE.rglob("*.py") if file != SOURCE / "__init__.py")


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_imports_go_downwards_only(file):
    height = {part: level for level, parts in enumerate(LAYERS) for part in parts}
    own = part_of(file)
    for name in imports_of(file):
        if not name.startswith("ida_lightning"):
            continue
        other = name.split(".")[1]
        if other != own and (own, other) not in SIDEWAYS:
            assert height[other] < height[own], f"{own} imports {other}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_outside_packages_stay_where_they_belong(file):
    own, roots = part_of(file), {name.split(".")[0] for name in imports_of(file)}
    if own in NUMERICS:
        state = {"torchmetrics"} if own == "metrics" else set()  # its classes hold sums for it
        assert not roots & {"lightning", "torchmetrics", "timm", "torchvision", "matplotlib"} - state
    assert "wandb" not in roots
    if own not in ("cli", "__main__", "studies"):
        assert not any(name.startswith(("lightning.pytorch.cli", "jsonargparse")) for name in imports_of(file))


BENCHMARKS = sorted((SOURCE.parents[1] / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("file", [*FILES, *BENCHMARKS], ids=lambda file: str(file.relative_to(SOURCE.parents[1])))
def test_files_stay_readable_in_one_sitting(file):
    assert len(file.read_text().splitlines()) <= 300


def test_importing_the_package_loads_neither_lightning_nor_triton_nor_wandb():
    code = (
        "import sys, ida_lightning; print(*{'lightning', 'triton', 'wandb', 'timm', 'matplotlib'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_public_names():
    import ida_lightning

    assert ida_lightning.__all__ == sorted(ida_lightning.__all__, key=lambda name: (name.islower(), name))
    for name in set(ida_lightning.__all__) - {"SupervisionHook"}:  # a type alias
        assert getattr(ida_lightning, name).__doc__, name
