"""Pictures are read as a person sees them."""

import struct

import numpy as np
import pytest
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from ida_lightning import InputError
from ida_lightning.data import FromDatasetsDataModule, colours
from ida_lightning.data.image_files import as_seen, list_images, read_image
from tests.helpers.folder_files import swapped_profile

RED = (200, 30, 30)


@pytest.fixture
def said(monkeypatch):
    """The lines that were logged."""
    lines = []
    monkeypatch.setattr(colours, "rank_zero_info", lines.append)
    monkeypatch.setattr(colours, "_said", set())
    return lines


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


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_colours_are_those_of_the_profile(mode, tmp_path):
    image = Image.new("RGB", (4, 4), RED)
    image = image.quantize(2) if mode == "P" else image.convert(mode)
    image.save(tmp_path / "a.png", icc_profile=swapped_profile())
    seen = read_image(tmp_path / "a.png")
    np.testing.assert_allclose(seen.getpixel((0, 0)), (30, 200, 30), atol=2)
    assert as_seen(seen).getpixel((0, 0)) == seen.getpixel((0, 0)), "once, not twice"


def test_a_profile_of_srgb_changes_nothing(tmp_path):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.new("RGB", (4, 4), RED).save(tmp_path / "a.png", icc_profile=profile)
    assert read_image(tmp_path / "a.png").getpixel((0, 0)) == RED


def test_a_damaged_profile_is_left_out_and_said(tmp_path, said):
    Image.new("RGB", (4, 4), RED).save(tmp_path / "a.png", icc_profile=b"no profile")
    for _ in range(2):
        assert read_image(tmp_path / "a.png").getpixel((0, 0)) == RED
    (line,) = said
    assert line.startswith(f"data: {tmp_path}/a.png: its colour profile cannot be used and is left out")


def gamma_png(path, image, gamma, srgb=False, **options):
    """Write a PNG with a gAMA chunk, and an sRGB chunk if asked for."""
    chunks = PngInfo()
    chunks.add(b"gAMA", struct.pack(">I", round(gamma * 100_000)))
    if srgb:
        chunks.add(b"sRGB", b"\x00")
    image.save(path, pnginfo=chunks, **options)
    return path


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P"])
def test_the_gamma_of_a_png_is_applied_as_viewers_do(mode, tmp_path):
    image = Image.new("RGBA", (4, 4), (128, 128, 128, 255)).convert(mode)
    seen = round(255 * (128 / 255) ** (1 / 2.2))  # a file of linear light
    assert read_image(gamma_png(tmp_path / "a.png", image, 1.0)).getpixel((0, 0)) == (seen,) * 3
    for gamma, srgb in ((1 / 2.2, False), (0.45, False), (1.0, True)):
        assert read_image(gamma_png(tmp_path / "a.png", image, gamma, srgb)).getpixel((0, 0)) == (128,) * 3


def test_the_gamma_of_sixteen_bits_and_beside_transparency(tmp_path):
    deep = Image.fromarray(np.full((4, 4), 128 * 256, np.uint16))
    assert read_image(gamma_png(tmp_path / "a.png", deep, 1.0)).getpixel((0, 0)) == (186,) * 3
    half = Image.new("RGBA", (4, 4), (128, 128, 128, 128))
    red, *_ = read_image(gamma_png(tmp_path / "b.png", half, 1.0)).getpixel((0, 0))
    assert abs(red - (186 * 128 + 255 * 127) / 255) <= 1, "the opacity has no gamma"


def test_print_colours_without_a_profile_are_said(tmp_path, said):
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=100)
    red, green, blue = read_image(tmp_path / "a.jpg").getpixel((4, 4))
    assert red > 200 and max(green, blue) < 60  # noqa: PT018
    assert said == [f"data: {tmp_path}/a.jpg is CMYK without a colour profile; its colours are approximate"]


@pytest.mark.parametrize(
    ("ending", "options", "pixel"),
    [
        ("png", {}, RED),
        ("png", {"default_image": True}, (20, 20, 200)),  # the first in the file is for viewers that show none
        ("webp", {"lossless": True}, RED),
        ("gif", {}, RED),
        ("tiff", {}, RED),
    ],
)
def test_the_first_picture_that_is_shown_is_taken(ending, options, pixel, tmp_path, said):
    pictures = [Image.new("RGB", (4, 4), colour) for colour in (RED, (20, 20, 200), (20, 200, 20))]
    pictures[0].save(tmp_path / f"a.{ending}", save_all=True, append_images=pictures[1:], **options)
    np.testing.assert_allclose(read_image(tmp_path / f"a.{ending}").getpixel((0, 0)), pixel, atol=1)
    read_image(tmp_path / f"a.{ending}")
    (line,) = said
    assert line.endswith("of such files the first is taken")


def test_sixteen_bits_of_other_files_and_colours(tmp_path):
    grey, colour = np.full(4, 128 * 256, ">u2").tobytes(), np.full(12, 128 * 256, ">u2").tobytes()
    (tmp_path / "a.pgm").write_bytes(b"P5 2 2 65535 " + grey)
    (tmp_path / "a.ppm").write_bytes(b"P6 2 2 65535 " + colour)
    Image.fromarray(np.full((4, 4), 128 * 256, np.uint16)).save(tmp_path / "a.tiff")
    for name in ("a.pgm", "a.ppm", "a.tiff"):
        assert read_image(tmp_path / name).getpixel((0, 0)) == (128, 128, 128), name


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
