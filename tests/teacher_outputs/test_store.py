"""Files of answers: whole records or none, in an order of one's own, and only to the same images."""

import os

import numpy as np
import pytest
import torch

from ida_lightning import InputError, LabelMix, MixedBatch
from ida_lightning.teacher_outputs import Encoding, OutputStore, Place, Recorded, check_manifest
from ida_lightning.teacher_outputs.epoch_file import EpochFile

FIELDS = [("logits", "<f4", (2, 3))]


def content(number):
    return {"logits": np.full((2, 3), number, np.float32)}


def numbers_in(file, batches=4):
    records = [file.read(batch, FIELDS) for batch in range(batches)]
    return [None if record is None else float(record["logits"][0, 0]) for record in records]


def written(path, batches, numbers=(0, 1, 2)):
    file = EpochFile(path)
    for number in numbers:
        file.write(number, FIELDS, content(number), batches)
    return file


def test_records_come_back_in_any_order(tmp_path):
    file = written(tmp_path / "e.npy", 4, (2, 0))
    assert numbers_in(file) == [0, None, 2, None]
    file.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["e.npy"]
    assert numbers_in(EpochFile(tmp_path / "e.npy")) == [0, None, 2, None]
    mapped = np.load(tmp_path / "e.npy", mmap_mode="r", allow_pickle=False)
    assert isinstance(mapped, np.memmap)
    assert mapped["done"].tolist() == [1, 0, 1, 0]


def test_what_a_killed_process_left_goes_on(tmp_path):
    written(tmp_path / "e.npy", 4)  # neither finished nor closed
    assert [path.name for path in tmp_path.iterdir()] == ["e.npy.part"]
    file = EpochFile(tmp_path / "e.npy")
    assert numbers_in(file) == [0, 1, 2, None]
    file.write(3, FIELDS, content(3), 4)
    file.finish()
    assert numbers_in(EpochFile(tmp_path / "e.npy")) == [0, 1, 2, 3]


def test_a_finished_file_grows(tmp_path):
    written(tmp_path / "e.npy", 3).finish()
    file = EpochFile(tmp_path / "e.npy")
    assert numbers_in(file) == [0, 1, 2, None]
    file.write(3, FIELDS, content(3), 4)
    assert numbers_in(file) == [0, 1, 2, 3]
    file.finish()
    assert [path.name for path in tmp_path.iterdir()] == ["e.npy"]


@pytest.mark.parametrize("cut", [0, 3, 40, 150])
def test_a_truncated_file_has_what_is_whole(tmp_path, cut):
    written(tmp_path / "e.npy", 3).finish()
    path = tmp_path / "e.npy"
    size = path.stat().st_size
    os.truncate(path, size - 10 if cut == 0 else cut)
    assert numbers_in(EpochFile(path), 3) == ([0, 1, None] if cut == 0 else [None, None, None])
    file = EpochFile(path)
    file.write(2, FIELDS, content(7), 3)
    assert numbers_in(file, 3)[2] == 7


def test_wherever_a_write_was_cut_off_no_record_is_wrong(tmp_path):
    written(tmp_path / "e.npy", 3).finish()
    whole = (tmp_path / "e.npy").read_bytes()
    size = (len(whole) - whole.index(b"\n") - 1) // 3
    for end in range(whole.index(b"\n") + 1, len(whole) + 1):
        cut = tmp_path / "cut.npy.part"  # the space is there, as a file system leaves it after a power cut
        cut.write_bytes(whole[:end].ljust(len(whole), b"\0"))
        done = (end - whole.index(b"\n") - 1) // size
        numbers = numbers_in(EpochFile(tmp_path / "cut.npy"), 3)
        assert numbers[:done] == [0, 1, 2][:done]
        # The last bytes of a float may be zero anyway.
        assert all(number in (None, right) for number, right in zip(numbers, (0, 1, 2), strict=True))


def test_a_changed_byte_is_noticed(tmp_path):
    written(tmp_path / "e.npy", 3).finish()
    path = tmp_path / "e.npy"
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    assert numbers_in(EpochFile(path), 3) == [0, 1, None]


def test_other_fields_and_foreign_files_are_recorded_anew(tmp_path):
    path = tmp_path / "e.npy"
    for foreign in (b"", b"no array", (np.arange(3)).tobytes()):
        path.write_bytes(foreign)
        assert numbers_in(EpochFile(path), 3) == [None] * 3
    np.save(path, {"code": print}, allow_pickle=True)
    assert numbers_in(EpochFile(path), 3) == [None] * 3
    file = written(path, 3)
    assert file.read(0, [("logits", "<f4", (2, 4))]) is None
    assert numbers_in(file, 3) == [0, 1, 2]


