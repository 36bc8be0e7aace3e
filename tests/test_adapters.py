"""Batches that torchvision, timm and plain loaders make, as mixed batches."""

import numpy as np
import pytest
import torch
from timm.data import Mixup
from torch.nn import functional as F
from torch.utils.data import default_collate
from torchvision.transforms import v2

from ida_lightning import InputError, LabelMix, MixedBatch, as_mixed_batch
from tests.helpers.devices import DEVICES, never_waiting


def one_hot_images(batch):
    """Image i is 1 in channel i and 0 elsewhere: the channel means of a mixed image tell what is in it."""
    return torch.eye(batch)[:, :, None, None].repeat(1, 1, 12, 20)


def assert_names_what_was_mixed(batch, labels, partner, classes):
    shares = batch.inputs.mean((2, 3))
    rows = torch.arange(len(labels))
    own = shares[rows, rows]
    torch.testing.assert_close(own + shares[rows, partner], torch.ones(len(labels)), atol=1e-5, rtol=0)
    mix = batch.label_mix
    mix.check_values(classes)
    expected = LabelMix.pair(labels, labels[partner], own)
    torch.testing.assert_close(mix.dense(classes), expected.dense(classes), atol=1e-5, rtol=0)
    ours, theirs = mix.order(), expected.order()
    for row in range(len(labels)):
        named = ours.labels[row][ours.present[row]].tolist()
        if labels[row] == labels[partner[row]] or own[row] in (0, 1):
            assert len(named) == 1
        if (2 * own[row] - 1).abs() > 1e-4:
            # A share that rounds to nothing in the target is none.
            assert named == theirs.labels[row][theirs.present[row]].tolist() or own[row].sub(0.5).abs() > 0.5 - 1e-5


@pytest.mark.parametrize("kind", [v2.MixUp, v2.CutMix])
@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("batch", [2, 5, 8])
def test_torchvision(kind, classes, smoothing, batch):
    for _ in range(20):
        labels = torch.randint(classes, (batch,))
        # torchvision smooths nothing itself, and mixes class weights that came smoothed.
        smooth = (1 - smoothing) * F.one_hot(labels, classes) + smoothing / classes
        images, targets = kind(num_classes=classes)(one_hot_images(batch), smooth if smoothing else labels)
        adapted = as_mixed_batch((images, targets), classes, None if classes == 10 else smoothing)
        assert_names_what_was_mixed(adapted, labels, torch.arange(batch).roll(1), classes)


@pytest.mark.parametrize("kind", ["mixup", "cutmix", "either"])
@pytest.mark.parametrize("mode", ["batch", "pair", "elem"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("classes", [2, 10])
def test_timm(kind, mode, smoothing, classes):
    alphas = {"mixup": (1.0, 0.0), "cutmix": (0.0, 1.0), "either": (0.3, 1.0)}[kind]
    mixup = Mixup(*alphas, prob=0.9, mode=mode, label_smoothing=smoothing, num_classes=classes)
    for batch in (2, 4, 10) * 10:
        labels = torch.randint(classes, (batch,))
        adapted = as_mixed_batch(mixup(one_hot_images(batch), labels), classes, None if classes == 10 else smoothing)
        assert_names_what_was_mixed(adapted, labels, torch.arange(batch).flip(0), classes)


def test_smoothing_is_recognised_where_classes_are_many():
    labels = torch.tensor([4, 4, 1, 2])
    np.random.seed(3)  # noqa: NPY002 (timm's)
    mixed = Mixup(label_smoothing=0.1, num_classes=10)(one_hot_images(4), labels)
    for told in (None, 0.1):
        assert_names_what_was_mixed(as_mixed_batch(mixed, smoothing=told), labels, torch.arange(4).flip(0), 10)


def test_a_mixed_batch_passes_through():
    batch = MixedBatch(
        torch.rand(2, 3, 4, 4), LabelMix.unmixed(torch.tensor([1, 0])), torch.arange(2), torch.arange(2)[:, None]
    )
    assert as_mixed_batch(batch) is batch


@pytest.mark.parametrize("device", DEVICES)
def test_plain_batches_of_every_shape_loaders_give_them(device):
    items = [(torch.rand(3, 4, 5), label) for label in (2, 0, 1)]
    images, labels = (part.to(device) for part in default_collate(items))
    batches = [
        [images, labels],
        (images, labels),
        *(
            {name: images, other: labels, "path": ["a", "b", "c"]}
            for name in ("image", "images", "pixel_values")
            for other in ("label", "labels")
        ),
    ]
    for batch in batches:
        with never_waiting(device):
            adapted = as_mixed_batch(batch, 3)
        assert adapted.inputs is images
        assert adapted.label_mix.labels.tolist() == [[2], [0], [1]]
        assert adapted.label_mix.weights.tolist() == [[1.0]] * 3
        assert adapted.index.tolist() == [-1] * 3
        assert adapted.partner.tolist() == [[0], [1], [2]]
        assert {part.device for part in (*adapted.label_mix, adapted.index, adapted.partner)} == {images.device}


IMAGES, LABELS = torch.rand(2, 3, 4, 4), torch.tensor([1, 0])
FORMS = "batch: expected a MixedBatch, (inputs, targets) or a dict with inputs and label, got "


@pytest.mark.parametrize(
    ("batch", "classes", "message"),
    [
        (IMAGES, None, FORMS + "Tensor"),
        ([IMAGES], None, FORMS + "list of float32 (2, 3, 4, 4)"),
        ([], None, FORMS + "list"),
        ((IMAGES, LABELS, LABELS), None, FORMS + "tuple of float32 (2, 3, 4, 4), int64 (2,), int64 (2,)"),
        ((IMAGES, [1, 0]), None, FORMS + "tuple of float32 (2, 3, 4, 4), [1, 0]"),
        ({"image": IMAGES, "target": LABELS}, None, FORMS + "dict of 'image', 'target'"),
        ((IMAGES[0], LABELS), None, "batch: expected targets int64 (3,) or float (3, classes), got int64 (2,)"),
        ((IMAGES, LABELS[:1]), None, "batch: expected targets int64 (2,) or float (2, classes), got int64 (1,)"),
        ((IMAGES, LABELS.int()), None, "batch: expected targets int64 (2,) or float (2, classes), got int32 (2,)"),
        ((IMAGES, torch.tensor(0.5)), None, "batch: expected targets int64 (2,) or float (2, classes), got float32 ()"),
        (
            (IMAGES, torch.rand(3, 4)),
            None,
            "batch: expected targets int64 (2,) or float (2, classes), got float32 (3, 4)",
        ),
        ((IMAGES, torch.rand(2, 4)), 5, "batch: expected targets int64 (2,) or float (2, 5), got float32 (2, 4)"),
    ],
)
def test_anything_else_is_named(batch, classes, message):
    with pytest.raises(InputError) as refused:
        as_mixed_batch(batch, classes)
    assert str(refused.value) == message
