import numpy as np
import pytest
import torch

from ida_lightning import InputError, LabelMix, MixedBatch, Mixing
from ida_lightning.data import DigitsDataModule
from ida_lightning.data.in_memory import InMemoryImages, stratified_split
from tests.helpers.data import BlobsDataModule, Keep, same
from tests.helpers.trainers import trainer


def batches_of(tmp_path, data, epochs=2):
    module = Keep()
    run = trainer(tmp_path, max_epochs=epochs)
    run.fit(module, data)
    run.test(module, data, verbose=False)
    return module.batches


def test_only_training_batches_are_mixed(tmp_path, blobs):
    batches = batches_of(tmp_path, blobs)
    assert len(batches["train"]) == 8
    for batch in batches["train"]:
        assert batch.label_mix.labels.shape == (16, 2)
        own = blobs.splits["train"].labels[batch.index]
        partner = own[batch.partner]
        dense = batch.label_mix.dense(4)
        shown = torch.zeros_like(dense).scatter_(1, torch.cat((own[:, None], partner), 1), 1)
        assert ((dense * shown).sum(1) >= 1 - 1e-6).all()
    for split in ("val", "test"):
        first = batches[split][0]
        assert first.label_mix.weights.tolist() == [[1.0]] * len(first.inputs)
        raw = blobs.splits[split].images[first.index]
        torch.testing.assert_close(first.inputs, (raw / 255 - 0.2) / 0.25)
        torch.testing.assert_close(blobs.denormalise(first.inputs), raw / 255)


def test_draws_depend_on_seed_epoch_and_batch_alone(tmp_path):
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


def test_batches_below_one_are_refused():
    with pytest.raises(InputError, match="batch_size: expected at least 1, got 0"):
        BlobsDataModule(batch_size=0)


def test_a_batch_larger_than_the_data_set_still_trains(tmp_path):
    batches = batches_of(tmp_path, BlobsDataModule(batch_size=100), epochs=1)
    assert [len(batch.inputs) for batch in batches["train"]] == [64]


def test_split_is_stratified_disjoint_and_fixed():
    labels = torch.arange(1000) % 7
    rest, held = stratified_split(labels, 140)
    assert np.array_equal(np.sort(np.concatenate((rest, held))), np.arange(1000))
    assert labels[held].bincount().tolist() == [20] * 7
    np.random.seed(5)  # noqa: NPY002 (the state that must not matter)
    assert np.array_equal(stratified_split(labels, 140)[1], held)


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ((torch.zeros(4, 3, 8, 8), [0, 1, 2, 3]), "train: expected images of 1 channels, got 3"),
        ((torch.zeros(4, 1, 8, 8), [0, 1, 2, 4]), "train: expected labels 0 ... 3, got 4"),
        ((torch.zeros(4, 1, 8, 8), [0, -1, 2, 3]), "train: expected labels 0 ... 3, got -1"),
        ((torch.zeros(0, 1, 8, 8), []), "train: expected images, got none"),
        ((torch.zeros(4, 8, 8), [0, 1, 2, 3]), r"images: expected uint8 .*, got uint8 \(4, 8, 8\)"),
        ((torch.zeros(4, 1, 8, 8), [0, 1, 2]), r"labels: expected int64, one for each of 4 images, got int64 \(3,\)"),
    ],
)
def test_splits_that_do_not_fit_are_refused_before_training(monkeypatch, split, message):
    images, labels = split

    def load(self):
        return {"train": InMemoryImages(images.to(torch.uint8), torch.tensor(labels, dtype=torch.int64))}

    monkeypatch.setattr(BlobsDataModule, "load", load)
    with pytest.raises(InputError, match=message):
        BlobsDataModule().setup("fit")


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
    with pytest.raises(InputError, match="image_size: expected at least 8, got 4"):
        DigitsDataModule(image_size=4)


@pytest.mark.parametrize("options", [{}, {"kind": "both", "images": 3}, {"kind": "mosaic"}, {"probability": 0.4}])
@pytest.mark.parametrize("pool", [1, 2])
def test_a_pool_is_clean_rows_and_mixes_of_them(options, pool):
    data, alone = (BlobsDataModule(batch_size=8, mixing=Mixing(**options), pool=pool) for pool in (pool, 0))
    alone.setup("fit")
    loaded = next(iter(alone.train_dataloader()))
    batch = data.mix(loaded, data.batch_generator(0, 0))
    several = alone.mix(loaded, alone.batch_generator(0, 0))
    rows = 8 * (1 + pool)
    assert {len(field) for field in (batch.inputs, *batch.label_mix, batch.index, batch.partner)} == {rows}
    assert torch.equal(batch.inputs[:8], alone.normalise(loaded.inputs))
    assert torch.equal(batch.label_mix.dense(4)[:8], loaded.label_mix.dense(4))
    assert torch.equal(batch.index, loaded.index.repeat(1 + pool))
    assert batch.mixed().tolist() == [False] * 8 + [True] * 8 * pool, "also where chance mixed an image with itself"
    for field, first_mix in zip((batch.inputs, *batch.label_mix), (several.inputs, *several.label_mix), strict=True):
        assert torch.equal(field[8:16], first_mix), "the first mix is the one that a batch without a pool would be"
    assert torch.equal(batch.partner[8:16], several.partner)
    if pool == 2:
        assert not torch.equal(batch.inputs[16:], batch.inputs[8:16]), "drawn anew"
    own = loaded.label_mix.labels[:, 0]
    shown = torch.cat((own.repeat(pool)[:, None], own[batch.partner[8:]]), 1)
    dense = batch.label_mix.dense(4)[8:]
    assert ((dense * torch.zeros_like(dense).scatter_(1, shown, 1)).sum(1) >= 1 - 1e-6).all()


def test_rows_are_mixed_that_have_a_partner_or_several_classes():
    images, index = torch.zeros(4, 1, 8, 8), torch.arange(4)
    mix = LabelMix(
        torch.tensor([[0, 1], [2, 2], [1, 1], [3, 3]]), torch.tensor([[0.6, 0.4], [1, 0], [0.7, 0.3], [1, 0]])
    )
    partner = torch.tensor([[0], [0], [2], [3]])
    found = MixedBatch(images, mix.canonical(), index, partner).mixed()
    assert found.tolist() == [True, True, False, False]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pool": -1}, "pool: expected at least 0, got -1"),
        ({"pool": 2, "mixing": Mixing("none")}, "pool: expected 0 where mixing.kind is none, got 2"),
    ],
)
def test_a_pool_of_nothing_is_refused(options, message):
    with pytest.raises(InputError, match=message):
        BlobsDataModule(**options)
