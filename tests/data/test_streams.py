"""What the engines give: every image once, in an order that can be entered anywhere, as a viewer shows it."""

import io
import sys

import numpy as np
import pytest
import torch
from examples.pack_shards import main as pack
from PIL import Image

from ida_lightning import InputError
from ida_lightning.data import HuggingFaceStream, LitDataStream, StreamedImage, WebDatasetStream
from ida_lightning.data.streaming.stream import number_of
from tests.helpers.folder_files import swapped_profile, write_folder
from tests.helpers.streams import ENGINES, IMAGES, Pixels, ids_of, loader_of, stream_of


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    root = tmp_path_factory.mktemp("shards")
    write_folder(root, parts={"train": IMAGES // 3})
    for engine in ENGINES:
        pack([str(root / "train"), str(root / engine), "--to", engine, "--shards", "4"])
    return root


@pytest.mark.parametrize("engine", ENGINES)
def test_no_repeats_over_two_ranks_of_two_workers(shards, engine):
    stream = stream_of(shards, engine)
    assert (stream.class_names(), stream.size()) == (["cat", "dog", "eel"], IMAGES)
    seen = []
    for epoch in (0, 1):
        loaders = [loader_of(stream, 2, lambda: (epoch, 0), rank=rank, ranks=2) for rank in (0, 1)]  # noqa: B023
        ranks = [ids_of(loader) for loader in loaders]
        assert [len(batches) for batches in ranks] == [len(loader) for loader in loaders] == [8, 8]
        ids = np.ravel(ranks).tolist()
        assert len(ids) == len(set(ids)) == 48
        assert set(ids) <= set(range(IMAGES)), "ids are those of the packer"
        seen.append(ids)
    assert seen[0] != seen[1], "another order in another epoch"


@pytest.mark.parametrize("engine", ENGINES)
def test_evaluation_has_every_image_once(shards, engine):
    stream = stream_of(shards, engine)
    loaders = [loader_of(stream, 2, shuffled=False, rank=rank, ranks=2, batch_size=5) for rank in (0, 1)]
    ids = [row for loader in loaders for batch in ids_of(loader) for row in batch]
    assert sorted(ids) == list(range(IMAGES)), "smaller batches at the end, and nothing twice"
    with pytest.raises(TypeError, match="unknown length"):
        len(loaders[0])


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("engine", ENGINES)
def test_an_epoch_can_be_entered_after_any_batch(shards, engine, workers):
    stream = stream_of(shards, engine)
    whole = ids_of(loader_of(stream, workers, lambda: (2, 0)))
    for had in (1, 6) if workers else (1, 6, 15):
        assert ids_of(loader_of(stream, workers, lambda: (2, had))) == whole[had:]  # noqa: B023


@pytest.mark.parametrize("engine", ENGINES)
def test_images_are_what_was_packed(shards, engine):
    batch = next(iter(loader_of(stream_of(shards, engine), shuffled=False, batch_size=IMAGES, name="val")))
    colours = batch.inputs.float().mean((2, 3)).round()
    expected = torch.tensor([[200, 30, 30], [30, 200, 30], [30, 30, 200]])[batch.label_mix.labels[:, 0]]
    assert torch.equal(colours, expected.float())
    assert torch.equal(batch.label_mix.labels[:, 0], batch.index // (IMAGES // 3))


def test_photographs_of_litdata_keep_their_colours(tmp_path):
    from litdata.streaming import Cache

    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:8, :, 0] = 255
    Image.fromarray(pixels).save(tmp_path / "a.jpg", exif=exif, icc_profile=swapped_profile(), quality=95)
    cache = Cache(str(tmp_path / "shards"), chunk_size=2)
    for row in range(2):  # LitData keeps the file, and would decode it without its profile
        with Image.open(tmp_path / "a.jpg") as image:
            cache[row] = {"image": image, "label": row}
    cache.done()
    cache.merge()
    stream = LitDataStream((tmp_path / "shards").as_uri())  # file://, a path of this machine
    batch = next(iter(loader_of(stream, shuffled=False, batch_size=2)))
    red, green, blue = batch.inputs[:, :, 11:, 4:12].float().mean((0, 2, 3)).tolist()
    assert red < 60 < 180 < max(green, blue), "another colour by the profile, in the lower half"
    assert batch.inputs[:, :, :5].max() < 60


def test_ids_are_stable_numbers():
    pixels = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    assert number_of(StreamedImage(pixels, 0)) == number_of(StreamedImage(torch.from_numpy(pixels), 0))
    assert number_of(StreamedImage(b"ab", 0)) != number_of(StreamedImage(b"ac", 0))
    assert number_of(StreamedImage(b"", 0, "0012")) == 12
    assert 0 <= number_of(StreamedImage(b"", 0, "9" * 30)) < 2**63
    with pytest.raises(InputError, match=r"id: expected a whole number from 0 .* got -1"):
        number_of(StreamedImage(b"", 0, -1))


def tar(folder, files):
    import tarfile

    with tarfile.open(folder / "a.tar", "w") as written:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            written.addfile(entry, io.BytesIO(content))
    return WebDatasetStream([str(folder / "a.tar")], images=1)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"1.png": b"no image", "1.cls": b"0"}, r"train: image 1: not readable as an image"),
        ({"1.png": b"", "1.json": b"0"}, r"a.tar/1: expected a file 1.cls in the shard, got png, json"),
        ({"1.txt": b"", "1.cls": b"0"}, r"a.tar/1: expected a file 1.jpg in the shard, got txt, cls"),
        ({"1.png": b"", "1.cls": b"cat"}, r"a.tar/1.cls: expected a whole number"),
    ],
    ids=["image", "label", "ending", "number"],
)
def test_bad_samples_are_named(tmp_path, files, message):
    with pytest.raises(InputError, match=message):
        list(loader_of(tar(tmp_path, files), batch_size=1))


