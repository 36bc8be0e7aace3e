from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch.nn.functional import interpolate, pad
from torchvision.transforms import v2

from ida_lightning import InputError
from ida_lightning.augment.augmentation import Augmentation, cut_out, random_crop, random_erase, random_flip
from ida_lightning.augment.randaugment import (
    MAGNITUDES,
    OPERATIONS,
    _sources,
    apply_operations,
    level_of,
    rand_augment,
)
from ida_lightning.augment.tones import jitter_tones
from tests.helpers.devices import DEVICES, never_waiting

FILL = (0.48, 0.1, 0.9)
PIXEL = torch.tensor([122, 26, 230], dtype=torch.uint8)  # round(255 * FILL)
SIGNED = {"ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate", "Brightness", "Color", "Contrast", "Sharpness"}
EVERYTHING = Augmentation(3, True, 5, 2, 12, brightness=0.3, contrast=0.2, saturation=0.4, erasing=0.5)


def images_of(batch, channels=3, height=12, width=17, seed=0):
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.integers(0, 256, (batch, channels, height, width), dtype=np.uint8))


def photos_of(batch, channels=3, height=12, width=17, seed=0):
    """Smooth, with a narrow range of values that differs by image, so that contrast and equalise have work to do."""
    rng = np.random.default_rng(seed)
    noise = torch.from_numpy(rng.random((batch, channels, 4, 4), dtype=np.float32))
    smooth = interpolate(noise, (height, width), mode="bilinear")
    low, high = (torch.from_numpy(rng.random((2, batch, 1, 1, 1), dtype=np.float32)) * 255).sort(0).values
    return (low + (high - low) * smooth).to(torch.uint8)


def torchvision_alone(image, name, magnitude, negative, fill):
    """The operation on one image as torchvision's own RandAugment does it, when its draws are replaced by ours."""
    theirs = v2.RandAugment(num_ops=1, magnitude=magnitude, fill=fill.tolist())
    number = list(v2.RandAugment._AUGMENTATION_SPACE).index(name)
    with (
        patch("torch.randint", lambda *_, **__: torch.tensor(number)),
        patch("torch.rand", lambda *_: torch.tensor(0.0 if negative else 1.0)),
    ):
        return theirs(image)


@pytest.mark.parametrize(("padding", "size"), [(1, (6, 9)), (4, (5, 3))])
def test_crops_equal_pad_and_slice_row_by_row(padding, size):
    images = images_of(50, 3, *size)
    found = random_crop(images, padding, np.random.default_rng(0))
    padded = pad(images, (padding,) * 4)
    offsets = np.random.default_rng(0).integers(0, 2 * padding + 1, (50, 2))
    slow = [
        image[:, top : top + size[0], left : left + size[1]] for image, (top, left) in zip(padded, offsets, strict=True)
    ]
    assert torch.equal(found, torch.stack(slow))
    assert len(np.unique(offsets, axis=0)) > 8, "rows are drawn on their own"


def test_crops_of_channels_last_and_sliced_images_are_the_same():
    images = images_of(20)
    expected = random_crop(images, 2, np.random.default_rng(0))
    for other in (images.contiguous(memory_format=torch.channels_last), images.repeat(1, 1, 1, 2)[..., :17]):
        assert torch.equal(random_crop(other, 2, np.random.default_rng(0)), expected)


def test_flips_equal_a_loop():
    images = images_of(40)
    found = random_flip(images, np.random.default_rng(0))
    drawn = np.random.default_rng(0).random(40) < 0.5
    slow = [image.flip(2) if flip else image for image, flip in zip(images, drawn, strict=True)]
    assert torch.equal(found, torch.stack(slow))


def test_offsets_flips_operations_and_signs_are_uniform():
    batch, padding = 9000, 2
    pixel = torch.zeros(batch, 1, 1, 5, dtype=torch.uint8)
    pixel[..., 2] = 255  # a line through the middle: where it lands tells the offset
    columns = random_crop(pixel.expand(-1, -1, 5, -1), padding, np.random.default_rng(1))[:, 0, 2].int().argmax(1)
    rows = random_crop(pixel.mT.expand(-1, -1, -1, 5), padding, np.random.default_rng(1))[:, 0, :, 2].int().argmax(1)
    both = np.bincount((5 * rows + columns).numpy(), minlength=25)
    assert chisquare(both).pvalue > 0.01
    ramp = torch.tensor([0, 1], dtype=torch.uint8).expand(batch, 1, 1, 2)
    flips = int(random_flip(ramp, np.random.default_rng(1))[:, 0, 0, 0].sum())
    assert chisquare([flips, batch - flips]).pvalue > 0.01
    drawn = []
    with patch(
        "ida_lightning.augment.randaugment.apply_operations", lambda images, *args: drawn.append(args) or images
    ):
        rand_augment(ramp, 2, 9, np.random.default_rng(1), PIXEL[:1])
    (first, first_sign, *_), (second, second_sign, *_) = drawn
    pairs = np.bincount(len(OPERATIONS) * first + second, minlength=len(OPERATIONS) ** 2)
    assert chisquare(pairs).pvalue > 0.01, "all operations are as likely, and those of one image are independent"
    assert chisquare(np.bincount(2 * first_sign + second_sign, minlength=4)).pvalue > 0.01


