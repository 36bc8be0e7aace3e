"""Files that torchvision takes for CIFAR."""

import hashlib
import pickle

import numpy as np
from torchvision.datasets import CIFAR10, CIFAR100

# A taxonomy that is neither sorted nor in blocks.
COARSE = [(7 * fine + 3) % 20 for fine in range(100)]


def make_cifar(root, monkeypatch, official=CIFAR100):
    """A folder that torchvision takes for the data set: 400 + 100 random images with its files and checksums."""
    folder = root / official.base_folder
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    checksums = {}

    def write(name, content):
        data = pickle.dumps(content)
        (folder / name).write_bytes(data)
        checksums[name] = hashlib.md5(data).hexdigest()
        return [name, checksums[name]]

    def part(first, images):
        pixels = rng.integers(0, 256, (images, 3072), dtype=np.uint8)
        if official is CIFAR10:
            return {"data": pixels, "labels": [(first + i) % 10 for i in range(images)]}
        fine = [(first + i) % 100 for i in range(images)]
        return {"data": pixels, "fine_labels": fine, "coarse_labels": [COARSE[label] for label in fine]}

    if official is CIFAR10:
        train = [write(f"data_batch_{batch}", part(batch, 80)) for batch in range(1, 6)]
        names = {"label_names": [f"class {i}" for i in range(10)]}
    else:
        train = [write("train", part(0, 400))]
        names = {
            "fine_label_names": [f"class {i:02}" for i in range(100)],
            "coarse_label_names": [f"superclass {i:02}" for i in range(20)],
        }
    name, checksum = write(official.meta["filename"], names)
    monkeypatch.setattr(official, "train_list", train)
    monkeypatch.setattr(official, "test_list", [write(official.test_list[0][0], part(0, 100))])
    monkeypatch.setattr(official, "meta", {**official.meta, "filename": name, "md5": checksum})
    return root
