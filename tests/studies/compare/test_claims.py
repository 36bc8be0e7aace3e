"""Several processes at one comparison: every cell runs once, whoever dies."""

import json
import multiprocessing
import os
import random
import re
import shutil
import sys
import time
from pathlib import Path

import pytest
from lightning.pytorch.utilities import rank_zero_only

from ida_lightning.__main__ import main
from ida_lightning.locks import OutputLock
from ida_lightning.studies.compare import schedule
from ida_lightning.studies.compare.cells import Cell
from ida_lightning.studies.compare.claims import Claims, claim
from tests.helpers.audits import complaint_of
from tests.helpers.cells import RESULT
from tests.helpers.comparisons import cell, rows_of

pytestmark = [
    pytest.mark.filterwarnings("ignore:teacher. .* is close to chance"),
    pytest.mark.filterwarnings("ignore:The number of training batches"),
]
KD = {"kd_aug": {}, "kd": {"data": {"init_args": {"mixing": {"kind": "none"}}}}}


def a_cell(method="kd"):
    return Cell(method, 0, Path("cells", method, "seed_0"), {"trainer": {}, "model": {}}, "cd", None, False)


def test_what_others_run_and_finish_is_not_run_here():
    first, second, third = cells = [a_cell(name) for name in ("kd", "kd_i", "kd_p")]
    claims = Claims(cells)
    with claim(first):
        assert claims.take(lambda cell: cell != third) == second
        assert claims.take(lambda cell: cell != third) is None
        assert not list(claims.ended_elsewhere())
    first.folder.mkdir(parents=True)
    (first.folder / "cell.json").write_text(json.dumps({**RESULT, "config": first.config, "config_sha256": "cd"}))
    assert list(claims.ended_elsewhere()) == [(first, None)]
    third.folder.mkdir(parents=True)
    (third.folder / "error.txt").write_text("Traceback\n\nout of luck\n")
    assert list(claims.ended_elsewhere()) == [(third, "out of luck")]
    assert not claims.waiting
    assert Claims([third]).take(lambda cell: True) == third  # an error of before is tried again


def test_a_cell_in_another_process_is_waited_for(files, capsys, monkeypatch):
    arguments = files(methods=KD, seeds=[0])
    main(arguments)
    finished = cell("kd", 0).parent.rename("finished")
    lock = OutputLock("cell", cell("kd", 0).parent).acquire()

    def other(seconds):
        shutil.copytree(finished, cell("kd", 0).parent)
        lock.release()

    monkeypatch.setattr(schedule, "sleep", other)
    main(arguments)
    assert re.search(r"\[2/2\] kd, seed 0: test accuracy .*, run by another process", capsys.readouterr().out)
    with OutputLock("output", "out"):  # nothing is shared where answers are kept
        complaint = complaint_of(files(methods=KD, seeds=[0], keep_answers=True), capsys)
    assert "output: expected an output of one run, got out, which is written by" in complaint


def test_a_cell_that_is_missing_in_the_end_is_no_success(files, capsys, monkeypatch):
    """As when another process, with another config, has overwritten it."""
    monkeypatch.setattr("ida_lightning.studies.compare.command.run_cells", lambda cells, settings: {})
    monkeypatch.setattr("ida_lightning.studies.compare.command._require_teachers", lambda *arguments: None)
    arguments = files(methods=KD, seeds=[0])
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 1
    assert "Not finished: 2 of 2 cells." in capsys.readouterr().out
    main([*arguments, "--summarise"])


def _life(arguments, number):
    """A process of the comparison as srun starts it, with what it prints in a file."""
    task = {"NTASKS": 4, "PROCID": number, "LOCALID": number, "NODEID": 0, "JOB_ID": 1, "JOB_NAME": "compare"}
    os.environ.update({f"SLURM_{name}": str(value) for name, value in task.items()})
    rank_zero_only.rank = number  # as Lightning reads it when it is imported
    with Path(f"printed_{number}.txt").open("a") as printed:
        os.dup2(printed.fileno(), 1)
        os.dup2(printed.fileno(), 2)
    main(arguments)


def test_four_processes_two_of_which_are_killed(files):
    arguments = files(methods=KD, seeds=[0, 1, 2])
    random.seed(0)
    fork, started = multiprocessing.get_context("fork"), 0

    def start():
        nonlocal started
        process = fork.Process(target=_life, args=(arguments, started))
        process.start()
        started += 1
        return process

    processes = [start() for _ in range(4)]
    end = time.monotonic() + 120
    for _ in range(2):
        while not list(Path("out").rglob("config.yaml")) and time.monotonic() < end:  # somebody is at a cell
            time.sleep(0.02)
        time.sleep(random.uniform(0, 1))
        victim = random.choice([process for process in processes if process.is_alive()] or processes)
        victim.kill()
        victim.join()
        processes = [*(process for process in processes if process is not victim), start()]
    for process in processes:
        process.join()
        assert process.exitcode == 0, Path(f"printed_{processes.index(process)}.txt").read_text()
    told = "\n".join(path.read_text() for path in Path().glob("printed_*.txt"))
    for method in KD:
        for seed in (0, 1, 2):
            done = re.findall(rf"\] {method}, seed {seed}: test accuracy [^\n]*", told)
            here = [line for line in done if "another process" not in line]
            assert len(here) <= 1  # none where the one that ran it was killed before it could say so
            assert cell(method, seed).is_file()
    assert len(rows_of("results")) == 6
    assert len(re.findall("teacher: teacher.safetensors is missing", told)) <= 1 + told.count("taken over")
    assert {path.name for path in Path("out").iterdir()} == {
        *("cells", "results.csv", "summary.csv", "summary.md", "differences.png")
    }


# The debug executor of submitit leaves its logs open.
@pytest.mark.filterwarnings("ignore:Exception ignored in:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("cluster", ["debug", pytest.param("local", marks=pytest.mark.slow)])
def test_jobs_of_a_cluster_run_the_cells(cluster, files, capfd, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    arguments = files(methods=KD, seeds=[0], jobs=2, submitit={"cluster": cluster, "timeout_min": 5})
    main([*arguments, "--launcher", "submitit"])
    told = capfd.readouterr().out
    assert re.search(r"2 jobs, logs in out/jobs: \w+, \w+", told)
    assert [row["method"] for row in rows_of("results")] == ["kd_aug", "kd"]
    assert "Not finished" not in told


def test_a_cluster_that_cannot_be_used_is_one_line(files, capsys, monkeypatch):
    arguments = [*files(methods=KD, seeds=[0], submitit={"cluster": "local", "slurm_partition": 3}), "--launcher"]
    assert "launcher: " in complaint_of([*arguments, "elsewhere"], capsys)
    wrong = files(methods=KD, seeds=[0], submitit={"cluster": "local", "colour": "red"})
    assert re.search("submitit: .*colour", complaint_of([*wrong, "--launcher", "submitit"], capsys))
    devices = files(methods=KD, seeds=[0], devices=[0])
    assert "devices: expected none with submitit" in complaint_of([*devices, "--launcher", "submitit"], capsys)
    monkeypatch.setitem(sys.modules, "submitit", None)
    assert "pip install 'ida-lightning[cluster]'" in complaint_of(
        [*files(methods=KD), "--launcher", "submitit"], capsys
    )
