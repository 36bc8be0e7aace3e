"""Tones and erasing on the device."""

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as tv

from ida_lightning import InputError
from ida_lightning.augment.augmentation import Augmentation, random_erase
from ida_lightning.augment.tones import jitter_tones

FILL = torch.tensor([122, 26, 230], dtype=torch.uint8)
KINDS = {"brightness": tv.adjust_brightness, "contrast": tv.adjust_contrast, "saturation": tv.adjust_saturation}


def images_of(batch, channels=3, height=12, width=17):
    rng = np.random.default_rng(0)
    return torch.from_numpy(rng.integers(0, 256, (batch, channels, height, width), dtype=np.uint8))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_tones_equal_torchvision_row_by_row(kind, channels):
    images = images_of(32, channels)
    strengths = dict.fromkeys(KINDS, 0.0) | {kind: 0.7}
    found = jitter_tones(images, *strengths.values(), np.random.default_rng(5))
    factors = np.random.default_rng(5).uniform(0.3, 1.7, 32).astype(np.float32)
    for row, factor in enumerate(factors.tolist()):
        expected = KINDS[kind](images[row], factor)
        # Torchvision multiplies in other steps: a value next to a whole number may be rounded the other way.
        assert (found[row].int() - expected.int()).abs().max() <= 1
        assert (found[row] == expected).float().mean() > 0.99


def test_tones_follow_one_another():
    images = images_of(8)
    together = jitter_tones(images, 0.4, 0.5, 0.6, np.random.default_rng(1))
    rng, alone = np.random.default_rng(1), images
    for strengths in ((0.4, 0, 0), (0, 0.5, 0), (0, 0, 0.6)):
        alone = jitter_tones(alone, *strengths, rng)
    assert torch.equal(together, alone)


def test_strong_tones_keep_factors_from_zero():
    images = torch.full((4096, 1, 1, 1), 100, dtype=torch.uint8)
    found = jitter_tones(images, 1.5, 0, 0, np.random.default_rng(0)).flatten().float()
    assert found.min() == 0
    assert found.max() > 245
    assert abs(float(found.mean()) - 125) < 3


def test_other_numbers_of_channels_are_refused():
    with pytest.raises(InputError, match="images: expected 1 or 3 channels to change tones, got 4"):
        jitter_tones(images_of(2, 4), 0.1, 0, 0, np.random.default_rng(0))


def test_erasing_covers_one_rectangle_of_some_rows():
    images = torch.zeros(2000, 3, 40, 60, dtype=torch.uint8)
    hole = random_erase(images, 0.25, np.random.default_rng(0), FILL) == FILL[:, None, None]
    assert torch.equal(hole[:, 0], hole[:, 1])
    hole = hole[:, 0]
    erased = hole.any(2).any(1)
    assert abs(float(erased.float().mean()) - 0.25) < 0.03
    for mask in hole[erased][:100]:
        rows, columns = mask.any(1), mask.any(0)
        assert mask.sum() == rows.sum() * columns.sum(), "a full rectangle"
        assert int(rows.diff(prepend=rows[:1] & False).sum()) <= 2, "in one piece"
        assert 0.01 < float(mask.float().mean()) < 0.35
    seen = hole.float().mean(0)
    assert (seen.sum(0) > 0).all(), "borders included"
    assert (seen.sum(1) > 0).all()


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_erasing_never_and_always(probability):
    images = torch.zeros(64, 3, 8, 8, dtype=torch.uint8)
    augmentation = Augmentation(erasing=probability)
    found = augmentation.apply(images, np.random.default_rng(0), (0.5, 0.1, 0.9))
    assert (found != 0).flatten(1).any(1).float().mean() == probability


def test_options_of_tones_and_erasing_have_ranges():
    with pytest.raises(InputError, match="erasing: expected a number from 0 to 1, got 1.5"):
        Augmentation(erasing=1.5)
    with pytest.raises(InputError, match="contrast: expected"):
        Augmentation(contrast=-0.1)
