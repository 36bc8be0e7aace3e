import hashlib
import pickle
import re
from urllib.error import URLError

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR10, CIFAR100, cifar

from ida_lightning import InputError, LabelMix
from ida_lightning.data import CIFAR10DataModule, CIFAR100DataModule
from tests.helpers.cifar_files import COARSE, make_cifar


def images_of(split):
    return {image.numpy().tobytes() for image in split.images}


@pytest.mark.parametrize(
    ("module", "official", "classes"), [(CIFAR10DataModule, CIFAR10, 10), (CIFAR100DataModule, CIFAR100, 100)]
)
def test_splits_are_the_images_that_torchvision_reads(module, official, classes, tmp_path, monkeypatch):
    data = module(root=str(make_cifar(tmp_path / "data", monkeypatch, official)), val_images=100, batch_size=16, seed=1)
    assert data.num_classes == classes
    data.setup("fit")
    splits = data.splits
    assert {name: len(part) for name, part in splits.items()} == {"train": 300, "val": 100, "test": 100}
    assert splits["val"].labels.bincount().tolist() == [100 // classes] * classes
    train, test = official(data.root, train=True), official(data.root, train=False)
    label_of = {image.transpose(2, 0, 1).tobytes(): y for image, y in zip(train.data, train.targets, strict=True)}
    assert np.array_equal(splits["test"].images.permute(0, 2, 3, 1).numpy(), test.data)
    assert splits["test"].labels.tolist() == test.targets
    for name in ("train", "val"):
        rows = zip(splits[name].images, splits[name].labels.tolist(), strict=True)
        assert all(label_of[image.numpy().tobytes()] == label for image, label in rows)
    assert images_of(splits["train"]) | images_of(splits["val"]) == label_of.keys(), "every image is in one of the two"
    assert not label_of.keys() & images_of(splits["test"])
    assert data.class_names == train.classes
    again = module(root=str(data.root), val_images=100, seed=2)
    again.setup("fit")
    assert torch.equal(again.splits["val"].images, splits["val"].images), "whatever the seed"

    batch = next(iter(data.train_dataloader()))
    assert torch.equal(batch.inputs, splits["train"].images[batch.index])
    assert torch.equal(batch.label_mix.labels[:, 0], splits["train"].labels[batch.index])
    mixed = data.mix(batch, data.batch_generator(0, 0))
    assert (mixed.inputs.shape, mixed.inputs.dtype) == ((16, 3, 32, 32), torch.float32)


def test_coarse_labels_and_the_taxonomy_are_those_of_the_files(tmp_path, monkeypatch):
    root = str(make_cifar(tmp_path / "data", monkeypatch))
    fine = CIFAR100DataModule(root, val_images=100)
    coarse = CIFAR100DataModule(root, labels="coarse", val_images=100)
    for data in (fine, coarse):
        data.setup("fit")
        assert data.superclass.tolist() == COARSE
        assert data.superclass.dtype == torch.int64
    assert coarse.num_classes == 20
    assert coarse.class_names[3] == "superclass 03"
    assert torch.equal(coarse.splits["test"].images, fine.splits["test"].images)
    assert coarse.splits["test"].labels.tolist() == [COARSE[label] for label in fine.splits["test"].labels]
    assert coarse.splits["val"].labels.bincount().tolist() == [5] * 20
    order = LabelMix.from_taxonomy(torch.tensor([2]), fine.superclass).order()
    assert set(order.labels[0].tolist()) == {label for label in range(100) if COARSE[label] == COARSE[2]}
    assert order.labels[0, 0] == 2


def test_chosen_classes_are_numbered_in_their_order(tmp_path, monkeypatch):
    root = str(make_cifar(tmp_path / "data", monkeypatch))
    chosen = [40, 3, 99]
    whole = CIFAR100DataModule(root, val_images=100)
    data = CIFAR100DataModule(root, val_images=3, classes=chosen)
    assert data.num_classes == 3
    for each in (whole, data):
        each.setup("fit")
    assert {name: len(part) for name, part in data.splits.items()} == {"train": 9, "val": 3, "test": 3}
    assert data.class_names == ["class 40", "class 03", "class 99"]
    assert data.superclass.tolist() == [COARSE[label] for label in chosen]
    test = whole.splits["test"]
    for image, label in zip(data.splits["test"].images, data.splits["test"].labels, strict=True):
        assert torch.equal(image, test.images[test.labels == chosen[label]][0])
    coarse = CIFAR100DataModule(root, labels="coarse", val_images=4, classes=[7, 2])
    coarse.setup("fit")
    assert coarse.class_names == ["superclass 07", "superclass 02"]
    assert coarse.superclass.tolist() == COARSE


def test_nothing_is_downloaded_unless_asked(tmp_path, monkeypatch):
    def download(*args, **kwargs):
        make_cifar(tmp_path / "data", monkeypatch)

    monkeypatch.setattr(cifar, "download_and_extract_archive", download)
    CIFAR100DataModule(root="data").prepare_data()
    assert not (tmp_path / "data").exists()
    data = CIFAR100DataModule(root="data", download=True, val_images=100)
    data.prepare_data()
    data.setup("fit")
    assert len(data.splits["train"]) == 300

    def unreachable(*args, **kwargs):
        raise URLError("no route to host")

    monkeypatch.setattr(cifar, "download_and_extract_archive", unreachable)
    with pytest.raises(InputError, match="download: CIFAR-10 could not be fetched into data .*no route to host"):
        CIFAR10DataModule(root="data", download=True).prepare_data()


def test_values_that_cannot_be_are_refused():
    with pytest.raises(InputError, match="val_images: expected a whole number from 100 to 49900, got 10"):
        CIFAR100DataModule(val_images=10)
    with pytest.raises(InputError, match="val_images: expected a whole number from 20 to 49980, got 49981"):
        CIFAR100DataModule(labels="coarse", val_images=49_981)
    with pytest.raises(InputError, match="val_images: expected a whole number from 10 to 49990, got 0"):
        CIFAR10DataModule(val_images=0)
    with pytest.raises(InputError, match="val_images: expected a whole number from 3 to 1497, got 1498"):
        CIFAR100DataModule(classes=[1, 2, 3], val_images=1498)
    with pytest.raises(InputError, match="classes: expected at least 0, got -1"):
        CIFAR100DataModule(classes=[-1, 3])
    for classes in ([3], [3, 3], [3, 100]):
        complaint = f"classes: expected two or more different ones of 0 ... 99, got {re.escape(str(classes))}$"
        with pytest.raises(InputError, match=complaint):
            CIFAR100DataModule(classes=classes)
    with pytest.raises(InputError, match="labels: expected one of fine, coarse, got 'all'"):
        CIFAR100DataModule(labels="all")


def test_missing_or_damaged_files_are_one_line(tmp_path, monkeypatch):
    where = "no CIFAR-100 at /.*/nowhere/cifar-100-python; set data.download to true .* cifar-100-python.tar.gz there"
    for ask in (lambda data: data.setup("fit"), lambda data: data.class_names, lambda data: data.superclass):
        with pytest.raises(InputError, match=f"root: {where}"):
            ask(CIFAR100DataModule(root="nowhere"))

    def complaint():
        with pytest.raises(InputError) as error:
            CIFAR100DataModule(root=str(root), val_images=100).setup("fit")
        assert "\n" not in str(error.value)
        return str(error.value)

    root = make_cifar(tmp_path / "data", monkeypatch)
    file = root / "cifar-100-python" / "train"
    whole = file.read_bytes()
    file.write_bytes(whole[:-100])
    assert complaint().startswith(f"root: a damaged or incomplete CIFAR-100 at {file.parent} (see the file train)")
    file.unlink()
    assert "(see the file train)" in complaint()
    content = pickle.loads(whole)
    for wrong, came in (
        ({**content, "data": content["data"][:-1]}, "400 rows .* got \\(399, 3072\\)"),
        ({**content, "data": content["data"][:, :-1]}, "400 rows .* got \\(400, 3071\\)"),
        ({**content, "fine_labels": content["fine_labels"][1:]}, "399 rows .* got \\(400, 3072\\)"),
    ):
        file.write_bytes(pickle.dumps(wrong))
        monkeypatch.setattr(CIFAR100, "train_list", [["train", hashlib.md5(file.read_bytes()).hexdigest()]])
        with pytest.raises(InputError, match=f"root: expected {came}"):
            CIFAR100DataModule(root=str(root), val_images=100).setup("fit")


def test_a_file_of_somebody_else_is_not_unpickled(tmp_path, monkeypatch):
    class Payload:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    root = make_cifar(tmp_path / "data", monkeypatch)
    for name in ("train", "test", "meta"):
        (root / "cifar-100-python" / name).write_bytes(pickle.dumps(Payload()))
    for ask in (lambda data: data.setup("fit"), lambda data: data.class_names, lambda data: data.superclass):
        with pytest.raises(InputError, match="root: a damaged or incomplete CIFAR-100"):
            ask(CIFAR100DataModule(root=str(root), val_images=100))
    assert not (tmp_path / "ran").exists()
