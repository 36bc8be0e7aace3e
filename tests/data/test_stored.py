"""Folders that are decoded once, and files that cannot be."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

from ida_lightning import InputError
from ida_lightning.data import ImageFolderDataModule, stored
from tests.helpers.folder_files import write_folder


def folder_data(root, **options):
    return ImageFolderDataModule(str(root), **{"image_size": 14, "batch_size": 6, "num_workers": 0, **options})


@pytest.fixture
def root(tmp_path):
    """Noise of several sizes: larger, smaller and of the very size that is kept."""
    write_folder(tmp_path, parts={"train": 6, "val": 3})
    rng = np.random.default_rng(0)
    for number, file in enumerate(sorted(tmp_path.rglob("*.png"))):
        height, width = ((40, 30), (9, 20), (16, 50), (16, 16))[number % 4]
        Image.fromarray(rng.integers(0, 255, (height, width, 3), dtype=np.uint8)).save(file)
    return tmp_path


@pytest.fixture
def log(monkeypatch):
    lines = []
    monkeypatch.setattr(stored, "rank_zero_info", lines.append)
    return lines


def images_of(data, split):
    data.setup("fit")
    return data.splits[split].__getitems__(range(len(data.splits[split])))


@pytest.mark.parametrize("kept", ["in_memory", "cache"])
def test_evaluation_sees_the_same_pixels_when_decoded_once(root, kept):
    plain, once = folder_data(root), folder_data(root, **{kept: True})
    for split in ("val", "test"):
        assert torch.equal(images_of(once, split).inputs, images_of(plain, split).inputs)
    trained = images_of(once, "train")
    assert trained.inputs.shape == (18, 3, 14, 14)
    assert torch.equal(trained.label_mix.labels, images_of(plain, "train").label_mix.labels)


def test_the_cache_is_used_until_a_file_changes(root, log):
    first = images_of(folder_data(root, cache=True), "val").inputs
    assert sorted(os.listdir(root / ".decoded")) == ["train-16.safetensors", "val-16.safetensors"]
    assert len([line for line in log if "decoding" in line]) == 2
    log.clear()
    assert torch.equal(images_of(folder_data(root, cache=True), "val").inputs, first)
    assert log == []
    Image.new("RGB", (20, 20), "white").save(root / "val" / "cat" / "0.png")
    changed = images_of(folder_data(root, cache=True), "val").inputs
    assert (changed[0] == 255).all()
    assert log == [f"data: decoding 9 files of {root}/val"]


def test_a_damaged_cache_is_made_again(root, log):
    first = images_of(folder_data(root, cache=True), "val").inputs
    (root / ".decoded" / "val-16.safetensors").write_bytes(b"nothing")
    log.clear()
    assert torch.equal(images_of(folder_data(root, cache=True), "val").inputs, first)
    assert "cannot be used, decoding again" in log[0]


@pytest.mark.parametrize("options", [{}, {"in_memory": True}, {"cache": True}])
def test_damaged_files_are_left_out_and_counted(root, log, options):
    for name in ("train/cat/0.png", "train/dog/1.png", "val/eel/2.png"):
        (root / name).write_bytes((root / name).read_bytes()[:60])
    data = folder_data(root, unreadable="skip", **options)
    assert len(images_of(data, "train").inputs) == 16
    assert len(images_of(data, "val").inputs) == 8
    assert (
        f"data: 2 of 18 files of {root}/train are not readable and are left out: {root}/train/cat/0.png, "
        f"{root}/train/dog/1.png"
    ) in log
    assert {data.splits["val"].name_of(row) for row in range(8)} == {
        str(file) for file in (root / "val").rglob("*.png") if "eel/2" not in str(file)
    }


@pytest.mark.parametrize("options", [{"in_memory": True}, {"cache": True}])
def test_a_damaged_file_stops_unless_it_may_be_left_out(root, options):
    (root / "train/cat/0.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"train/cat/0.png: not readable as an image .*; unreadable: skip leaves"):
        folder_data(root, **options).setup("fit")
    folder_data(root, unreadable="skip", **options).setup("fit")
    with pytest.raises(InputError, match=r"train/cat/0.png: not readable"):
        folder_data(root, **options).setup("fit")


def test_a_split_of_damaged_files_alone_is_refused(root):
    for file in (root / "val").rglob("*.png"):
        file.write_bytes(b"")
    with pytest.raises(InputError, match="val: expected images that can be read, got none in .*val"):
        folder_data(root, unreadable="skip").setup("fit")


def test_a_folder_that_cannot_be_written_to_is_said(root, monkeypatch):
    def full(*args):
        raise OSError("no space left")

    monkeypatch.setattr(stored, "save_file", full)
    with pytest.warns(UserWarning, match="data: no cache, every start decodes again; .*no space left"):
        folder_data(root, cache=True).setup("fit")


def test_one_process_decodes_before_the_others(root, log):
    data = folder_data(root, cache=True)
    data.prepare_data()
    log.clear()
    data.setup("fit")
    assert log == []


def test_what_unreadable_may_be(root):
    with pytest.raises(InputError, match="unreadable: expected one of raise, skip, got 'ignore'"):
        folder_data(root, unreadable="ignore")
