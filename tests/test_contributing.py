"""The method that CONTRIBUTING shows, as a stranger would run it: a file of their own, twice in one YAML list."""

import re
import sys
from pathlib import Path

import pytest
import yaml

from ida_lightning.__main__ import main
from tests.helpers.command_line import CONFIGS, SHORT, metrics_of

TEXT = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text()


def block(language):
    (text,) = re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)
    return text


@pytest.fixture
def halve(tmp_path, monkeypatch):
    """Put the shown file on the import path, far from the package."""
    code = block("python")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / code.split()[1].rstrip(",")).write_text(code)
    monkeypatch.syspath_prepend(tmp_path / "elsewhere")
    yield
    sys.modules.pop("halve", None)


@pytest.mark.filterwarnings("ignore:teacher. .* is close to chance")  # two batches make no teacher
@pytest.mark.usefixtures("halve")
def test_a_method_from_outside_stands_twice_in_one_list():
    Path("twice.yaml").write_text(block("yaml"))
    main(["fit", "--config", str(CONFIGS / "digits" / "teacher.yaml"), *SHORT])
    config = str(CONFIGS / "digits" / "kd_cutmix.yaml")
    # Clean rows and as many mixes of two different ones: half of the rows are mixed, exactly.
    pool = ["--data.pool=1", "--data.mixing.distinct=true"]
    main(["fit", "--config", config, "--config", "twice.yaml", *SHORT, *pool])
    kept = yaml.safe_load(Path("outputs/lightning_logs/version_1/config.yaml").read_text())
    assert [callback["class_path"] for callback in kept["trainer"]["callbacks"]] == ["halve.Halve"] * 2
    logged, weight = metrics_of(1), 0.95  # the default soft weight
    assert logged["train/first/soft_weight"] == pytest.approx([weight * (1 + 0.5) / 2])
    assert logged["train/second/soft_weight"] == pytest.approx([weight * (1 + 0.5 * 0.25) / 2])


def test_the_method_is_as_short_as_is_said():
    code = [line for line in block("python").splitlines() if line.strip()]
    assert len(code) <= 15
