"""Two nodes of one process each, on one machine."""

import json
import multiprocessing
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.helpers.nodes import fit_resume_and_test

pytestmark = [
    pytest.mark.skipif(torch.cuda.is_initialized(), reason="Lightning refuses to fork once CUDA is initialised"),
    pytest.mark.filterwarnings("ignore:teacher. .* is close to chance"),
    pytest.mark.filterwarnings("ignore:Using `DistributedSampler` with the dataloaders"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty"),
]


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def node(folder, rank, port):
    """What torchrun gives a process that is alone on its node."""
    given = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": 2, "RANK": rank, "LOCAL_RANK": 0}
    given |= {"GROUP_RANK": rank, "LOCAL_WORLD_SIZE": 1, "TORCHELASTIC_RUN_ID": "nodes"}
    os.environ.update({name: str(value) for name, value in given.items()})
    fit_resume_and_test(folder, num_nodes=2, devices=1, strategy="ddp")


def reports(folder):
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in (0, 1)]


@pytest.fixture
def on_one_node(tmp_path):
    folder = tmp_path / "one"
    folder.mkdir()
    fit_resume_and_test(folder, devices=2, strategy="ddp_fork")
    (report,) = [json.loads(path.read_text()) for path in folder.glob("rank*.json")]
    return report


@pytest.mark.parametrize("start", ["as torchrun does", pytest.param("torchrun", marks=pytest.mark.slow)])
def test_two_nodes_are_two_processes_on_one(start, on_one_node, tmp_path):
    folder, port = tmp_path / "two", free_port()
    folder.mkdir()
    if start == "torchrun":
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
        options = ["--nnodes=2", "--nproc-per-node=1", "--master-addr=127.0.0.1", f"--master-port={port}"]
        torchrun = [sys.executable, "-m", "torch.distributed.run", *options]
        script = ["-m", "tests.helpers.nodes", str(folder)]
        nodes = [subprocess.Popen([*torchrun, f"--node-rank={n}", *script], env=environment) for n in (0, 1)]
        assert [process.wait(200) for process in nodes] == [0, 0]
    else:
        fork = multiprocessing.get_context("fork")
        nodes = [fork.Process(target=node, args=(folder, rank, port)) for rank in (0, 1)]
        for process in nodes:
            process.start()
        for process in nodes:
            process.join(120)
        assert [process.exitcode for process in nodes] == [0, 0]
    for report in reports(folder):
        assert report["world"] == on_one_node["world"] == 2
        assert report["test"] == pytest.approx(on_one_node["test"], rel=1e-6)
        for name, values in on_one_node["weights"].items():
            assert report["weights"][name] == pytest.approx(values, rel=1e-5, abs=1e-7), name
