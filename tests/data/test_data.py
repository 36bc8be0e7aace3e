import hashlib
import pickle

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR100

from ida_lightning import InputError, Mixing
from ida_lightning.data import CIFAR100DataModule, DigitsDataModule
from ida_lightning.data.in_memory import crop_and_flip, stratified_split
from ida_lightning.modules import ClassificationModule
from tests.conftest import BlobsDataModule, TinyNet, trainer


class Keep(ClassificationModule):
    """Keeps the batches it is given."""

    def __init__(self):
        super().__init__(TinyNet(), 4, 1, 8)
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


def batches_of(tmp_path, data, epochs=2):
    module = Keep()
    run = trainer(tmp_path, max_epochs=epochs)
    run.fit(module, data)
    run.test(module, data, verbose=False)
    return module.batches


def same(ours, theirs):
    return torch.equal(ours.images, theirs.images) and all(
        torch.equal(a, b) for a, b in zip(ours.label_mix, theirs.label_mix, strict=True)
    )


def test_only_training_batches_are_mixed(tmp_path, blobs):
    batches = batches_of(tmp_path, blobs)
    assert len(batches["train"]) == 8
    for batch in batches["train"]:
        assert batch.label_mix.labels.shape == (16, 2)
        own = blobs.splits["train"].labels[batch.index]
        partner = own[batch.partner]
        dense = batch.label_mix.dense(4)
        assert (dense.gather(1, torch.stack((own, partner), 1)).sum(1) >= 1 - 1e-6).all()
    for split in ("val", "test"):
        first = batches[split][0]
        assert first.label_mix.weights.tolist() == [[1.0]] * len(first.images)
        raw = blobs.splits[split].images[first.index]
        torch.testing.assert_close(first.images, (raw / 255 - 0.2) / 0.25)
        torch.testing.assert_close(blobs.denormalise(first.images), raw / 255)