def test_operations_and_levels_are_those_of_torchvision():
    space = v2.RandAugment._AUGMENTATION_SPACE
    assert tuple(space) == OPERATIONS
    assert {name for name, (_, signed) in space.items() if signed} == SIGNED
    for name, (levels, _) in space.items():
        theirs = levels(MAGNITUDES, 20, 33)
        for magnitude in range(MAGNITUDES):
            ours = level_of(name, magnitude, 20, 33)
            if name == "Solarize":
                ours /= 255
            assert ours == pytest.approx(0 if theirs is None else float(theirs[magnitude]), rel=1e-12)


@pytest.mark.parametrize("magnitude", [0, 1, 9, 17, 30])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", OPERATIONS)
def test_operations_equal_torchvision_image_by_image(name, channels, magnitude):
    size = (20, 33)  # large enough for equalise, which leaves images of fewer than 255 pixels alone
    plain = torch.full((1, channels, *size), 77, dtype=torch.uint8)
    images = torch.cat((images_of(12, channels, *size), photos_of(12, channels, *size), plain))
    negative = np.arange(25) % 3 == 0
    number = np.full(25, OPERATIONS.index(name))
    found = apply_operations(images, number, negative, magnitude, PIXEL[:channels])
    for image, minus, ours in zip(images, negative, found, strict=True):
        assert torch.equal(ours, torchvision_alone(image, name, magnitude, minus, PIXEL[:channels]))
    does_nothing = name == "Identity" or (name == "Color" and channels == 1)
    if magnitude >= 9:
        assert torch.equal(found, images) == does_nothing


@pytest.mark.parametrize("size", [(2, 2), (1, 7), (33, 20), (64, 64)])
def test_mixed_operations_equal_torchvision_at_other_sizes(size):
    rng = np.random.default_rng(3)
    images = torch.cat((images_of(60, 3, *size), photos_of(60, 3, *size)))
    operation, negative = rng.integers(0, len(OPERATIONS), 120), rng.random(120) < 0.5
    found = apply_operations(images, operation, negative, 9, PIXEL)
    for image, number, minus, ours in zip(images, operation, negative, found, strict=True):
        assert torch.equal(ours, torchvision_alone(image, OPERATIONS[number], 9, minus, PIXEL))


def test_operations_follow_one_another():
    images = photos_of(30)
    found = rand_augment(images, 3, 9, np.random.default_rng(5), PIXEL)
    rng = np.random.default_rng(5)
    for _ in range(3):
        operation, negative = rng.integers(0, len(OPERATIONS), 30), rng.random(30) < 0.5
        slow = [
            torchvision_alone(image, OPERATIONS[number], 9, minus, PIXEL)
            for image, number, minus in zip(images, operation, negative, strict=True)
        ]
        images = torch.stack(slow)
    assert torch.equal(found, images)


def test_autocast_does_not_move_the_pixels():
    images = images_of(20, 1, 40, 41)
    operation, negative = np.arange(20) % 6, np.zeros(20, dtype=bool)
    expected = apply_operations(images, operation, negative, 21, PIXEL[:1])
    _sources.cache_clear()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(apply_operations(images, operation, negative, 21, PIXEL[:1]), expected)


