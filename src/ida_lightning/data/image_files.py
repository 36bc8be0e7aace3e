"""Lists the image files in folders, says which are left out, and reads one."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageOps

from ida_lightning.data.colours import image_name, in_srgb, say_once
from ida_lightning.errors import InputError

ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
UNKNOWN = -1  # the label of an image whose class nobody says
# What Pillow raises for damaged files, and for some that would take all memory.
UNREADABLE = (OSError, SyntaxError, EOFError, Image.DecompressionBombError)
_TRANSPARENT = ("RGBA", "RGBa", "LA", "La", "PA")
_ORIENTATION = 0x0112  # the number of that EXIF tag
_MOST_NAMES = 3


class ImageFiles:
    """A data set of ``(RGB image, label)`` that reads image files.

    Args:
        samples: path and label of every file; :data:`UNKNOWN` for a label that is not known.
        classes: what the labels stand for, in order.
        folder: where they were found.
        ignored: names of what was found beside them and is no part of the data.

    Attributes:
        targets: the labels alone.

    Example:
        >>> files = ImageFiles([("a/cat.png", 0), ("b/1.png", UNKNOWN)], ["cat"])
        >>> len(files), files.targets
        (2, [0, -1])
    """

    def __init__(
        self,
        samples: Sequence[tuple[str, int]],
        classes: Sequence[str],
        folder: str | Path = ".",
        ignored: Sequence[str] = (),
    ) -> None:
        self.samples = list(samples)
        self.folder = Path(folder)
        self.classes = list(classes)
        self.targets = [label for _, label in self.samples]
        self.ignored = list(ignored)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, row: int) -> tuple[Image.Image, int]:
        path, label = self.samples[row]
        return read_image(path), label


def read_image(file: str | Path | IO[bytes]) -> Image.Image:
    """Read an image, a file or its content, as RGB, as a person sees it in a viewer; see :func:`as_seen`."""
    try:
        with Image.open(file) as image:
            image.load()
            seen = as_seen(image)
    except ValueError as error:
        if isinstance(error, InputError):
            raise
        raise OSError(str(error)) from error  # what Pillow raises for most damaged files
    return seen if seen.mode == "RGB" else seen.convert("RGB")


def as_seen(image: Image.Image) -> Image.Image:
    """Make an image of 8 bits, grey or in colours, that looks as the given one does in a viewer.

    It is turned upright as its EXIF data says, 16 bits are scaled to 8, colours are brought to sRGB by the profile or
    the gamma in the file, transparent pixels lie on white. Of several pictures in a file, such as an animation, the
    first that is shown is taken, which the log says once.

    Raises:
        InputError: for pixels that no viewer shows in one way, such as floating point ones.
    """
    if image.mode == "F" or (image.mode == "I" and image.format not in ("PNG", "PPM")):
        raise InputError(f"expected pixels of 8 or 16 bits, got an image of mode {image.mode!r}; convert it")
    image = _first_shown(image)
    if image.getexif().get(_ORIENTATION, 1) != 1:
        image = ImageOps.exif_transpose(image)
    image = in_srgb(_in_eight_bits(image))
    if image.mode in ("La", "RGBa"):  # Pillow converts no premultiplied grey otherwise
        image = image.convert(image.mode.upper())
    if image.mode in _TRANSPARENT or "transparency" in image.info:
        grey = image.mode in ("L", "LA", "La", "1")
        opaque = image.convert("RGBA")
        seen = Image.alpha_composite(Image.new("RGBA", image.size, "white"), opaque)
        return seen.convert("L" if grey else "RGB")
    if image.mode in ("L", "RGB"):
        return image
    return image.convert("L" if image.mode == "1" else "RGB")


def _first_shown(image: Image.Image) -> Image.Image:
    """Return the picture that a viewer shows first: of an animated PNG not always the first in the file."""
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":  # that is a photograph with what a camera keeps beside it
        name = image_name(image)
        say_once("frames", f"data: {name} holds {frames} pictures; of such files the first is taken")
        image.seek(1 if getattr(image, "default_image", False) else 0)
        image.load()
    return image


def _in_eight_bits(image: Image.Image) -> Image.Image:
    """Return an image of 16 bits as a grey one of 8; Pillow's own conversion would clip all above 255 to white."""
    if not image.mode.startswith("I"):
        return image
    values = np.asarray(image)
    grey = (values >> 8).astype(np.uint8)
    if isinstance(invisible := image.info.get("transparency"), int):
        grey[values == invisible] = 255
    scaled = Image.fromarray(grey)
    scaled.info.update({key: image.info[key] for key in ("icc_profile", "gamma", "srgb") if key in image.info})
    return scaled


def class_folders(folder: Path) -> list[str]:
    """Return the names of the class folders in ``folder``, sorted: all folders but hidden ones."""
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not _is_hidden(entry.name))


