"""What surrounds the code: make targets, lower bounds, hooks, workflows, and how the tests themselves are kept."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version
from tools.lower_bounds import at_lower_bound, lower_bounds

ROOT = Path(__file__).parents[1]
MAKEFILE = (ROOT / "Makefile").read_text()
TARGETS = set(re.findall(r"^([a-z-]+):", MAKEFILE, re.MULTILINE))
TEST_FILES = sorted((ROOT / "tests").rglob("*.py"))


@pytest.mark.parametrize(
    ("requirement", "lowest"),
    [
        ("torch>=2.11", "torch==2.11"),
        ("lightning>=2.6.0,!=2.6.2,!=2.6.3,<3", "lightning==2.6.0"),
        ("jsonargparse[signatures]>=4.50,<5", "jsonargparse[signatures]==4.50"),
        ('tomli>=2.0 ; python_version < "3.11"', 'tomli==2.0 ; python_version < "3.11"'),
    ],
)
def test_lower_bound_of_a_requirement(requirement, lowest):
    assert at_lower_bound(requirement) == lowest


@pytest.mark.parametrize("requirement", ["torch", "torch<3", "torch==2.11", "torch>=2.11,>=2.12"])
def test_a_requirement_without_one_lower_bound_is_named(requirement):
    with pytest.raises(
        ValueError, match=re.escape(f"expected one lower bound (>=) in pyproject.toml, got '{requirement}'")
    ):
        at_lower_bound(requirement)


def test_dependencies_have_lower_bounds_below_their_constraints():
    pinned = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if not line.startswith("#"):
            name, _, version = line.split(";")[0].strip().partition("==")
            pinned.setdefault(canonicalize_name(name), []).append(Version(version))
    lowest = [
        Requirement(line)
        for line in lower_bounds(ROOT / "pyproject.toml", ["dev", "docs", "hooks", "notebooks", "package"])
    ]
    assert {"torch", "lightning", "pytest-timeout", "onnxruntime", "twine"} <= {
        requirement.name for requirement in lowest
    }
    for requirement in lowest:
        (bound,) = requirement.specifier
        assert min(pinned[canonicalize_name(requirement.name)]) >= Version(bound.version), requirement.name


def test_every_make_target_says_what_it_does():
    explained = set(re.findall(r"^([a-z-]+):.*## \w", MAKEFILE, re.MULTILINE))
    assert explained == TARGETS
    declared = re.search(r"^\.PHONY: ((?:.*\\\n)*.*)$", MAKEFILE, re.MULTILINE)[1]
    assert set(declared.replace("\\\n", " ").split()) == TARGETS


def test_workflows_call_make_targets_that_exist():
    for file in (ROOT / ".github" / "workflows").glob("*.yml"):
        jobs = yaml.safe_load(file.read_text())["jobs"]
        commands = [step["run"] for job in jobs.values() for step in job["steps"] if "run" in step]
        assert commands
        for command in commands:
            make, target = command.split()
            assert make == "make"
            assert target in TARGETS


def test_hooks_before_a_commit_are_local():
    repositories = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert [repository["repo"] for repository in repositories] == ["local"]
    (local,) = repositories
    assert {hook["id"] for hook in local["hooks"]} == {"ruff-check", "ruff-format", "mypy"}
    for hook in local["hooks"]:
        assert hook["language"] == "system"
        assert hook["entry"].startswith(".venv/bin/python -m ")


def test_issue_forms_have_what_github_asks_for():
    for file in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"):
        form = yaml.safe_load(file.read_text())
        if file.name == "config.yml":
            continue
        assert form["name"]
        assert form["description"]
        identifiers = [field["id"] for field in form["body"] if field["type"] != "markdown"]
        assert len(set(identifiers)) == len(identifiers) > 0


def test_citation_names_this_version_and_the_paper():
    import ida_lightning

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == ida_lightning.__version__
    assert {"message", "title", "authors"} <= citation.keys()
    (paper,) = citation["references"]
    assert paper["identifiers"][0]["value"] == "arXiv:2107.01412"


@pytest.mark.parametrize("file", TEST_FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_helpers_come_from_one_place(file):
    tree = ast.parse(file.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "tests":
            assert node.module.startswith("tests.helpers"), f"line {node.lineno}: {node.module}"


@pytest.mark.parametrize("file", TEST_FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_names_of_tests_are_short_and_found(file):
    names = [node.name for node in ast.parse(file.read_text()).body if isinstance(node, ast.FunctionDef)]
    tests = [name for name in names if name.startswith("test_")]
    assert not tests or file.name.startswith("test_"), f"{tests} would never run"
    assert len(set(tests)) == len(tests)
    assert not [name for name in tests if len(name) >= 60]


def test_without_lightning_an_import_of_it_is_an_error(tmp_path):
    (tmp_path / "test_imports.py").write_text("def test_it():\n    import lightning\n")
    command = [sys.executable, "-m", "pytest", "-c", "pyproject.toml", "-p", "tests.conftest", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [*command, "--without-lightning", str(tmp_path / "test_imports.py")], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "ModuleNotFoundError: import of lightning halted" in done.stdout
