"""Streams data sets of Hugging Face's ``datasets``, from the hub or from files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

from ida_lightning.checks import text
from ida_lightning.data.decoded import attribute_of, item_of
from ida_lightning.data.streaming.stream import ImageStream, StreamedImage, StreamShare, engine
from ida_lightning.errors import InputError, at_least, one_of


class HuggingFaceStream(ImageStream):
    """Reads what ``datasets.load_dataset(path, split=split, streaming=True, **options)`` gives.

    Images reach us as they are in the files: they are not decoded by ``datasets``. A resumed run reads over the images
    that it had, without decoding them: what ``datasets`` restores itself leaves out what was in the shuffle buffer.

    Args:
        path: of the hub, or ``parquet``, ``imagefolder`` and the like with ``options``.
        split: which part of it.
        options: further arguments, ``{data_files: "shards/train/*.parquet"}``.
        images: how many there are; None takes what the data set's own description says.
        buffer: images among which the next one is drawn.
        keys: names of the columns: ``image``, ``label`` and ``id``. What is not named is tried with the usual names;
            without an ``id`` the image's content stands for it.

    Raises:
        InputError: for what ``datasets`` cannot load, shards that cannot be divided, and without the package.

    Example:
        >>> HuggingFaceStream("parquet", options={"data_files": "train/*.parquet"}, images=1000).images
        1000
    """

    def __init__(
        self,
        path: str,
        split: str = "train",
        options: dict[str, Any] | None = None,
        images: int | None = None,
        buffer: int = 1000,
        keys: dict[str, str] | None = None,
    ) -> None:
        super().__init__(images)
        self.path, self.split = str(text("path", path)), str(text("split", split))
        self.options: dict[str, Any] = _by_name("options", options)
        self.buffer = at_least("buffer", buffer, 1)
        self.keys: dict[str, str] = _by_name("keys", keys)
        for key, column in self.keys.items():
            text(f"keys.{one_of('keys', key, ('image', 'label', 'id'))}", column)
        self._loaded: Any = None

    def _dataset(self) -> Any:
        if self._loaded is None:
            library = engine("datasets")
            try:
                loaded = library.load_dataset(self.path, split=self.split, streaming=True, **self.options)
            except Exception as error:  # it has many kinds of its own
                reason = str(error).strip().splitlines() or [type(error).__name__]
                raise InputError(f"path: expected a data set that datasets can load, got: {reason[0]}") from error
            self._loaded = loaded if loaded.features is None else loaded.decode(False)
        return self._loaded

    def size(self) -> int | None:
        """Return what was given, or what the data set says of itself."""
        if self.images is not None:
            return self.images
        splits = attribute_of(attribute_of(self._dataset(), "info"), "splits") or {}
        return getattr(splits.get(self.split), "num_examples", None) or None

    def shards(self) -> int:
        """Return the number of files, or parts of them, that the data set can be divided into."""
        return int(self._dataset().num_shards)

    def open(self, share: StreamShare) -> _HuggingFaceItems:
        """Return the data set, shuffled and divided among processes; it divides itself among workers."""
        dataset = self._dataset()
        if share.shuffled:
            dataset = dataset.shuffle(seed=share.order(), buffer_size=self.buffer)
        if share.ranks > 1:
            dataset = engine("datasets.distributed").split_dataset_by_node(dataset, share.rank, share.ranks)
        return _HuggingFaceItems(dataset, self.keys, share.skip * share.batch_size)

    def facts(self) -> Mapping[str, Any]:
        """Return what is loaded, and the buffer."""
        loaded = {"path": self.path, "split": self.split, "options": self.options}
        return {**super().facts(), **loaded, "buffer": self.buffer}

    def class_names(self) -> list[str] | None:
        """Return the names of the label's feature, if it has some."""
        features = attribute_of(self._dataset(), "features") or {}
        names = attribute_of(features.get(self.keys.get("label", "label")), "names")
        return None if names is None else [str(name) for name in names]


class _HuggingFaceItems:
    def __init__(self, dataset: Any, keys: Mapping[str, str], skip: int) -> None:
        self.dataset, self.keys, self.skip = dataset, keys, skip

    def __iter__(self) -> Iterator[StreamedImage]:
        keys = self.keys
        for item in islice(self.dataset, self.skip, None):
            image, label = item_of(item, keys.get("image"), keys.get("label"))
            if isinstance(image, Mapping):  # an image that is not decoded
                image = image["bytes"] if image["bytes"] is not None else _file(str(image["path"]))
            yield StreamedImage(image, label, item.get(keys.get("id", "id")))


def _by_name(name: str, value: object) -> dict[str, Any]:
    """Check a dictionary whose keys are names."""
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(key, str) for key in value):
        raise InputError(f"{name}: expected a dictionary with names as keys, got {value!r}")
    return dict(value)


def _file(path: str) -> bytes:
    with engine("fsspec").open(path, "rb") as file:
        return bytes(file.read())
