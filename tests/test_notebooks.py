"""The notebooks hold what they were last seen to do, and still do it."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))


def cells_of(file):
    return [cell for cell in json.loads(file.read_text())["cells"] if cell["cell_type"] == "code"]


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_notebooks_are_kept_with_the_outputs_of_one_run(file):
    cells = cells_of(file)
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error" or output.get("name") == "stderr"]
    assert [output for output in outputs if "image/png" in output.get("data", {})], "pictures"
    assert file.stat().st_size < 600_000


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(not importlib.util.find_spec("nbconvert"), reason="pip install '.[notebooks]'")
@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_notebooks_run_and_say_nothing_on_stderr(file):
    command = [sys.executable, "-m", "nbconvert", "--to", "notebook", "--execute", "--output-dir", "out", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=580)
    assert done.returncode == 0, done.stderr[-2000:]
    outputs = [output for cell in cells_of(Path("out", file.name)) for output in cell["outputs"]]
    assert not [output for output in outputs if output.get("name") == "stderr"]
    kept = [output for cell in cells_of(file) for output in cell["outputs"]]
    pictures = [sum("image/png" in output.get("data", {}) for output in found) for found in (outputs, kept)]
    assert pictures[0] == pictures[1]