def list_classes(folder: Path, what: str, classes: Sequence[str] | None = None) -> ImageFiles:
    """List the images in the class folders of ``folder``, however deep, sorted.

    Args:
        folder: holds one folder a class.
        what: the argument that named it, for messages.
        classes: that labels stand for; None takes the folders. A class may be missing then.

    Raises:
        InputError: if there are no class folders, one has no images or is no class, or a link leads back.
    """
    found = class_folders(folder)
    if not found:
        raise InputError(f"{what}: expected a folder of class folders at {folder.resolve()}, found none in it")
    if classes is None:
        classes = found
    elif odd := sorted(set(found) - set(classes)):
        raise InputError(f"{what}: expected the classes {_some(classes)}, got a class folder {odd[0]!r} in {folder}")
    numbers = {name: number for number, name in enumerate(classes)}
    ignored = [entry.name for entry in sorted(folder.iterdir()) if entry.name not in found]
    samples = []
    for name in found:
        paths = list(_walk(folder / name, what, ignored))
        if not paths:
            raise InputError(
                f"{what}: expected images ({', '.join(ENDINGS)}) in every class folder, found none in {folder / name}"
            )
        samples += [(path, numbers[name]) for path in paths]
    return ImageFiles(samples, classes, folder, ignored)


def list_images(folder: Path, what: str, classes: Sequence[str] = ()) -> ImageFiles:
    """List all images in ``folder``, however deep, sorted; or one image file.

    The label of an image is the class that the folder around it is named after, if there is such a class.

    Raises:
        InputError: if there are none, or a link leads back.
    """
    if not folder.exists():
        raise InputError(f"{what}: expected a folder of images at {folder.resolve()}, found none")
    ignored: list[str] = []
    paths = [str(folder)] if folder.is_file() else list(_walk(folder, what, ignored))
    if not paths:
        raise InputError(f"{what}: expected images ({', '.join(ENDINGS)}) at {folder.resolve()}, found none")
    numbers = {name: number for number, name in enumerate(classes)}
    samples = [(path, numbers.get(os.path.basename(os.path.dirname(path)), UNKNOWN)) for path in paths]
    return ImageFiles(samples, classes, folder, ignored)


def rows_listed(listing: Path, files: ImageFiles, bases: Sequence[Path], what: str) -> np.ndarray:
    """Return the rows of ``files`` whose paths a text file lists, one a line, sorted.

    Args:
        listing: the text file; empty lines do not count.
        files: where to find them.
        bases: folders that a path may be relative to; the first that fits counts.
        what: the argument that named the file, for messages.

    Raises:
        InputError: if the file cannot be read or lists nothing, or for a line that is none of the files.
    """
    try:
        lines = [line.strip() for line in listing.read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{what}: expected a text file of paths at {listing}, it cannot be read ({error})") from error
    rows = {os.path.abspath(path): row for row, (path, _) in enumerate(files.samples)}
    found: set[int] = set()
    for number, line in enumerate(lines, 1):
        if not line:
            continue
        fits = (rows.get(os.path.abspath(os.path.join(base, line))) for base in bases)
        row = next((row for row in fits if row is not None), None)
        if row is None:
            places = " or ".join(map(str, bases))
            raise InputError(f"{what}: expected paths of training images under {places}, got {line!r} in line {number}")
        found.add(row)
    if not found:
        raise InputError(f"{what}: expected paths in {listing}, got none")
    return np.array(sorted(found))


def summary_of(ignored: Sequence[str]) -> str:
    """Name what was ignored: the first few, and how many more; files by their ending.

    Example:
        >>> summary_of([".cache", "a.txt", "b.txt", "README"])
        '.cache, 2 x *.txt, README'
    """
    counts = Counter(f"*{os.path.splitext(name)[1]}" if os.path.splitext(name)[1] else name for name in ignored)
    single = {f"*{os.path.splitext(name)[1]}": name for name in ignored}
    return _some([f"{count} x {kind}" if count > 1 else single.get(kind, kind) for kind, count in counts.items()], 8)


def _some(names: Sequence[str], most: int = _MOST_NAMES) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def _walk(folder: Path, what: str, ignored: list[str], above: tuple[str, ...] = ()) -> Iterator[str]:
    """Yield the image files under ``folder``, sorted, links to folders included, and note what is left out."""
    real = os.path.realpath(folder)
    above = above or (os.path.realpath(folder.parent),)
    if any(Path(parent).is_relative_to(real) for parent in above):
        raise InputError(
            f"{what}: expected a folder of images, got {folder}, a link to a folder that holds it ({real})"
        )
    folders = []
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        if entry.is_dir() and not _is_hidden(entry.name):
            folders.append(entry.path)
        elif entry.name.lower().endswith(ENDINGS) and not _is_hidden(entry.name) and entry.is_file():
            yield entry.path
        else:
            ignored.append(entry.name)
    for path in folders:
        yield from _walk(Path(path), what, ignored, (*above, real))
