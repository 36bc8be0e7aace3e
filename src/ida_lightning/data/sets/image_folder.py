"""The data module of folders of image files, one per class: your own photographs, ImageNet, all in its layout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info
from torchvision.transforms import v2

from ida_lightning.augment.augmentation import Augmentation
from ida_lightning.checks import function, path_like, pixel_deviations, pixel_means
from ida_lightning.data.decoded import DecodedImages, middle_of
from ida_lightning.data.image_files import (
    ImageFiles,
    class_folders,
    list_classes,
    list_images,
    rows_listed,
    summary_of,
)
from ida_lightning.data.in_memory import carve
from ida_lightning.data.pictures import MixingDataModule
from ida_lightning.data.stored import say_unreadable, store_in_file, store_in_memory, unreadable_files
from ida_lightning.errors import InputError, at_least, flag, one_of, positive_share, share

Transform = Callable[[Any], Any]


class _Part(NamedTuple):
    """Holds a split before it is read: which rows of which files, and where they come from in words."""

    files: ImageFiles
    rows: np.ndarray
    origin: str


class ImageFolderDataModule(MixingDataModule):
    """Reads images in ``root/train/<class>/``, decoded by worker processes as they are needed.

    Training images get the ImageNet recipe, a random crop of random size and a flip; the others are resized so that
    a centred crop keeps 7/8 of the short side. Images are seen as in a viewer: upright, colours by
    the file's profile, transparent pixels on white.

    Validation images, which choose the best checkpoint, are those of ``val_folder`` or ``val_files`` or ``val_share``.
    If none of the three is given, they are those of the folder ``val`` if there is one, else a tenth of the training
    images (at least five a class where there are enough, at most 10,000), stratified and fixed. Test images are those
    of ``test_folder`` or ``test_files``; if neither is given, those of the folder ``test``, else those of ``val``. The
    log says how many there are of each, where they come from, and which classes are missing. What is reported of
    images that chose the checkpoint is too good: to report on ``val``, give ``val_share``.

    Args:
        root: the folder that holds the folders.
        image_size: height and width of the crops in pixels.
        train_folder: under ``root``; ``.`` if the class folders are in ``root`` itself.
        val_folder: under ``root``.
        test_folder: under ``root``.
        predict_folder: anywhere: images for ``predict``, with or without class folders; None takes the test images.
        val_files: a text file with the paths of the validation images, one a line, relative to ``root`` or
            ``train_folder``; the other images of ``train_folder`` train.
        test_files: likewise.
        val_share: of the training images; 0 for no validation, 1 for nothing else.
        min_scale: the smallest share of an image's area that a random crop may take; 1 for all that fits.
        transform: of training images, after the random crop: a callable on RGB images such as one of
            ``torchvision.transforms.v2``, or a list of them. It may leave PIL images, uint8 or floating point pixels
            from 0 to 1; normalisation and mixing come after it, so student and teacher see the same picture. Random
            ones may draw from torch, numpy or ``random``.
        train_crop: whether there is a random crop; without it ``transform`` gets whole images, and has to make them
            ``image_size``.
        unreadable: ``"raise"`` stops at a damaged file, ``"skip"`` reads every file once at the start and leaves
            damaged ones out; the log says how many.
        in_memory: decode every file once, at the start, and keep it in memory, reduced to what evaluation sees of it:
            random crops are then taken of an image whose short side has 8/7 of ``image_size``.
        cache: keep what ``in_memory`` would in files in ``root/.decoded`` and map them into memory; they are made
            anew when image files have changed.
        mean: per channel, for pixel values from 0 to 1; those of ImageNet.
        std: likewise.
        augmentation: see :class:`MixingDataModule`; on the device, after the crop.
        num_workers: loader processes.
        kwargs: see :class:`MixingDataModule`.

    Raises:
        InputError: for missing or empty folders, folders that are no class of the training folder, values out of
            range, and, while reading, for a damaged file, by its name.

    Example:
        >>> data = ImageFolderDataModule("photographs", image_size=64, val_share=0.2)

    References:
        He, Zhang, Ren, Sun 2016, arXiv 1512.03385, and the recipe of the torchvision references.
    """

    channels = 3
    crop = 7 / 8

    def __init__(
        self,
        root: str,
        image_size: int = 224,
        train_folder: str = "train",
        val_folder: str | None = None,
        test_folder: str | None = None,
        predict_folder: str | None = None,
        val_files: str | None = None,
        test_files: str | None = None,
        val_share: float | None = None,
        min_scale: float = 0.08,
        transform: Transform | list[Transform] | None = None,
        train_crop: bool = True,
        unreadable: Literal["raise", "skip"] = "raise",
        in_memory: bool = False,
        cache: bool = False,
        mean: tuple[float, float, float] = (0.485, 0.456, 0.406),
        std: tuple[float, float, float] = (0.229, 0.224, 0.225),
        augmentation: Augmentation = Augmentation(flip=True),  # noqa: B008 (frozen)
        num_workers: int = 8,
        **kwargs: Any,
    ) -> None:
        self.image_size = at_least("image_size", image_size, 1)
        self.mean, self.std = pixel_means("mean", mean, 3), pixel_deviations("std", std, 3)
        super().__init__(augmentation=augmentation, num_workers=num_workers, **kwargs)
        if val_share is not None:
            share("val_share", val_share)
        _at_most_one(val_folder=val_folder, val_files=val_files, val_share=val_share)
        _at_most_one(test_folder=test_folder, test_files=test_files)
        self.root = path_like("root", root)
        self.train_folder = str(path_like("train_folder", train_folder))
        self.val_folder, self.test_folder = _text_path("val_folder", val_folder), _text_path("test_folder", test_folder)
        self.predict_folder = _text_path("predict_folder", predict_folder)
        self.val_files, self.test_files = _text_path("val_files", val_files), _text_path("test_files", test_files)
        self.val_share = val_share
        self.min_scale = positive_share("min_scale", min_scale)
        steps = transform if isinstance(transform, (list, tuple)) else [] if transform is None else [transform]
        self.transforms = [function("transform", step) for step in steps]
        self.train_crop = flag("train_crop", train_crop)
        self.unreadable = one_of("unreadable", unreadable, ("raise", "skip"))
        self.in_memory, self.cache = flag("in_memory", in_memory), flag("cache", cache)

    @property
    def class_names(self) -> list[str]:  # type: ignore[override]
        """Return the names of the class folders of the training folder, sorted."""
        return class_folders(self._folder("root", self.train_folder))

    def prepare_data(self) -> None:
        """Decode the images into the cache, if there is to be one and it is not there; on one process."""
        if self.cache:
            self._stored(self._parts())

    def load(self) -> dict[str, DecodedImages]:
        """List the files; they are decoded now if they are kept in memory or unreadable ones are left out."""
        parts = self._parts()
        self.origins = {name: part.origin for name, part in parts.items()}
        for files in {id(part.files): part.files for part in parts.values() if part.files.ignored}.values():
            rank_zero_info(f"data: ignored in {files.folder}: {summary_of(files.ignored)}")
        parts = self._stored(parts)
        return {name: self._decoded(name, part.files, part.rows) for name, part in parts.items()}

    def _stored(self, parts: dict[str, _Part]) -> dict[str, _Part]:
        """Return the parts with images that are decoded, and without unreadable ones, as far as that is wanted."""
        skip, side = self.unreadable == "skip", round(self.image_size / self.crop)
        ready: dict[Path, tuple[ImageFiles, np.ndarray]] = {}
        for part in parts.values():
            files = part.files
            if files.folder in ready:
                continue
            if self.cache:
                files = store_in_file(files, side, skip, self.root / ".decoded")
            elif self.in_memory:
                files = store_in_memory(files, side, skip)
            bad = unreadable_files(files) if skip else np.zeros(len(files), bool)
            say_unreadable(files, bad)
            ready[part.files.folder] = files, bad
        stored = {}
        for name, part in parts.items():
            files, bad = ready[part.files.folder]
            rows = part.rows[~bad[part.rows]]
            if not len(rows):
                raise InputError(f"{name}: expected images that can be read, got none in {part.origin}")
            stored[name] = part._replace(files=files, rows=rows)
        return stored

    def _parts(self) -> dict[str, _Part]:
        """List the files and divide them; nothing is decoded yet."""
        official = self._read("root", self.train_folder)
        parts = self._listed(official)
        listed = [part.rows for part in parts.values()]
        left = np.setdiff1d(np.arange(len(official)), np.concatenate(listed)) if listed else np.arange(len(official))
        if "val" not in parts:
            folder = self.val_folder or ("val" if self.val_share is None and self._has_classes("val") else None)
            if folder is not None:
                parts["val"] = self._whole("val_folder", folder, official.classes)
            else:
                left, held = self._carve(official, left)
                if len(held):
                    said = f"{len(held) / (len(left) + len(held)):.1%} of {official.folder}, stratified"
                    parts["val"] = _Part(official, held, said)
        if "test" not in parts:
            folder = self.test_folder or next((name for name in ("test", "val") if self._has_classes(name)), None)
            if folder is not None:
                part = self._whole("test_folder", folder, official.classes)
                again = "val" in parts and parts["val"].origin == part.origin
                said = ", the validation images: there is no other test folder" if again else ""
                parts["test"] = part._replace(origin=part.origin + said)
        if self.predict_folder is not None:
            files = list_images(Path(self.predict_folder), "predict_folder", official.classes)
            parts["predict"] = _Part(files, np.arange(len(files)), self.predict_folder)
        if len(left):
            said = f"{official.folder}, {len(official.classes)} classes"
            parts = {"train": _Part(official, left, said), **parts}
        return parts

    def _listed(self, official: ImageFiles) -> dict[str, _Part]:
        """Return the parts of the training folder that text files list."""
        bases = (self.root, self.root / self.train_folder)
        parts = {
            name: _Part(official, rows_listed(Path(path), official, bases, f"{name}_files"), f"listed in {path}")
            for name, path in (("val", self.val_files), ("test", self.test_files))
            if path is not None
        }
        if len(parts) == 2 and (both := set(parts["val"].rows.tolist()) & set(parts["test"].rows.tolist())):
            path = official.samples[min(both)][0]
            raise InputError(f"test_files: expected other images than in val_files, got {path} in both")
        return parts

    def _whole(self, what: str, name: str, classes: list[str]) -> _Part:
        """Return the part that is a folder of its own."""
        files = self._read(what, name, classes)
        return _Part(files, np.arange(len(files)), str(self.root / name))

    def _carve(self, official: ImageFiles, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Divide ``rows`` into those to train with and those to validate with."""
        labels = torch.tensor(official.targets)[torch.from_numpy(rows)]
        counts = labels.bincount(minlength=len(official.classes))
        if self.val_share not in (0, 1) and (counts == 1).any():
            name = official.classes[int((counts == 1).int().argmax())]
            raise InputError(
                f"val_share: expected two images a class or more to divide, got one of {name!r}; give val_folder, "
                "val_files or val_share: 0"
            )
        train, held = carve(labels, self.val_share)
        return rows[train], rows[held]

    def _decoded(self, name: str, source: ImageFiles, rows: np.ndarray) -> DecodedImages:
        transform = self._train_transform() if name == "train" else middle_of(self.image_size, self.crop)
        return DecodedImages(
            source,
            len(source.classes),
            self.channels,
            rows,
            transform,
            self.seed,
            unlabelled=name == "predict",
            size=self.image_size,
        )

    def _train_transform(self) -> Transform | None:
        crop = v2.RandomResizedCrop(self.image_size, scale=(self.min_scale, 1.0), antialias=True)
        steps = [crop, *self.transforms] if self.train_crop else self.transforms
        return v2.Compose(steps) if len(steps) > 1 else next(iter(steps), None)

    def _folder(self, what: str, name: str) -> Path:
        folder = self.root / name
        if not folder.is_dir():
            hint = (
                "; for class folders in root itself: train_folder: ." if what == "root" and self.root.is_dir() else ""
            )
            raise InputError(f"{what}: expected a folder of class folders at {folder.resolve()}, found none{hint}")
        return folder

    def _has_classes(self, name: str) -> bool:
        """Tell whether a folder exists and has class folders, as every split must."""
        if Path(self.train_folder) == Path():  # then it is a class
            return False
        return (self.root / name).is_dir() and bool(class_folders(self.root / name))

    def _read(self, what: str, name: str, classes: list[str] | None = None) -> ImageFiles:
        return list_classes(self._folder(what, name), what, classes)


def _text_path(name: str, value: str | None) -> str | None:
    return None if value is None else str(path_like(name, value))


def _at_most_one(**given: Any) -> None:
    """Raise if more than one of these options is given."""
    names = [name for name, value in given.items() if value is not None]
    if len(names) > 1:
        raise InputError(f"{names[0]}: expected one of {', '.join(given)}, got {' and '.join(names)}")