def test_draws_depend_on_seed_epoch_and_batch_and_on_nothing_else(tmp_path):
    def run(seed, global_seed):
        torch.manual_seed(global_seed)
        np.random.seed(global_seed)  # noqa: NPY002 (the state that must not matter)
        return batches_of(tmp_path, BlobsDataModule(batch_size=16, mixing=Mixing("both"), seed=seed))["train"]

    first, again, other = run(1, 10), run(1, 20), run(2, 10)
    assert all(same(a, b) for a, b in zip(first, again, strict=True))
    assert not any(same(a, b) for a, b in zip(first, other, strict=True))
    weights = [tuple(batch.label_mix.weights.flatten().tolist()) for batch in first]
    assert len(set(weights)) == len(weights)
    assert first[0].index.tolist() != first[4].index.tolist(), "every epoch is shuffled anew"
    for number, batch in enumerate(first):
        plan = Mixing("both").draw(16, (8, 8), np.random.default_rng((1, number // 4, number % 4, 0)))
        assert torch.equal(plan.partner, batch.partner), "seed, epoch, batch of the epoch, rank"
    assert not torch.equal(first[0].partner, first[4].partner)


def test_seed_is_that_of_seed_everything_unless_given(monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "11")
    assert BlobsDataModule().seed == 11
    assert BlobsDataModule(seed=3).seed == 3


def test_a_resumed_run_draws_what_the_uninterrupted_one_would_have(tmp_path, blobs):
    straight = batches_of(tmp_path, blobs, epochs=3)["train"]
    first = trainer(tmp_path, max_epochs=1)
    module = Keep()
    first.fit(module, BlobsDataModule(batch_size=16, mixing=Mixing("cutmix")))
    first.save_checkpoint(tmp_path / "run.ckpt")
    resumed = Keep()
    trainer(tmp_path, max_epochs=3).fit(
        resumed,
        BlobsDataModule(batch_size=16, mixing=Mixing("cutmix")),
        ckpt_path=tmp_path / "run.ckpt",
        weights_only=True,
    )
    assert all(same(a, b) for a, b in zip(straight[4:], resumed.batches["train"], strict=True))


def test_progress_within_an_epoch_is_in_the_state():
    data = BlobsDataModule()
    data.load_state_dict({"epoch": 3, "batches": 5})
    assert data.state_dict() == {"epoch": 3, "batches": 5}


def test_batches_below_one_are_refused():
    with pytest.raises(InputError, match="batch_size: expected at least 1, got 0"):
        BlobsDataModule(batch_size=0)


def test_a_batch_larger_than_the_data_set_still_trains(tmp_path):
    batches = batches_of(tmp_path, BlobsDataModule(batch_size=100), epochs=1)
    assert [len(batch.images) for batch in batches["train"]] == [64]


def test_split_is_stratified_disjoint_and_fixed():
    labels = torch.arange(1000) % 7
    rest, held = stratified_split(labels, 140)
    assert np.array_equal(np.sort(np.concatenate((rest, held))), np.arange(1000))
    assert labels[held].bincount().tolist() == [20] * 7
    np.random.seed(5)  # noqa: NPY002 (the state that must not matter)
    assert np.array_equal(stratified_split(labels, 140)[1], held)


def test_crop_and_flip_equals_the_slow_way_row_by_row():
    images = torch.randint(0, 256, (50, 3, 6, 9), dtype=torch.uint8)
    found = crop_and_flip(images, 2, np.random.default_rng(0))
    padded = torch.nn.functional.pad(images, (2, 2, 2, 2))
    seen = set()
    for row in range(50):
        candidates = {
            (top, left, flip): (part.flip(2) if flip else part)
            for top in range(5)
            for left in range(5)
            for flip in (False, True)
            for part in [padded[row, :, top : top + 6, left : left + 9]]
        }
        matches = [key for key, candidate in candidates.items() if torch.equal(candidate, found[row])]
        assert len(matches) == 1
        seen.update(matches)
    assert len(seen) > 25, "rows are drawn on their own"


def test_digits_are_real_split_as_said_and_resizable():
    data = DigitsDataModule(image_size=8)
    data.setup("fit")
    assert {name: len(part) for name, part in data.splits.items()} == {"train": 1257, "val": 180, "test": 360}
    images = torch.cat([part.images for part in data.splits.values()])
    assert len(images.flatten(1).unique(dim=0)) == 1797, "no scan is in two splits"
    for part in data.splits.values():
        counts = part.labels.bincount()
        assert counts.max() - counts.min() <= 0.12 * counts.max()
    assert (data.num_classes, data.channels, data.image_size) == (10, 1, 8)
    large = DigitsDataModule(image_size=32)
    large.setup("fit")
    assert large.splits["train"].images.shape == (1257, 1, 32, 32)
    assert torch.equal(large.splits["test"].labels, data.splits["test"].labels)
    with pytest.raises(InputError, match="image_size: expected at least the 8 pixels of the scans, got 4"):
        DigitsDataModule(image_size=4)


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    """A folder that torchvision takes for CIFAR-100: 400 + 100 random images with its files and checksums."""
    return make_cifar(tmp_path / "data", monkeypatch)


def make_cifar(root, monkeypatch):
    folder = root / "cifar-100-python"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    checksums = {}
    names = [f"class {i:02}" for i in range(100)]
    contents = {"meta": {"fine_label_names": names, "coarse_label_names": []}}
    for part, images in (("train", 400), ("test", 100)):
        pixels = rng.integers(0, 256, (images, 3072), dtype=np.uint8)
        contents[part] = {"data": pixels, "fine_labels": [i % 100 for i in range(images)]}
    for name, content in contents.items():
        data = pickle.dumps(content)
        (folder / name).write_bytes(data)
        checksums[name] = hashlib.md5(data).hexdigest()
    monkeypatch.setattr(CIFAR100, "train_list", [["train", checksums["train"]]])
    monkeypatch.setattr(CIFAR100, "test_list", [["test", checksums["test"]]])
    monkeypatch.setattr(CIFAR100, "meta", {**CIFAR100.meta, "filename": "meta", "md5": checksums["meta"]})
    return root


def test_cifar100_carves_validation_from_train_and_keeps_the_official_test(cifar):
    data = CIFAR100DataModule(root=str(cifar), val_images=100)
    data.setup("fit")
    assert {name: len(part) for name, part in data.splits.items()} == {"train": 300, "val": 100, "test": 100}
    assert data.splits["val"].labels.bincount().tolist() == [1] * 100
    official = CIFAR100(cifar, train=False)
    assert np.array_equal(data.splits["test"].images.permute(0, 2, 3, 1).numpy(), official.data)
    assert data.splits["test"].labels.tolist() == official.targets
    assert data.class_names[7] == "class 07"
    batch = data.mix(data.splits["train"].__getitems__(range(8)), data.batch_generator(0, 0))
    assert batch.images.shape == (8, 3, 32, 32)
    assert batch.images.dtype == torch.float32


def test_cifar100_that_is_not_there_says_where_and_how(tmp_path):
    with pytest.raises(InputError, match=r"root: no CIFAR-100 at /.*/nowhere/cifar-100-python; set data.download"):
        CIFAR100DataModule(root="nowhere").setup("fit")
    with pytest.raises(InputError, match="val_images: expected 100"):
        CIFAR100DataModule(val_images=10)


def test_damaged_cifar100_is_said_to_be_damaged(cifar):
    file = cifar / "cifar-100-python" / "train"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(InputError, match="root: a damaged or incomplete CIFAR-100 at"):
        CIFAR100DataModule(root=str(cifar), val_images=100).setup("fit")
