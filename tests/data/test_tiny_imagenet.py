import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from ida_lightning import InputError
from ida_lightning.data import TinyImageNetDataModule
from ida_lightning.data.sets import tiny_imagenet
from tests.helpers.tiny_imagenet_files import WNIDS, make_tiny_imagenet


@pytest.fixture
def folder(tmp_path):
    return make_tiny_imagenet(tmp_path / "data")


def module(folder, **options):
    return TinyImageNetDataModule(**{"root": str(folder.parent), "val_images": 6, "batch_size": 4, **options})


def ready(folder, **options):
    """As a Trainer would do it."""
    data = module(folder, **options)
    data.prepare_data()
    data.setup("fit")
    return data


def pixels_of(file):
    return torch.from_numpy(np.array(Image.open(file).convert("RGB"))).permute(2, 0, 1)


@pytest.mark.parametrize("cache", [False, True])
def test_splits_are_the_images_that_pillow_reads(cache, folder, monkeypatch):
    monkeypatch.setattr(tiny_imagenet, "_CHUNK", 5)  # several pieces, the last one smaller
    grey = folder / "train" / "n02" / "images" / "n02_3.JPEG"
    Image.open(grey).convert("L").save(grey)
    data = ready(folder, cache=cache, seed=1)
    splits = data.splits
    assert {name: len(part) for name, part in splits.items()} == {"train": 18, "val": 6, "test": 12}
    assert splits["val"].labels.bincount().tolist() == [2, 2, 2]
    official = {
        pixels_of(folder / "train" / wnid / "images" / f"{wnid}_{number}.JPEG").numpy().tobytes(): label
        for label, wnid in enumerate(sorted(WNIDS))
        for number in range(8)
    }
    seen = []
    for name in ("train", "val"):
        for image, label in zip(splits[name].images, splits[name].labels.tolist(), strict=True):
            assert official[image.numpy().tobytes()] == label
            seen.append(image.numpy().tobytes())
    assert len(set(seen)) == len(official) == 24, "every image is in one of the two"
    for number, (image, label) in enumerate(zip(splits["test"].images, splits["test"].labels.tolist(), strict=True)):
        assert torch.equal(image, pixels_of(folder / "val" / "images" / f"val_{number}.JPEG"))
        assert sorted(WNIDS)[label] == WNIDS[number % 3]
        assert image.numpy().tobytes() not in official
    assert torch.equal(ready(folder, cache=cache, seed=2).splits["val"].images, splits["val"].images), "any seed"
    assert (folder / "decoded.safetensors").exists() == cache

    batch = next(iter(data.train_dataloader()))
    assert torch.equal(batch.inputs, splits["train"].images[batch.index])
    mixed = data.mix(batch, data.batch_generator(0, 0))
    assert (mixed.inputs.shape, mixed.inputs.dtype) == ((4, 3, 64, 64), torch.float32)


def test_classes_are_in_the_order_of_their_identifiers(folder):
    assert module(folder).class_names == ["goldfish, Carassius auratus", "bullfrog", "jellyfish"]
    assert module(folder).num_classes == 3
    assert TinyImageNetDataModule(root="nowhere").num_classes == 200


@pytest.fixture
def said(monkeypatch):
    lines = []
    monkeypatch.setattr(tiny_imagenet, "rank_zero_info", lines.append)
    return lines


def test_images_are_decoded_again_if_the_cache_is_unusable(folder, said):
    first = ready(folder)
    cache = folder / "decoded.safetensors"
    assert said == ["Tiny ImageNet: decoding 36 images"]
    assert cache.stat().st_mode == (folder / "wnids.txt").stat().st_mode, "who may read the data may read the cache"

    def unusable(reason):
        del said[:]
        again = ready(folder)
        assert [line.split(" (")[0] for line in said] == [
            f"Tiny ImageNet: {cache} cannot be used, decoding again",
            "Tiny ImageNet: decoding 36 images",
        ]
        assert reason in said[0]
        return again

    del said[:]
    assert torch.equal(ready(folder).splits["train"].images, first.splits["train"].images)
    assert said == []
    whole = cache.read_bytes()
    for damaged in (whole[:-5000], whole[:4], b"", b"x" * 100):
        cache.write_bytes(damaged)
        assert torch.equal(unusable("").splits["test"].images, first.splits["test"].images)
        assert cache.read_bytes() == whole
    with safe_open(cache, "pt") as file:
        tensors, metadata = {key: file.get_tensor(key).clone() for key in file.keys()}, file.metadata()  # noqa: SIM118
    for change, reason in (
        ({"test_labels": tensors["test_labels"].flip(0)}, "it has other labels"),
        ({"test_images": tensors["test_images"][:, :, :32]}, "it has images of another shape"),
        ({"test_images": tensors["test_images"][1:]}, "labels: expected int64, one for each of 11 images"),
    ):
        save_file({key: value.contiguous() for key, value in {**tensors, **change}.items()}, cache, metadata)
        unusable(reason)
    renamed = folder / "train" / "n01" / "images" / "n01_0.JPEG"
    renamed.rename(renamed.with_name("n01_9.JPEG"))
    unusable("it was made of other files")
    del said[:]
    ready(folder)
    assert said == []
    shutil.rmtree(folder / "train" / "n03")
    (folder / "wnids.txt").write_text("n01\nn02\n")
    annotations = (folder / "val" / "val_annotations.txt").read_text().replace("n03", "n01")
    (folder / "val" / "val_annotations.txt").write_text(annotations)
    assert ready(folder, val_images=4).num_classes == 2
    assert "it was made of other files" in said[0]