def test_shards_that_do_not_fit_are_refused(tmp_path):
    three = WebDatasetStream([f"{name}.tar" for name in "abc"], images=90)
    with pytest.raises(InputError, match=r"train: expected a multiple of 4 shards for 2 processes x 2 workers, got 3"):
        loader_of(three, 2, ranks=2)
    with pytest.raises(InputError, match=r"val: expected at least 4 shards, one a process, got 3"):
        loader_of(three, name="val", shuffled=False, ranks=4)
    with pytest.raises(InputError, match=r"train.images: expected a batch of 40 for each of 1 .* got 30"):
        loader_of(three, 3, batch_size=40)
    with pytest.raises(InputError, match=r"train.images: expected their number with 2 processes, .* got None"):
        loader_of(Pixels(known=False), ranks=2)
    short = Pixels(12)
    short.images = 15
    with pytest.raises(InputError, match=r"train.images: expected as many as the shards have, they end 1 batch"):
        list(loader_of(short))
    with pytest.raises(InputError, match="urls: expected shards"):
        WebDatasetStream(str(tmp_path))
    with pytest.raises(InputError, match=r"root: expected shards of LitData with their index.json"):
        next(iter(loader_of(LitDataStream(str(tmp_path), images=3))))
    with pytest.raises(InputError, match="path: expected a data set that datasets can load, got: "):
        HuggingFaceStream("arrow", options={"data_files": str(tmp_path / "nothing.arrow")}).class_names()
    with pytest.raises(InputError, match="keys: expected .*image.*label.*id.*, got 'img'"):
        HuggingFaceStream("arrow", keys={"img": "a"})
    (tmp_path / "images.json").write_text("[]")
    (tmp_path / "a.tar").touch()
    with pytest.raises(InputError, match=r"images.json: expected images and class_names"):
        WebDatasetStream(str(tmp_path))


@pytest.mark.parametrize("package", ["litdata", "webdataset", "datasets"])
def test_a_missing_package_is_named_with_its_extra(monkeypatch, shards, package):
    engine = {"datasets": "arrow"}.get(package, package)
    stream = stream_of(shards, engine)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InputError, match=rf"the package {package} .* pip install 'ida-lightning\[streaming\]'"):
        next(iter(loader_of(stream)))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["nowhere", "out"], "expected a folder"),
        (["train", "webdataset"], "out: expected an empty folder"),
        (["train", "out", "--shards", "52"], r"shards: expected 1 ... 51"),
    ],
    ids=["folder", "out", "shards"],
)
def test_the_packer_refuses_in_one_line(shards, tmp_path, args, message):
    folder, out, *more = args
    place = shards / out if out == "webdataset" else tmp_path / out
    with pytest.raises(SystemExit, match=message):
        pack([str(shards / folder), str(place), *more])
