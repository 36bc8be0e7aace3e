import struct

import numpy as np
import pytest
import torch
from torchvision.datasets import FashionMNIST, mnist

from ida_lightning import InputError
from ida_lightning.data import FashionMNISTDataModule


def write_idx(file, array, code=8):
    """The idx format: two zero bytes, the type (8: bytes), the number of dimensions, each as big-endian int32."""
    header = struct.pack(f">BBBB{array.ndim}I", 0, 0, code, array.ndim, *array.shape)
    file.write_bytes(header + array.astype(np.uint8).tobytes())


def make_fashion_mnist(root):
    """120 + 30 random images in the official files."""
    folder = root / "FashionMNIST" / "raw"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for part, images in (("train", 120), ("t10k", 30)):
        write_idx(folder / f"{part}-images-idx3-ubyte", rng.integers(0, 256, (images, 28, 28)))
        write_idx(folder / f"{part}-labels-idx1-ubyte", rng.permutation(images) % 10)
    return root


@pytest.fixture
def root(tmp_path):
    return make_fashion_mnist(tmp_path / "data")


def images_of(split):
    return {image.numpy().tobytes() for image in split.images}


def test_splits_are_the_images_that_torchvision_reads(root):
    data = FashionMNISTDataModule(root=str(root), val_images=20, batch_size=16, seed=1)
    assert (data.num_classes, data.class_names[9]) == (10, "Ankle boot")
    data.setup("fit")
    splits = data.splits
    assert {name: len(part) for name, part in splits.items()} == {"train": 100, "val": 20, "test": 30}
    assert splits["val"].labels.bincount().tolist() == [2] * 10
    train, test = FashionMNIST(root, train=True), FashionMNIST(root, train=False)
    assert torch.equal(splits["test"].images[:, 0], test.data)
    assert torch.equal(splits["test"].labels, test.targets)
    label_of = {image.numpy().tobytes(): int(y) for image, y in zip(train.data, train.targets, strict=True)}
    for name in ("train", "val"):
        rows = zip(splits[name].images, splits[name].labels.tolist(), strict=True)
        assert all(label_of[image.numpy().tobytes()] == label for image, label in rows)
    assert images_of(splits["train"]) | images_of(splits["val"]) == label_of.keys(), "every image is in one of the two"
    assert not label_of.keys() & images_of(splits["test"])
    again = FashionMNISTDataModule(root=str(root), val_images=20, seed=2)
    again.setup("fit")
    assert torch.equal(again.splits["val"].images, splits["val"].images), "whatever the seed"

    batch = next(iter(data.train_dataloader()))
    assert torch.equal(batch.inputs, splits["train"].images[batch.index])
    mixed = data.mix(batch, data.batch_generator(0, 0))
    assert (mixed.inputs.shape, mixed.inputs.dtype) == ((16, 1, 28, 28), torch.float32)


def truncated(folder):
    file = folder / "train-images-idx3-ubyte"
    file.write_bytes(file.read_bytes()[:-100])


def headless(folder):
    (folder / "t10k-labels-idx1-ubyte").write_bytes(b"")


def of_another_type(folder):
    write_idx(folder / "train-images-idx3-ubyte", np.zeros((120, 28, 28)), code=13)


def no_idx(folder):
    (folder / "train-labels-idx1-ubyte").write_bytes(b"<html>Not found</html>")


def images_for_labels(folder):
    (folder / "train-labels-idx1-ubyte").write_bytes((folder / "train-images-idx3-ubyte").read_bytes())


def short_of_labels(folder):
    write_idx(folder / "train-labels-idx1-ubyte", np.arange(119) % 10)


def of_32_pixels(folder):
    write_idx(folder / "train-images-idx3-ubyte", np.zeros((120, 32, 32)))


def of_11_classes(folder):
    write_idx(folder / "t10k-labels-idx1-ubyte", np.arange(30) % 11)


def missing(folder):
    (folder / "t10k-images-idx3-ubyte").unlink()


DAMAGED = "root: damaged Fashion-MNIST, .*/{} is cut short or no idx file of bytes"


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (truncated, DAMAGED.format("train-images-idx3-ubyte")),
        (headless, DAMAGED.format("t10k-labels-idx1-ubyte")),
        (of_another_type, DAMAGED.format("train-images-idx3-ubyte")),
        (no_idx, DAMAGED.format("train-labels-idx1-ubyte")),
        (images_for_labels, DAMAGED.format("train-labels-idx1-ubyte")),
        (short_of_labels, "root: expected a label for each of the 120 images of .*train-images.*, got 119 in .*labels"),
        (of_32_pixels, r"root: expected images of 28 x 28 pixels in .*train-images-idx3-ubyte, got \(32, 32\)"),
        (of_11_classes, "test: expected labels 0 ... 9, got 10"),
        (missing, "root: no t10k-images-idx3-ubyte at /.*/FashionMNIST/raw; set data.download to true"),
    ],
)
def test_damaged_files_are_one_line_that_names_them(damage, complaint, root):
    damage(root / "FashionMNIST" / "raw")
    # Downloading does not get in the way of saying so, unless there is something to download.
    data = FashionMNISTDataModule(root=str(root), val_images=20, download=damage is not missing)
    data.prepare_data()
    with pytest.raises(InputError, match=f"^{complaint}[^\n]*$"):
        data.setup("fit")


def test_nothing_is_downloaded_unless_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(mnist, "download_and_extract_archive", lambda *a, **k: pytest.fail("downloaded"))
    FashionMNISTDataModule(root="nowhere").prepare_data()
    with pytest.raises(InputError, match="root: no Fashion-MNIST at /.*/nowhere/FashionMNIST/raw; set data.download"):
        FashionMNISTDataModule(root="nowhere").setup("fit")
    monkeypatch.setattr(FashionMNIST, "download", lambda self: make_fashion_mnist(self.root))
    data = FashionMNISTDataModule(root="here", download=True, val_images=20)
    data.prepare_data()
    data.setup("fit")
    assert len(data.splits["train"]) == 100

    def unreachable(self):
        raise RuntimeError("Error downloading train-images:\nTried http://mirror, got:\nno route to host\n")

    monkeypatch.setattr(FashionMNIST, "download", unreachable)
    with pytest.raises(InputError, match="^download: Fashion-MNIST could not be fetched into x [^\n]*no route to host"):
        FashionMNISTDataModule(root="x", download=True).prepare_data()
    with pytest.raises(InputError, match="val_images: expected a whole number from 10 to 59990, got 9"):
        FashionMNISTDataModule(val_images=9)
