"""Folders of pictures, and a profile of their colours."""

from PIL import Image, ImageCms

COLOURS = {"cat": (200, 30, 30), "dog": (30, 200, 30), "eel": (30, 30, 200)}


def write_folder(root, images=10, parts=None):
    """Write class folders of one colour each; ``parts`` has the number of images a class by folder."""
    for part, count in (parts or {"train": images, "val": 3}).items():
        for name, colour in COLOURS.items():
            folder = root / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                Image.new("RGB", (40 + number, 30), colour).save(folder / f"{number}.png")
    return root


def swapped_profile():
    """A colour profile whose red and green are those of sRGB exchanged: sRGB with two tags renamed."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    for first, second in ((b"rXYZ", b"gXYZ"), (b"rTRC", b"gTRC")):
        a, b = profile.index(first), profile.index(second)
        profile[a : a + 4], profile[b : b + 4] = second, first
    start = profile.index("sRGB".encode("utf-16-be"))
    profile[start : start + 8] = "mine".encode("utf-16-be")  # its name, or it would count as sRGB
    return bytes(profile)
