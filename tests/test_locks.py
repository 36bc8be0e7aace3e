"""One run an output: who comes second is told who is there."""

import multiprocessing
import os
import socket

import pytest

from ida_lightning import InputError
from ida_lightning.locks import OutputLock


def _hold(path, held, over):
    lock = OutputLock("path", path).acquire()
    held.set()
    over.wait(60)
    assert lock
    os._exit(9)  # as a killed process: it releases nothing


def test_the_second_run_is_told_who_is_there(tmp_path):
    path = tmp_path / "deep" / "network.safetensors"
    context = multiprocessing.get_context("fork")
    held, over = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(path, held, over))
    other.start()
    assert held.wait(60)
    expected = f"expected an output of one run, got .*written by process {other.pid} on {socket.gethostname()} since 2"
    with pytest.raises(InputError, match=expected):
        OutputLock("path", path).acquire()
    over.set()
    other.join()
    with OutputLock("path", path):
        assert (path.parent / ".lock-network.safetensors").exists()
    assert list(path.parent.iterdir()) == [], "nothing stays"


def test_a_lock_needs_a_place(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="path: expected a place to write to, got .*file is no folder"):
        OutputLock("path", tmp_path / "file" / "network.safetensors").acquire()


def test_a_damaged_note_about_the_holder_is_no_obstacle(tmp_path):
    with OutputLock("out", tmp_path / "out"):
        (tmp_path / ".holder-out").write_text("{")
        with pytest.raises(InputError, match="which is written by another process; wait for it"):
            OutputLock("out", tmp_path / "out").acquire()
