"""SIGKILL at the file events of every command that leaves something: a coarse sample of tools/kill_sweep.py."""

import tempfile
from pathlib import Path

import pytest
from tools.kill_jobs import JOBS
from tools.kill_sweep import sweep


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:teacher. .* is close to chance")  # the forked commands have this process's filters
@pytest.mark.timeout(900)
@pytest.mark.parametrize("place", ["beside", "elsewhere"])
@pytest.mark.parametrize("name", JOBS)
def test_no_kill_damages_anything(name, place):
    elsewhere = Path("/dev/shm") if place == "elsewhere" else None
    if elsewhere is not None and elsewhere.stat().st_dev == Path(tempfile.gettempdir()).stat().st_dev:
        pytest.skip("no second file system here")
    figures = sweep(name, 15, elsewhere, minutes=8)
    assert figures["kills"] >= 2
    assert figures["wrong"] + figures["failed"] == 0, figures
