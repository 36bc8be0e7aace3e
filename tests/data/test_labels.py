"""Labels of other people's data sets: right, or one line."""

import numpy as np
import pytest
import torch

from ida_lightning import InputError
from ida_lightning.data import FromDatasetsDataModule
from ida_lightning.data.labels import label_vector, whole_label

IMAGE = torch.zeros(1, 8, 8, dtype=torch.uint8)


def data_of(labels, **options):
    pairs = [(IMAGE, labels[row % len(labels)]) for row in range(40)]
    return FromDatasetsDataModule(pairs, (0.5,), (0.5,), 8, channels=1, batch_size=8, **options)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([-1, 0, 1, 2], r"labels: expected 0 or more, got -1 of item 0; leave out items without a label"),
        (["a", "b"], r"item 0: expected a whole number as label, got str 'a'; give the class's number"),
        ([0, None], r"item 1: expected a whole number as label, got NoneType None"),
        ([0, [0, 1]], r"item 1: expected a whole number as label, got list \[0, 1\]"),
        ([0, 1.5], r"item 1: expected a whole number as label, got float 1.5"),
        ([0.0, float("nan")], r"item 1: expected a whole number as label, got float nan"),
        ([1, 2, 3], r"labels: expected 0 ... 3, each of them, got none of 0; if right, give class_names"),
        ([0, 2, 5], r"labels: expected 0 ... 5, each of them, got none of 1"),
        ([0], r"labels: expected two classes or more, got 0 alone"),
    ],
    ids=str,
)
def test_labels_that_would_lose_something_are_refused(labels, message):
    with pytest.raises(InputError, match=message):
        data_of(labels)


@pytest.mark.parametrize(
    "kind", [int, float, np.int32, np.float32, np.uint8, torch.tensor, bool], ids=lambda kind: kind.__name__
)
def test_whole_numbers_of_any_kind_are_labels(kind):
    data = data_of([kind(0), kind(1)])
    data.setup("fit")
    assert data.class_names == ["0", "1"]
    assert set(next(iter(data.train_dataloader())).label_mix.labels.flatten().tolist()) == {0, 1}
    assert whole_label(kind(1)) == 1


def test_names_allow_classes_without_images():
    assert data_of([1, 2, 3], class_names=["none", "a", "b", "c"]).num_classes == 4


@pytest.mark.parametrize("values", [[0, 1, 2], np.array([0.0, 1.0, 2.0]), torch.tensor([0, 1, 2], dtype=torch.uint8)])
def test_columns_of_labels_are_int64(values):
    labels = label_vector(values)
    assert labels.dtype == torch.int64
    assert labels.tolist() == [0, 1, 2]


@pytest.mark.parametrize("values", [[0, 1.7], np.array([0.0, 1.7]), torch.eye(2), ["a"], [None], np.array(["0"])])
def test_columns_of_other_things_are_refused(values):
    with pytest.raises(InputError, match=r"item \d: expected a whole number as label"):
        label_vector(values)


def test_images_of_another_size_in_memory_are_refused():
    data = FromDatasetsDataModule(
        [(IMAGE, row % 2) for row in range(40)], (0.5,), (0.5,), 4, channels=1, in_memory=True
    )
    with pytest.raises(InputError, match="expected 4 x 4 pixels, got 8 x 8"):
        data.setup("fit")
