"""What a command's exit code and its one line say about how it ended."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import yaml
from lightning.pytorch.callbacks import Callback

from ida_lightning import InputError
from ida_lightning import __main__ as command
from ida_lightning.locks import OutputLock
from ida_lightning.modules import ClassificationModule
from ida_lightning.modules.guards import check_loss
from ida_lightning.studies.console import ended_by_sigterm
from tests.helpers.audits import complaint_of
from tests.helpers.networks import TinyNet
from tests.helpers.trainers import trainer

NETWORK = {"class_path": "ClassificationModule", "init_args": {"model": "test_resnet"}}
DATA = {"class_path": "tests.helpers.data.BlobsDataModule", "init_args": {"batch_size": 16}}


class Terminate(Callback):
    """Sends SIGTERM to its own process, as a scheduler does."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        os.kill(os.getpid(), signal.SIGTERM)


def config(*callbacks, **trainer):
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu", "max_epochs": 1}
    content = {"trainer": {**quiet, "callbacks": list(callbacks), **trainer}, "model": NETWORK, "data": DATA}
    Path("config.yaml").write_text(yaml.safe_dump(content))
    return ["--config", "config.yaml"]


EXPORT = {"class_path": "ExportCallback", "init_args": {"path": "network.safetensors"}}
KEEP = {"class_path": "CheckpointCallback", "init_args": {"dirpath": "kept", "monitor": "model/val_acc"}}
TERMINATE = {"class_path": f"{__name__}.Terminate"}
pytestmark = pytest.mark.filterwarnings("ignore:The number of training batches", "ignore:.*sigterm.*:UserWarning")


def test_sigterm_is_143_and_exports_nothing():
    Path("network.safetensors").write_bytes(b"older")
    with pytest.raises(SystemExit) as stop:
        command.main(["fit", *config(TERMINATE, EXPORT)])
    assert stop.value.code == 143
    assert Path("network.safetensors").read_bytes() == b"older"
    assert not list(Path().glob(".*")), "locks are given back"


def test_a_command_that_was_terminated_outside_of_a_run_is_143():
    with pytest.raises(SystemExit) as stop, ended_by_sigterm():
        signal.raise_signal(signal.SIGTERM)
    assert stop.value.code == 143


def test_evaluation_needs_weights_from_somewhere(capsys):
    arguments = config()
    for name in ("validate", "test", "predict"):
        assert "ckpt_path: expected a checkpoint" in complaint_of([name, *arguments], capsys)
    command.main(["test", *arguments, "--allow_untrained=true"])


def test_a_fit_that_trains_nothing_fails(capsys):
    arguments = ["fit", *config(EXPORT, max_epochs=0)]
    assert "got one after 0 steps; nothing is written" in complaint_of(arguments, capsys)


@pytest.mark.parametrize(
    ("option", "complaint"),
    [
        ("--trainer.logger.save_dir=file/logs", "trainer.logger: expected a place to write to"),
        ("--trainer.default_root_dir=file/x", "trainer.default_root_dir: expected a place to write to"),
    ],
)
def test_places_are_tried_before_the_work(option, complaint, capsys):
    Path("file").touch()
    logger = {"class_path": "CSVLogger", "init_args": {"save_dir": "outputs"}}
    assert complaint in complaint_of(["fit", *config(KEEP, logger=logger), option], capsys)
    assert not Path("kept").exists()


def test_checkpoints_are_of_one_run(capsys):
    with OutputLock("dirpath", "kept"):
        assert "dirpath: expected an output of one run, got " in complaint_of(["fit", *config(KEEP)], capsys)
    assert not Path("kept").exists()


def test_a_process_that_lost_the_others_says_so_in_one_line(monkeypatch, capsys):
    left = []

    def fail(*args):
        raise RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1234")

    monkeypatch.setattr(command, "AuditCLI", fail)
    with pytest.raises(RuntimeError, match="gloo"):
        command.main(["fit"])
    for name, value in (("is_initialized", True), ("get_world_size", 2), ("get_rank", 1)):
        monkeypatch.setattr(dist, name, lambda value=value: value)
    monkeypatch.setattr(os, "_exit", left.append)
    monkeypatch.setattr(dist, "destroy_process_group", lambda: None)
    command.main(["fit"])
    assert left == [1]
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "ida-lightning: process 1 ends because another one has ended, which says why"


def test_two_processes_end_with_143():
    arguments = ["fit", *config(TERMINATE, EXPORT, devices=2, strategy="ddp")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path[1:]])}
    done = subprocess.run(
        [sys.executable, "-m", "ida_lightning", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 143, done.stderr[-2000:]
    assert "Traceback" not in done.stderr
    assert not Path("network.safetensors").exists()


def test_a_dump_without_a_place_still_names_the_loss(tmp_path, blobs):
    (tmp_path / "file").touch()
    run = trainer(tmp_path / "file")
    blobs.setup("fit")
    batch = blobs.splits["train"].__getitems__(range(4))
    with pytest.raises(InputError, match="loss: nan at step 0 .*soft labels are lost: .*could not be written"):
        check_loss(run, ClassificationModule(TinyNet(), 4, 1, 8), torch.tensor(torch.nan), batch)
