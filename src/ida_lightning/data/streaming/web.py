"""Streams shards of WebDataset: tar files, of which each worker reads its own."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from ida_lightning.checks import text, texts
from ida_lightning.data.image_files import ENDINGS
from ida_lightning.data.streaming.stream import ImageStream, StreamedImage, StreamShare, engine, what_was_packed
from ida_lightning.errors import InputError, at_least


class WebDatasetStream(ImageStream):
    """Reads tar files in which ``0007.jpg`` and ``0007.cls`` are an image and its label.

    The order of the shards is drawn for every epoch, then images are shuffled in a buffer. A resumed run reads over the
    images that it had, without decoding them. Each worker reads whole shards, so in training their number must be a
    multiple of processes x workers, and they should be equally long: all parts are as long as the shortest may be.

    Args:
        urls: of the shards: a folder of ``*.tar``, a pattern such as ``shards-{0000..0127}.tar``, or a list. Remote
            ones as WebDataset opens them, ``https://...`` or ``pipe:aws s3 cp s3://... -``.
        images: how many there are in all; None takes what the packer wrote in a local folder.
        buffer: images among which the next one is drawn.
        image_key: ending of images; None takes the first that is one of an image.
        label_key: ending of labels, whole numbers as text.

    Raises:
        InputError: for no shards, shards that cannot be divided, images without a label, and without the package.

    Example:
        >>> WebDatasetStream(["a.tar", "b.tar"], images=1000).per_part(2)
        500
    """

    def __init__(
        self,
        urls: str | list[str],
        images: int | None = None,
        buffer: int = 1000,
        image_key: str | None = None,
        label_key: str = "cls",
    ) -> None:
        super().__init__(images)
        self.buffer = at_least("buffer", buffer, 1)
        self.image_key, self.label_key = text("image_key", image_key, True), str(text("label_key", label_key))
        self.folder = urls if isinstance(urls, str) and os.path.isdir(urls) else None
        if self.folder is not None:
            self.urls = sorted(str(path) for path in Path(self.folder).glob("*.tar"))
        elif isinstance(urls, str):
            self.urls = list(engine("webdataset.shardlists").expand_urls(urls)) if "{" in urls else [urls]
        else:
            self.urls = texts("urls", urls)
        if not self.urls:
            raise InputError(f"urls: expected shards, *.tar, in {urls}, found none")
        if self.folder is not None and self.images is None:
            self.images = what_was_packed(self.folder).get("images")

    def shards(self) -> int:
        """Return the number of files."""
        return len(self.urls)

    def open(self, share: StreamShare) -> _WebItems:
        """Return what reads a worker's shards."""
        engine("webdataset")
        return _WebItems(self, share)

    def facts(self) -> Mapping[str, Any]:
        """Return names and sizes of the shards, and the buffer."""
        names = [(os.path.basename(url), os.path.getsize(url) if os.path.isfile(url) else None) for url in self.urls]
        return {**super().facts(), "shards": names, "buffer": self.buffer}

    def class_names(self) -> list[str] | None:
        """Return what the packer wrote."""
        return None if self.folder is None else what_was_packed(self.folder).get("class_names")

    def sample(self, found: Mapping[str, Any]) -> StreamedImage:
        """Make an image of the files of one sample.

        Raises:
            InputError: if one of the two is not there, or the label is no number.
        """
        key = found["__key__"]
        name = f"{os.path.basename(found['__url__'])}/{key}"
        endings = [ending for ending in found if f".{ending}" in ENDINGS]
        ending = self.image_key or next(iter(endings), "jpg")
        for wanted in (ending, self.label_key):
            if wanted not in found:
                others = ", ".join(name for name in found if not name.startswith("__"))
                raise InputError(f"{name}: expected a file {key}.{wanted} in the shard, got {others}")
        try:
            label = int(found[self.label_key])
        except ValueError as error:
            raise InputError(f"{name}.{self.label_key}: expected a whole number, got {error}") from error
        return StreamedImage(found[ending], label, key if key.isdigit() else name)


class _WebItems:
    def __init__(self, stream: WebDatasetStream, share: StreamShare) -> None:
        self.stream, self.share = stream, share

    def __iter__(self) -> Iterator[StreamedImage]:
        library, reader = engine("webdataset"), engine("webdataset.tariterators")
        share, stream = self.share, self.stream
        urls, drawn = list(stream.urls), random.Random(share.order())
        if share.shuffled:
            drawn.shuffle(urls)
        urls = urls[share.part :: share.parts]
        samples = reader.group_by_keys(reader.tar_file_expander(_opened(urls)))
        if share.shuffled:
            samples = library.shuffle(stream.buffer, rng=random.Random(f"{share.order()} {share.part}"))(samples)
        for found in islice(samples, share.skip * share.batch_size, None):
            yield stream.sample(found)


def _opened(urls: list[str]) -> Iterator[dict[str, Any]]:
    """Open shards one by one and close them, also where reading ends early; WebDataset's own opener leaves that out."""
    for url in urls:
        with engine("webdataset").gopen(url) as file:
            yield {"url": url, "stream": file}
