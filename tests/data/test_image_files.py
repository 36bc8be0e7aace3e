"""Pictures are read as a person sees them."""

import numpy as np
import pytest
from PIL import Image

from ida_lightning import InputError
from ida_lightning.data import FromDatasetsDataModule
from ida_lightning.data.image_files import as_seen, list_images, read_image

RED = (200, 30, 30)


def test_exif_turns_a_picture_upright(tmp_path):
    image = Image.new("RGB", (6, 4), "black")
    image.putpixel((0, 0), (255, 255, 255))
    exif = image.getexif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise
    image.save(tmp_path / "a.png", exif=exif)
    seen = read_image(tmp_path / "a.png")
    assert seen.size == (4, 6)
    assert seen.getpixel((3, 0)) == (255, 255, 255)
    assert read_image(tmp_path / "a.png").tobytes() == as_seen(seen).tobytes(), "once, not twice"


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    Image.fromarray(np.full((4, 4), 128 * 256, np.uint16)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").getpixel((0, 0)) == (128, 128, 128)


@pytest.mark.parametrize(
    ("image", "pixel"),
    [
        (Image.new("RGBA", (4, 4), (*RED, 0)), (255, 255, 255)),
        (Image.new("RGBA", (4, 4), (*RED, 255)), RED),
        (Image.new("LA", (4, 4), (0, 0)), (255, 255, 255)),
        (Image.new("RGB", (4, 4), RED).convert("P", palette=Image.Palette.ADAPTIVE), RED),
        (Image.new("1", (4, 4), 1), (255, 255, 255)),
        (Image.new("L", (4, 4), 7), (7, 7, 7)),
    ],
)
def test_every_kind_looks_as_in_a_viewer(tmp_path, image, pixel):
    image.save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").getpixel((1, 1)) == pixel


def test_floating_point_pixels_are_refused(tmp_path):
    Image.fromarray(np.zeros((4, 4), np.float32)).save(tmp_path / "a.tiff")
    with pytest.raises(InputError, match="expected pixels of 8 or 16 bits, got an image of mode 'F'"):
        read_image(tmp_path / "a.tiff")


def test_other_data_sets_are_seen_so_too():
    pairs = [(Image.new("RGBA", (6, 6), (*RED, 0)), row % 2) for row in range(12)]
    data = FromDatasetsDataModule(pairs, (0.5,) * 3, (0.25,) * 3, 6)
    data.setup("fit")
    assert (data.splits["val"][0].inputs == 255).all()


def test_folders_without_labels_are_listed(tmp_path):
    (tmp_path / "cat").mkdir()
    for name in ("1.png", "cat/0.JPG", "b.txt"):
        Image.new("RGB", (4, 4)).save(tmp_path / name, "png")
    files = list_images(tmp_path, "images", ["ape", "cat"])
    assert files.samples == [(f"{tmp_path}/1.png", -1), (f"{tmp_path}/cat/0.JPG", 1)]
    assert files.ignored == ["b.txt"]
    assert list_images(tmp_path / "1.png", "images").samples == [(f"{tmp_path}/1.png", -1)]
    with pytest.raises(InputError, match="images: expected a folder of images at .*nowhere, found none"):
        list_images(tmp_path / "nowhere", "images")
