"""The wheel: what is in it, and that it runs alone in an empty folder."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import ida_lightning

ROOT = Path(__file__).parents[1]


def test_the_version_stands_in_one_place():
    assert re.search(r'^dynamic = \["version"\]', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    released = re.findall(r"^## \[(\d+\.\d+\.\d+)\]", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert all(version <= ida_lightning.__version__ for version in released)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([sys.executable, "-m", "build", "--outdir", str(folder), str(ROOT)], check=True)
    subprocess.run([sys.executable, "-m", "twine", "check", "--strict", *map(str, folder.iterdir())], check=True)
    (wheel,) = folder.glob("*.whl")
    assert wheel.name == f"ida_lightning-{ida_lightning.__version__}-py3-none-any.whl"
    return wheel


@pytest.mark.slow  # builds in an environment of its own
def test_the_wheel_has_the_package_and_its_configs(wheel):
    names = zipfile.ZipFile(wheel).namelist()
    configs = {str(file.relative_to(ROOT)) for file in (ROOT / "configs").rglob("*.yaml")}
    assert {f"ida_lightning/{name}" for name in configs} <= set(names)
    assert {"ida_lightning/py.typed", "ida_lightning/__init__.pyi"} <= set(names)
    assert {"ida_lightning/studies/audit/page.html.j2", "ida_lightning/studies/export/card.md.j2"} <= set(names)
    assert {name.split("/")[0].split("-")[0] for name in names} == {"ida_lightning"}
    assert not [name for name in names if "test" in name.split("/") or name.endswith((".pyc", ".ipynb"))]


@pytest.mark.slow
def test_the_wheel_alone_runs_the_demo(wheel, tmp_path):
    site, empty = tmp_path / "site", tmp_path / "empty"
    empty.mkdir()
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)]
    subprocess.run(command, check=True)
    environment = {**os.environ, "PYTHONPATH": str(site), "CUDA_VISIBLE_DEVICES": ""}

    def run(*arguments):
        command = [sys.executable, str(site / "bin" / "ida-lightning"), *arguments]
        done = subprocess.run(command, cwd=empty, env=environment, capture_output=True, text=True, timeout=280)
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert run("--version") == f"ida-lightning {ida_lightning.__version__}\n"
    where = [sys.executable, "-c", "import ida_lightning; print(ida_lightning.__file__)"]
    assert str(site) in subprocess.run(where, cwd=empty, env=environment, capture_output=True, text=True).stdout
    printed = run("demo", "--trainer.max_epochs=2")
    assert "student, KD-i" in printed
    assert (empty / "outputs" / "demo" / "corrections.png").is_file()
    assert {path.name for path in empty.iterdir()} == {"outputs"}
