"""A folder in the layout of Tiny ImageNet."""

import numpy as np
from PIL import Image

COLOURS = {"n01": (200, 30, 30), "n02": (30, 200, 30), "n03": (30, 30, 200)}


# In the official file they are in no order either.
WNIDS = ["n03", "n01", "n02"]


def make_tiny_imagenet(root):
    """Three classes of 8 training and 4 validation images, coloured by class and noisy, so all different."""
    folder = root / "tiny-imagenet-200"
    rng = np.random.default_rng(0)

    def write(file, wnid):
        file.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.clip(np.array(COLOURS[wnid]) + rng.integers(-20, 21, (8, 8, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).resize((64, 64)).save(file)

    for wnid in WNIDS:
        for number in range(8):
            write(folder / "train" / wnid / "images" / f"{wnid}_{number}.JPEG", wnid)
        (folder / "train" / wnid / f"{wnid}_boxes.txt").write_text(f"{wnid}_0.JPEG\t0\t10\t63\t58\n")
    lines = []
    for number in range(12):
        write(folder / "val" / "images" / f"val_{number}.JPEG", WNIDS[number % 3])
        lines.append(f"val_{number}.JPEG\t{WNIDS[number % 3]}\t0\t32\t44\t62\n")
    (folder / "val" / "val_annotations.txt").write_text("".join(lines))
    write(folder / "test" / "images" / "test_0.JPEG", "n01")
    (folder / "wnids.txt").write_text("".join(f"{wnid}\n" for wnid in WNIDS))
    (folder / "words.txt").write_text("n00\tentity\nn01\tgoldfish, Carassius auratus\nn02\tbullfrog\nn03\tjellyfish\n")
    return folder
