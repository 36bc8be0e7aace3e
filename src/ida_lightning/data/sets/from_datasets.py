"""The data module of any data set of images and labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset

from ida_lightning.checks import function, pixel_deviations, pixel_means, text, texts
from ida_lightning.data.decoded import DecodedImages, attribute_of, labels_of
from ida_lightning.data.in_memory import InMemoryImages, carve
from ida_lightning.data.labels import classes_counted, not_negative
from ida_lightning.data.pictures import MixingDataModule
from ida_lightning.errors import InputError, at_least, flag, kind_of, share


class FromDatasetsDataModule(MixingDataModule):
    """Makes mixed batches from data sets of your own: torch, torchvision or Hugging Face.

    Items are ``(image, label)`` or mappings such as ``{"image": ..., "label": ...}``; images are PIL images, uint8
    arrays ``(height, width, channels)`` or uint8 tensors ``(channels, height, width)``. Normalisation and mixing
    happen on the device, so transforms must leave uint8.

    Args:
        train: the training data.
        mean: per channel, for pixel values from 0 to 1.
        std: likewise.
        image_size: height and width after the transforms, in pixels.
        channels: of the images.
        val: validation data; None carves ``val_share`` from ``train``, stratified and fixed.
        test: test data; None for no test split.
        class_names: what the labels 0, 1, ... stand for; None asks the data set, and else names them by number.
        transform: of every image, for example a crop; None for none.
        train_transform: of training images instead; may be random, with torch's generator.
        image_key: of mappings; None tries the usual ones.
        label_key: likewise.
        val_share: of the training images, where ``val`` is None; 0 for no validation, 1 for nothing else. None takes
            a tenth, but at least five a class where there are enough, and at most 10,000.
        in_memory: decode and transform everything once. For small images; random ``train_transform`` is refused.
        kwargs: see :class:`MixingDataModule`.

    Raises:
        InputError: for values out of range, labels that are no whole numbers or, without class names, leave some out,
            and, while reading, for images and labels that cannot be used.

    Example:
        >>> import torch
        >>> pairs = [(torch.full((1, 8, 8), 20 * label, dtype=torch.uint8), label) for label in 5 * [0, 1, 2]]
        >>> data = FromDatasetsDataModule(pairs, (0.1,), (0.2,), 8, channels=1, val_share=0.2, in_memory=True)
        >>> data.setup("fit")
        >>> next(iter(data.train_dataloader())).inputs.shape
        torch.Size([12, 1, 8, 8])
    """

    def __init__(
        self,
        train: Dataset[Any] | Sequence[Any],
        mean: tuple[float, ...],
        std: tuple[float, ...],
        image_size: int,
        channels: int = 3,
        val: Dataset[Any] | Sequence[Any] | None = None,
        test: Dataset[Any] | Sequence[Any] | None = None,
        class_names: list[str] | None = None,
        transform: Callable[[Any], Any] | None = None,
        train_transform: Callable[[Any], Any] | None = None,
        image_key: str | None = None,
        label_key: str | None = None,
        val_share: float | None = None,
        in_memory: bool = False,
        **kwargs: Any,
    ) -> None:
        self.channels = at_least("channels", channels, 1)
        self.mean, self.std = pixel_means("mean", mean, channels), pixel_deviations("std", std, channels)
        self.image_size = at_least("image_size", image_size, 1)
        if val_share is not None:
            share("val_share", val_share)
        self.in_memory = flag("in_memory", in_memory)
        for name, change in (("transform", transform), ("train_transform", train_transform)):
            if change is not None:
                function(name, change)
        self.transform = transform
        self.train_transform = train_transform or transform
        if in_memory and train_transform is not None:
            raise InputError("train_transform: expected none with in_memory, where images are transformed only once")
        self.sources = {"train": _with_items("train", train)}
        for name, part in (("val", val), ("test", test)):
            if part is not None:
                self.sources[name] = _with_items(name, part)
        self.image_key, self.label_key = text("image_key", image_key, True), text("label_key", label_key, True)
        self.val_share = val_share
        self._labels: Tensor | None = None
        self.class_names = self._names() if class_names is None else texts("class_names", class_names)
        super().__init__(**kwargs)

    def _train_labels(self) -> Tensor:
        if self._labels is None:
            try:
                self._labels = labels_of(self.sources["train"], self.image_key, self.label_key)
            except InputError as error:
                raise InputError(f"train: {error}") from error
        return self._labels

    def _names(self) -> list[str]:
        source = self.sources["train"]
        if names := attribute_of(source, "classes"):
            return [str(name) for name in names]
        feature = (attribute_of(source, "features") or {}).get(self.label_key or "label")
        if names := attribute_of(feature, "names"):
            return [str(name) for name in names]
        return [str(label) for label in range(classes_counted(self._train_labels()))]

    def load(self) -> dict[str, DecodedImages] | dict[str, InMemoryImages]:
        """Return the splits; they are decoded now if they are to stay in memory."""
        decoded = partial(
            DecodedImages,
            num_classes=self.num_classes,
            channels=self.channels,
            seed=self.seed,
            image_key=self.image_key,
            label_key=self.label_key,
        )
        splits = {
            name: decoded(source, transform=self.train_transform if name == "train" else self.transform)
            for name, source in self.sources.items()
        }
        if "val" not in splits:
            labels = not_negative(self._train_labels())
            train, val = carve(labels, self.val_share)
            if len(val):
                splits["val"] = decoded(self.sources["train"], rows=val, transform=self.transform)
                self.origins["val"] = f"{len(val) / len(labels):.1%} of the training data, stratified"
            if len(train):
                splits["train"].rows = train
            else:
                del splits["train"]
        if self.in_memory:
            return {name: split.in_memory() for name, split in splits.items()}
        return splits


def _with_items(name: str, source: Any) -> Any:
    """Return a data set, which must say its length, have items and give them by number."""
    listed = hasattr(source, "__getitem__") and hasattr(source, "__len__")
    if not listed or isinstance(source, (str, bytes, Mapping, np.ndarray, Tensor)):
        raise InputError(f"{name}: expected a data set with a length and items by number, got {kind_of(source)}")
    if not len(source):
        raise InputError(f"{name}: expected a data set with items, got an empty one")
    return source