def batch_of(index=(4, 7), seed=0):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(2, 1, 4, 4, generator=generator)
    return MixedBatch(inputs, LabelMix.unmixed(torch.tensor([0, 1])), torch.tensor(index), torch.arange(2)[:, None])


def test_answers_are_to_these_images_only(tmp_path):
    store = OutputStore(tmp_path, Encoding(), 3, rank=0)
    logits = torch.randn(2, 3)
    assert store.read(Place(0, 0, 2), batch_of()) is None
    for number in range(2):
        assert store.write(Place(0, number, 2), batch_of(), logits).logits is logits
    store.finish_epoch()
    assert torch.equal(store.read(Place(0, 0, 2), batch_of()).logits, logits)
    assert store.recorded == Recorded(1, 2)
    assert store.holds(0, 2, 2)
    assert not store.holds(0, 3, 2)
    assert not store.holds(1, 2, 2)
    with pytest.raises(
        InputError, match=r"teacher_outputs: expected the images of epoch 0, batch 1 that .*, got others"
    ):
        store.read(Place(0, 1, 2), batch_of((7, 4)))
    with pytest.raises(InputError, match="epoch 0, batch 0"):
        store.read(Place(0, 0, 2), batch_of(seed=1))


def test_another_recorder_is_refused(tmp_path):
    first, second = (OutputStore(tmp_path, Encoding(), 3, rank=0) for _ in range(2))
    first.write(Place(0, 0, 2), batch_of(), torch.randn(2, 3))
    with pytest.raises(InputError, match=r"teacher_outputs: expected an output of one run, got .*rank_0"):
        second.write(Place(0, 1, 2), batch_of(), torch.randn(2, 3))
    assert second.read(Place(0, 0, 2), batch_of()) is not None, "reading needs no lock"
    first.close()
    second.write(Place(0, 1, 2), batch_of(), torch.randn(2, 3))
    second.close()


def test_a_full_disk_loses_nothing_that_was_whole(tmp_path, monkeypatch):
    store = OutputStore(tmp_path, Encoding(), 3, rank=0)
    store.write(Place(0, 0, 2), batch_of(), torch.ones(2, 3))

    def full(self, *args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(EpochFile, "write", full)
        with pytest.raises(InputError, match=r"epoch 0, batch 1 could not be written .*No space left"):
            store.write(Place(0, 1, 2), batch_of(), torch.ones(2, 3))
    store.close()
    again = OutputStore(tmp_path, Encoding(), 3, rank=0)
    assert torch.equal(again.read(Place(0, 0, 2), batch_of()).logits, torch.ones(2, 3))
    assert again.read(Place(0, 1, 2), batch_of()) is None


FACTS = {"teacher": {"fingerprint": "abc", "file": None}, "pictures": {"seed": 1, "mean": (0.5,)}}


def test_the_manifest_names_what_differs(tmp_path):
    with pytest.raises(InputError, match=r"teacher_outputs: expected stored answers in .*, found no manifest.json"):
        check_manifest(tmp_path, FACTS)
    new = {**FACTS, "teacher": {"fingerprint": "abc", "file": "f00"}}
    assert check_manifest(tmp_path, FACTS, new)["teacher"]["file"] == "f00"
    assert check_manifest(tmp_path, FACTS)["pictures"] == {"seed": 1, "mean": [0.5]}
    before = (tmp_path / "manifest.json").read_text()
    changed = {**FACTS, "pictures": {"seed": 2, "mean": (0.5,)}}
    with pytest.raises(InputError, match=r"expected pictures.seed 1, with which .* was recorded, got 2; name another"):
        check_manifest(tmp_path, changed, changed)
    with pytest.raises(InputError, match=r"expected teacher.fingerprint 'abc', .*, got 'abd'"):
        check_manifest(tmp_path, {**FACTS, "teacher": {"fingerprint": "abd"}}, FACTS)
    with pytest.raises(InputError, match=r"expected pictures.std None, .*, got 1"):
        check_manifest(tmp_path, {**FACTS, "pictures": {**FACTS["pictures"], "std": 1}})
    assert (tmp_path / "manifest.json").read_text() == before


@pytest.mark.parametrize("text", ["", "[1]", "{"])
def test_a_damaged_manifest_is_named(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(InputError, match=r"teacher_outputs: .*manifest.json is damaged or no manifest"):
        check_manifest(tmp_path, FACTS, FACTS)


def test_answers_without_a_manifest_are_not_taken_over(tmp_path):
    (tmp_path / "epoch_0000-rank_0.npy").write_bytes(b"")
    with pytest.raises(InputError, match="expected an empty folder or one with manifest.json"):
        check_manifest(tmp_path, FACTS, FACTS)
