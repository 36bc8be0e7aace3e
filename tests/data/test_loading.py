"""Which rows come next: shuffled, shared out, and the same after an interruption."""

import io

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from PIL import Image

from ida_lightning import Mixing
from ida_lightning.augment.augmentation import Augmentation
from ida_lightning.data import FromDatasetsDataModule
from ida_lightning.data.loading import EpochSampler
from tests.helpers.data import BlobsDataModule, Keep, same
from tests.helpers.trainers import trainer


def test_every_row_once_an_epoch_and_each_process_its_own():
    rows = list(range(20))
    shares = [EpochSampler(rows, seed=3, replicas=2, rank=rank) for rank in (0, 1)]
    first = [list(share) for share in shares]
    assert sorted(first[0] + first[1]) == rows
    for share in shares:
        share.set_epoch(4)
    later = [list(share) for share in shares]
    assert sorted(key - 4 * 20 for key in later[0] + later[1]) == rows, "keys carry the epoch"
    assert [key - 80 for key in later[0]] != first[0]


def test_goes_on_behind_the_rows_that_were_had():
    whole = list(EpochSampler(range(10), seed=0))
    assert list(EpochSampler(range(10), seed=0, rows_done=lambda: 6)) == whole[6:]


def jpeg(row):
    pixels = np.random.default_rng(row).integers(0, 255, (12, 10, 3), dtype=np.uint8)
    written = io.BytesIO()
    Image.fromarray(pixels).save(written, "JPEG")
    return written


class Noisy:
    """A random transform, as people have them."""

    def __call__(self, image):
        top, left = torch.randint(0, 3, (2,)).tolist()
        return image.resize((10, 10)).crop((left, top, left + 8, top + 8)).convert("L")


class Files:
    """Decodes when asked, as an image folder does."""

    targets = [row % 4 for row in range(80)]  # noqa: RUF012

    def __len__(self):
        return 80

    def __getitem__(self, row):
        return Image.open(jpeg(row)), self.targets[row]


def files(workers):
    return FromDatasetsDataModule(
        Files(),
        (0.2,),
        (0.25,),
        8,
        channels=1,
        val_share=0.2,
        transform=lambda image: image.resize((8, 8)).convert("L"),
        train_transform=Noisy(),
        batch_size=16,
        mixing=Mixing("both"),
        augmentation=Augmentation(crop_padding=1, flip=True),
        num_workers=workers,
    )


def blobs(workers):
    return BlobsDataModule(
        batch_size=16, mixing=Mixing("both"), augmentation=Augmentation(crop_padding=1), num_workers=workers
    )


class Stop(Exception):
    """Pulls the plug."""


class StopAfter(Keep):
    def __init__(self, steps):
        super().__init__()
        self.steps = steps

    def on_train_batch_start(self, batch, batch_idx):
        if self.global_step == self.steps:
            raise Stop


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
@pytest.mark.parametrize("limit", [{"max_epochs": 3}, {"max_epochs": -1, "max_steps": 12}])
@pytest.mark.parametrize("stop", [1, 3, 4, 6, 8])
def test_a_resumed_run_sees_what_the_uninterrupted_one_saw(tmp_path, stop, limit):
    resumes_like_uninterrupted(tmp_path, lambda: blobs(0), stop, limit)


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_with_worker_processes_and_random_transforms(tmp_path):
    resumes_like_uninterrupted(tmp_path, lambda: files(2), 6, {"max_epochs": 3})


def resumes_like_uninterrupted(tmp_path, make, stop, limit):
    straight = Keep()
    trainer(tmp_path, **limit).fit(straight, make())
    batches = straight.batches["train"]
    assert len(batches) == 12

    def saving():
        every = ModelCheckpoint(tmp_path, filename="{step}", every_n_train_steps=1, save_top_k=-1)
        return trainer(tmp_path, **limit, callbacks=[every], enable_checkpointing=True)

    interrupted, resumed = StopAfter(stop), Keep()
    with pytest.raises(Stop):
        saving().fit(interrupted, make())
    saving().fit(resumed, make(), ckpt_path=tmp_path / f"step={stop}.ckpt", weights_only=True)
    seen = interrupted.batches["train"] + resumed.batches["train"]
    assert len(seen) == 12
    assert [batch.index.tolist() for batch in seen] == [batch.index.tolist() for batch in batches]
    assert all(same(ours, theirs) for ours, theirs in zip(seen, batches, strict=True))


def test_number_of_worker_processes_does_not_matter(tmp_path):
    seen = []
    for workers in (0, 2):
        module = Keep()
        trainer(tmp_path, max_epochs=2).fit(module, files(workers))
        seen.append(module.batches["train"])
    assert all(same(ours, theirs) for ours, theirs in zip(*seen, strict=True))


def test_reading_leaves_the_global_generator_alone():
    data = files(0)
    data.setup("fit")
    state = torch.get_rng_state()
    first, again = data.splits["train"][3], data.splits["train"][3]
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first.inputs, again.inputs)
    later = data.splits["train"][3 + len(data.splits["train"])]
    assert later.index.tolist() == [3]
    assert not torch.equal(first.inputs, later.inputs), "another epoch, another crop"


def test_a_loader_made_after_training_starts_at_the_beginning(tmp_path):
    data, run = BlobsDataModule(batch_size=16), trainer(tmp_path)
    run.fit(Keep(), data)
    assert len(list(data.train_dataloader())) == run.num_training_batches > 1
