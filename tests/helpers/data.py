"""A small data module, a module that keeps the batches it is given, and how to compare batches."""

import numpy as np
import torch

from ida_lightning.data import MixingDataModule
from ida_lightning.data.in_memory import InMemoryImages
from ida_lightning.modules import ClassificationModule
from tests.helpers.networks import TinyNet


class BlobsDataModule(MixingDataModule):
    """Four classes of 8 x 8 images told apart by the bright corner: learnt in a few steps."""

    class_names = ["top left", "top right", "bottom left", "bottom right"]  # noqa: RUF012
    channels = 1
    image_size = 8
    mean = (0.2,)
    std = (0.25,)

    def load(self):
        rng = np.random.default_rng(7)

        def part(images):
            labels = torch.arange(images) % 4
            noise = torch.from_numpy(rng.integers(0, 60, (images, 1, 8, 8), dtype=np.uint8))
            for image, label in zip(noise, labels, strict=True):
                top, left = 4 * (int(label) // 2), 4 * (int(label) % 2)
                image[:, top : top + 4, left : left + 4] += 180
            return InMemoryImages(noise, labels)

        return {"train": part(64), "val": part(24), "test": part(16)}


class Keep(ClassificationModule):
    """Keeps the batches it is given."""

    def __init__(self, channels=1):
        super().__init__(TinyNet(channels=channels), 4, channels, 8)
        self.batches = {"train": [], "val": [], "test": []}

    def training_step(self, batch, batch_idx):
        self.batches["train"].append(batch)
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch, batch_idx):
        self.batches["val"].append(batch)
        super().validation_step(batch, batch_idx)

    def test_step(self, batch, batch_idx):
        self.batches["test"].append(batch)
        super().test_step(batch, batch_idx)


def same(ours, theirs):
    return torch.equal(ours.inputs, theirs.inputs) and all(
        torch.equal(a, b) for a, b in zip(ours.label_mix, theirs.label_mix, strict=True)
    )
