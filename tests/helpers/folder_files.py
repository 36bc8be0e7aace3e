"""Folders of pictures."""

from PIL import Image

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
