import json
import multiprocessing
import os
import resource
import signal
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ida_lightning import InputError
from ida_lightning import files as module
from ida_lightning.files import replacing, replacing_set, writable_file, writable_folder


def test_the_file_appears_whole_or_not_at_all():
    place = Path("folder/file.txt")
    with replacing(place) as unfinished:
        unfinished.write_text("half")
        assert not place.exists()
    assert place.read_text() == "half"

    def fail():
        with replacing(place) as unfinished:
            unfinished.write_text("other")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert place.read_text() == "half"
    assert [file.name for file in place.parent.iterdir()] == ["file.txt"]


def test_the_file_has_the_mode_of_any_new_file(tmp_path):
    (tmp_path / "usual").touch()
    with replacing(tmp_path / "net.safetensors") as unfinished:
        save_file({"weight": torch.ones(1)}, unfinished)
    assert (tmp_path / "net.safetensors").stat().st_mode == (tmp_path / "usual").stat().st_mode


def _killed(call, *args):
    """Run a function in a process that ends itself in the middle of it."""
    process = multiprocessing.get_context("fork").Process(target=call, args=args)
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    return process.pid


def _die():
    os.kill(os.getpid(), signal.SIGKILL)


def _write_half(path):
    with replacing(path) as unfinished:
        unfinished.write_text("half")
        _die()


def test_what_a_killed_writer_left_goes_with_the_next(tmp_path):
    _killed(_write_half, tmp_path / "a.txt")
    other_host = tmp_path / ".unfinished-00000000-1-a.txt"
    alive = tmp_path / f".unfinished-{module._host()}-{os.getppid()}-a.txt"
    other_host.touch()
    alive.touch()
    assert len(list(tmp_path.iterdir())) == 3
    with replacing(tmp_path / "b.txt") as unfinished:
        with replacing(tmp_path / "c.txt") as second:
            second.touch()
        unfinished.touch()
    assert {path.name for path in tmp_path.iterdir()} == {"b.txt", "c.txt", other_host.name, alive.name}


def test_a_full_disk_leaves_the_older_file_and_one_line(tmp_path):
    path = tmp_path / "a.bin"
    path.write_bytes(b"older")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        with (
            pytest.raises(
                InputError, match=r"a.bin: could not be written \(File too large\); what was there before is"
            ),
            replacing(path) as unfinished,
            unfinished.open("wb") as file,
        ):
            torch.save(torch.zeros(100_000), file)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert path.read_bytes() == b"older"
    assert [file.name for file in tmp_path.iterdir()] == ["a.bin"]


@pytest.mark.parametrize("path", ["file/x.txt", "/proc/nowhere/x.txt", "folder"])
def test_places_are_tried_without_leaving_anything(path):
    Path("file").touch()
    Path("folder").mkdir()
    with pytest.raises(InputError, match="path: expected (a place to write to|the name of a file)"):
        writable_file("path", path)
    assert writable_file("path", "new/deep/x.txt") == Path("new/deep/x.txt")
    assert writable_folder("path", "folder") == Path("folder")
    assert {file.name for file in Path().rglob("*")} == {"file", "folder"}


NAMES = ("a.txt", "b.txt", "c.txt")


def write_set(folder, content, names=NAMES):
    with replacing_set(folder, NAMES) as unfinished:
        for name in names:
            (unfinished / name).write_text(content)


def read_set(folder):
    return {name: (folder / name).read_text() for name in NAMES if (folder / name).exists()}


def test_a_smaller_set_takes_the_others_away(tmp_path):
    (tmp_path / "mine.txt").touch()
    write_set(tmp_path, "old")
    write_set(tmp_path, "new", NAMES[:2])
    assert read_set(tmp_path) == {"a.txt": "new", "b.txt": "new"}
    assert {path.name for path in tmp_path.iterdir()} == {"mine.txt", *NAMES[:2]}


@pytest.mark.parametrize("moment", range(12))
def test_files_of_two_sets_are_never_side_by_side(moment, tmp_path):
    def write(folder):
        left = [moment]

        def count(function):
            def counted(*args, **options):
                if left[0] == 0:
                    _die()
                left[0] -= 1
                return function(*args, **options)

            return counted

        os.replace, Path.unlink, Path.rmdir = map(count, (os.replace, Path.unlink, Path.rmdir))
        write_set(folder, "new")
        _die()  # if there are fewer moments

    write_set(tmp_path, "old")
    _killed(write, tmp_path)
    assert set(read_set(tmp_path).values()) <= {"old"} or set(read_set(tmp_path).values()) == {"new"}
    write_set(tmp_path, "newest", NAMES[1:])
    assert read_set(tmp_path) == {"b.txt": "newest", "c.txt": "newest"}
    assert {path.name for path in tmp_path.iterdir()} == set(NAMES[1:])


def test_a_set_that_was_on_its_way_arrives_first(tmp_path, monkeypatch):
    write_set(tmp_path, "old")
    staged = tmp_path / ".finished-set"
    staged.mkdir()
    (staged / ".names.json").write_text(json.dumps(["a.txt", "b.txt"]))
    (staged / "b.txt").write_text("new")
    (tmp_path / "a.txt").write_text("new")  # moved already
    seen = []
    with replacing_set(tmp_path, NAMES):
        seen.append(read_set(tmp_path))
    assert seen == [{"a.txt": "new", "b.txt": "new"}]