def test_a_read_only_folder_costs_a_warning_only(folder, said, monkeypatch):
    def refused(*args):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "replace", refused)
    with pytest.warns(
        UserWarning, match="no cache, every start decodes again; .*decoded.safetensors cannot be written"
    ):
        data = ready(folder)
    assert len(data.splits["train"]) == 18
    assert said == ["Tiny ImageNet: decoding 36 images"]
    assert not list(folder.glob("*.safetensors"))
    assert not list(folder.glob(".unfinished*"))


def test_without_a_trainer_setup_alone_will_do(folder, said):
    data = module(folder)
    data.setup("fit")
    assert len(data.splits["test"]) == 12
    with pytest.raises(InputError, match="val_images: expected 3 ... 21, one a class, got 22"):
        module(folder, val_images=22).setup("fit")
    assert said == ["Tiny ImageNet: decoding 36 images"], "refused before anything is decoded"
    with pytest.raises(InputError, match="val_images: expected at least 1, got 0"):
        module(folder, val_images=0)


def empty_class(folder):
    for file in (folder / "train" / "n02" / "images").iterdir():
        file.unlink()


def missing_class(folder):
    shutil.rmtree(folder / "train" / "n02")


def unknown_class(folder):
    (folder / "train" / "n77").mkdir()


def truncated_image(folder):
    file = folder / "train" / "n03" / "images" / "n03_5.JPEG"
    file.write_bytes(file.read_bytes()[:-300])


def no_image(folder):
    (folder / "val" / "images" / "val_7.JPEG").write_text("<html>Not found</html>")


def large_image(folder):
    Image.new("RGB", (64, 48)).save(folder / "train" / "n01" / "images" / "n01_2.JPEG")


def missing_image(folder):
    (folder / "val" / "images" / "val_4.JPEG").unlink()


def missing_image_folder(folder):
    shutil.rmtree(folder / "val" / "images")


def image_without_annotation(folder):
    shutil.copy(folder / "val" / "images" / "val_4.JPEG", folder / "val" / "images" / "val_99.JPEG")


def annotate(line):
    def damage(folder):
        with (folder / "val" / "val_annotations.txt").open("a") as file:
            file.write(line)

    damage.__name__ = f"annotate {line!r}"
    return damage


def write(name, text):
    def damage(folder):
        (folder / name).write_text(text)

    damage.__name__ = f"write {name}"
    return damage


def without(name):
    def damage(folder):
        (folder / name).unlink()

    damage.__name__ = f"without {name}"
    return damage


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (empty_class, "root: expected JPEG images in /.*/train/n02/images, found none"),
        (missing_class, "root: expected JPEG images in /.*/train/n02/images, found none"),
        (unknown_class, "root: /.*/train/n77 is no class of wnids.txt"),
        (truncated_image, "root: /.*/n03_5.JPEG is not readable as an image"),
        (no_image, "root: /.*/val_7.JPEG is not readable as an image"),
        (large_image, "root: expected 64 x 64 pixels in /.*/n01_2.JPEG, got 64 x 48"),
        (missing_image, "root: /.*/val/images/val_4.JPEG is missing, though val_annotations.txt names it"),
        (missing_image_folder, "root: /.*/val/images/val_0.JPEG is missing, though val_annotations.txt names it"),
        (image_without_annotation, "root: /.*/val/images/val_99.JPEG is not named in val_annotations.txt"),
        (annotate("val_3.JPEG\tn01\t0\t0\t1\t1\n"), "root: expected val_3.JPEG once in val_annotations.txt"),
        (
            annotate("val_12.JPEG\tn44\t0\t0\t1\t1\n"),
            "root: expected a class of wnids.txt for val_12.JPEG in val_annotations.txt, got n44",
        ),
        (annotate("val_12.JPEG n01\n"), "root: expected a file, a tab and a class .*, got 'val_12.JPEG n01'"),
        (write("val/val_annotations.txt", "\n"), "root: expected annotations in /.*/val_annotations.txt, found none"),
        (write("wnids.txt", ""), "root: expected WordNet identifiers in /.*/wnids.txt, found none"),
        (without("wnids.txt"), "root: incomplete Tiny ImageNet, /.*/wnids.txt is not readable"),
        (without("val/val_annotations.txt"), "root: incomplete Tiny ImageNet, /.*/val_annotations.txt is not readable"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
@pytest.mark.parametrize("cache", [False, True])
def test_what_is_wrong_with_the_folder_is_one_line(damage, complaint, cache, folder):
    damage(folder)
    with pytest.raises(InputError, match=f"^{complaint}[^\n]*$"):
        ready(folder, cache=cache)
    assert not (folder / "decoded.safetensors").exists()


def test_class_names_that_are_missing_are_said_to_be(folder):
    (folder / "words.txt").write_text("n01\tgoldfish\nn03\tjellyfish\n")
    with pytest.raises(InputError, match="root: expected words for n02 in /.*/words.txt, found none"):
        module(folder).class_names  # noqa: B018 (a property)


def test_nothing_is_downloaded_unless_asked(tmp_path, monkeypatch):
    def download(url, folder, md5):
        make_tiny_imagenet(folder)

    monkeypatch.setattr(tiny_imagenet, "download_and_extract_archive", download)
    with pytest.raises(
        InputError, match="root: no Tiny ImageNet at /.*/here/tiny-imagenet-200; set data.download .*zip"
    ):
        ready(tmp_path / "here" / "tiny-imagenet-200")
    data = ready(tmp_path / "here" / "tiny-imagenet-200", download=True)
    assert len(data.splits["train"]) == 18

    def unreachable(url, folder, md5):
        raise RuntimeError("File not found or corrupted.")

    monkeypatch.setattr(tiny_imagenet, "download_and_extract_archive", unreachable)
    with pytest.raises(InputError, match="download: Tiny ImageNet could not be fetched into .*there .File not found"):
        TinyImageNetDataModule(root="there", download=True).prepare_data()
