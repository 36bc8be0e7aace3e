"""The label order stays with the images on their way to the training step."""

import numpy as np
import pytest
import torch
from packaging.version import Version
from torch.utils.data._utils.collate import default_collate
from torch.utils.data._utils.pin_memory import pin_memory

from ida_lightning import LabelMix, MixedBatch, Mixing
from ida_lightning.mixing import mix_images, mix_labels
from tests.helpers.data import BlobsDataModule


def mixed(kind="both", images=2):
    data = BlobsDataModule(batch_size=8, mixing=Mixing(kind, images=images))
    data.setup("fit")
    return data.mix(next(iter(data.train_dataloader())), np.random.default_rng(0))


def tensors(batch):
    return [batch.inputs, *batch.label_mix, batch.index, batch.partner]


def assert_same(ours, theirs):
    assert type(ours) is MixedBatch
    assert type(ours.label_mix) is LabelMix
    assert all(torch.equal(a, b) for a, b in zip(tensors(ours), tensors(theirs), strict=True))


@pytest.mark.parametrize("options", [{}, {"kind": "mixup", "images": 3}, {"kind": "mosaic"}])
def test_every_field_is_batch_first_and_survives_collating(options):
    batch = mixed(**options)
    assert {len(tensor) for tensor in tensors(batch)} == {8}
    images, mix, index, partner, plain, inner = batch
    assert inner == ()
    assert plain == ()
    rows = [MixedBatch(images[i], LabelMix(*(field[i] for field in mix)), index[i], partner[i]) for i in range(8)]
    assert_same(default_collate(rows), batch)


def test_survives_pinning(monkeypatch):
    # Pinning itself needs an accelerator; what the loader's thread does with the structure does not.
    pinned = []

    def pin(self, *device):
        pinned.append(self)
        return self.clone()

    monkeypatch.setattr(torch.Tensor, "pin_memory", pin)
    batch = mixed()
    assert_same(pin_memory(batch), batch)
    assert len(pinned) == 5


@pytest.mark.skipif(
    Version(torch.__version__) < Version("2.12"), reason="torch 2.11 compiles namedtuple._replace to an empty tuple"
)
def test_survives_a_compiled_step_in_one_graph():
    batch = mixed()

    @torch.compile(backend="aot_eager", fullgraph=True)
    def step(batch):
        order = batch.label_mix.order()
        return batch._replace(inputs=2 * batch.inputs), order

    doubled, order = step(batch)
    assert_same(doubled, batch._replace(inputs=2 * batch.inputs))
    assert torch.equal(order.labels, batch.label_mix.order().labels)


def test_what_the_picture_shows_is_what_the_label_says():
    labels = torch.arange(6)
    for kind in ("mixup", "cutmix", "mosaic"):
        plan = Mixing(kind).draw(6, (8, 12), np.random.default_rng(1))
        one_hot = torch.eye(6)[:, :, None, None].expand(6, 6, 8, 12)
        shown = mix_images(one_hot, plan).mean((2, 3))
        torch.testing.assert_close(mix_labels(labels, plan).dense(6), shown, atol=1e-6, rtol=0)