@pytest.mark.parametrize("side", [1, 4, 5, 30])
def test_cutout_covers_one_clipped_square_per_image(side):
    images = images_of(200)
    found = cut_out(images, side, np.random.default_rng(0), PIXEL)
    centres = np.random.default_rng(0).integers(0, (12, 17), (200, 2))
    slow = images.clone()
    for image, (row, column) in zip(slow, centres - side // 2, strict=True):
        image[:, max(row, 0) : max(row + side, 0), max(column, 0) : max(column + side, 0)] = PIXEL[:, None, None]
    assert torch.equal(found, slow)
    assert len(np.unique(centres, axis=0)) > 100, "rows are drawn on their own"


def test_cutout_covers_the_share_that_clipping_leaves():
    side, length, batch = 6, 16, 4000
    images = torch.zeros(batch, 1, length, length, dtype=torch.uint8)
    found = cut_out(images, side, np.random.default_rng(0), torch.tensor([255], dtype=torch.uint8))
    per_axis = np.mean([min(c + side // 2, length) - max(c - side // 2, 0) for c in range(length)]) / length
    # The share of one image varies by less than 0.05 around its mean, so that of 4000 images by less than 0.001.
    assert float((found > 0).float().mean()) == pytest.approx(per_axis**2, abs=0.003)
    assert set((found > 0).flatten(1).sum(1).tolist()) == {a * b for a in (3, 4, 5, 6) for b in (3, 4, 5, 6)}


def test_order_is_crop_flip_randaugment_tones_erasing_cutout():
    images, rng = photos_of(16), np.random.default_rng(2)
    expected = random_flip(random_crop(images, 3, rng), rng)
    expected = jitter_tones(rand_augment(expected, 2, 12, rng, PIXEL), 0.3, 0.2, 0.4, rng)
    expected = cut_out(random_erase(expected, 0.5, rng, PIXEL), 5, rng, PIXEL)
    assert torch.equal(EVERYTHING.apply(images, np.random.default_rng(2), FILL), expected)


def test_doing_nothing_returns_the_input_and_draws_nothing():
    images, rng = images_of(4), np.random.default_rng(0)
    assert Augmentation().apply(images, rng, FILL) is images
    assert rng.random() == np.random.default_rng(0).random()


@given(
    batch=st.integers(0, 5),
    channels=st.sampled_from([1, 3]),
    height=st.integers(1, 9),
    width=st.integers(1, 9),
    augmentation=st.builds(
        Augmentation,
        crop_padding=st.integers(0, 10),
        flip=st.booleans(),
        cutout=st.integers(0, 12),
        randaugment=st.integers(0, 3),
        magnitude=st.integers(0, 30),
        contrast=st.floats(0, 2),
        erasing=st.floats(0, 1),
    ),
    seed=st.integers(0, 99),
)
def test_only_the_generator_decides_and_inputs_are_kept(batch, channels, height, width, augmentation, seed):
    images = photos_of(max(batch, 1), channels, height, width, seed)[:batch]
    before = images.clone()
    fill = FILL[:channels]
    found = augmentation.apply(images, np.random.default_rng(seed), fill)
    torch.manual_seed(seed)
    again = augmentation.apply(images, np.random.default_rng(seed), fill)
    assert (found.shape, found.dtype, found.device) == (images.shape, torch.uint8, images.device)
    assert torch.equal(found, again)
    assert torch.equal(images, before)


@pytest.mark.parametrize(
    "options",
    [
        {"crop_padding": 3},
        {"flip": True},
        {"cutout": 5},
        *({name: 0.5} for name in ("brightness", "contrast", "saturation", "erasing")),
        *({"randaugment": 1, "magnitude": magnitude} for magnitude in (0, 9)),
        {"crop_padding": 3, "flip": True, "cutout": 5, "randaugment": 2},
    ],
    ids=str,
)
def test_equal_rows_come_out_different_and_the_result_is_new(options):
    images = photos_of(1).expand(64, -1, -1, -1)
    found = Augmentation(**options).apply(images, np.random.default_rng(0), FILL)
    assert len(found.flatten(1).unique(dim=0)) >= 2
    assert found.untyped_storage().data_ptr() != images.untyped_storage().data_ptr()


@pytest.mark.parametrize("device", DEVICES)
def test_a_device_computes_what_the_cpu_does_without_waiting(device):
    images = photos_of(256)
    there = images.to(device)
    rng = np.random.default_rng(4)
    EVERYTHING.apply(there, rng, FILL)
    with never_waiting(device):
        found = EVERYTHING.apply(there, np.random.default_rng(4), FILL)
    expected = EVERYTHING.apply(images, np.random.default_rng(4), FILL)
    # Factors are applied in float32, with or without a fused multiply-add, and then truncated.
    difference = (found.cpu().int() - expected.int()).abs()
    assert (difference > 0).float().mean() < 0.01
    assert difference.float().quantile(0.999) <= 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"crop_padding": -1}, "crop_padding: expected at least 0, got -1"),
        ({"crop_padding": 1.5}, "crop_padding: expected at least 0, got 1.5"),
        ({"cutout": -8}, "cutout: expected at least 0, got -8"),
        ({"randaugment": None}, "randaugment: expected at least 0, got None"),
        ({"magnitude": 31}, "magnitude: expected a whole number from 0 to 30, got 31"),
        ({"magnitude": -1}, "magnitude: expected a whole number from 0 to 30, got -1"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        Augmentation(**options)


def test_images_and_fills_that_do_not_fit_are_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(InputError, match=r"images: expected uint8 \(batch, .*\), got float32 \(2, 3, 12, 17\)"):
        EVERYTHING.apply(images_of(2).float(), rng, FILL)
    with pytest.raises(InputError, match=r"images: expected uint8 \(batch, .*\), got uint8 \(3, 12, 17\)"):
        EVERYTHING.apply(images_of(2)[0], rng, FILL)
    with pytest.raises(InputError, match=r"fill: expected 3 values from 0 to 1, got \(0.5,\)"):
        EVERYTHING.apply(images_of(2), rng, (0.5,))
    with pytest.raises(InputError, match=r"fill: expected 3 values from 0 to 1, got \(122, 26, 230\)"):
        EVERYTHING.apply(images_of(2), rng, (122, 26, 230))
    with pytest.raises(InputError, match="images: expected 1 or 3 channels for RandAugment, got 4"):
        EVERYTHING.apply(images_of(2, 4), rng, (*FILL, 0.5))
    cropped = Augmentation(crop_padding=2, flip=True, cutout=3).apply(images_of(2, 4), rng, (*FILL, 0.5))
    assert cropped.shape == (2, 4, 12, 17), "the other steps take any number of channels"
