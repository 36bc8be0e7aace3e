"""Streams shards of LitData, which divides images rather than shards and goes to any position at once."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from ida_lightning.checks import text
from ida_lightning.data.decoded import item_of
from ida_lightning.data.streaming.stream import ImageStream, StreamedImage, StreamShare, engine, what_was_packed
from ida_lightning.errors import InputError, kind_of
from ida_lightning.remote import is_address, on_this_machine


class LitDataStream(ImageStream):
    """Reads shards that LitData wrote, from a folder or from object storage (``s3://``, ``gs://``, ...).

    Items are dictionaries with an image, a label and, best, an ``id``. Images that LitData keeps as JPEG files reach us
    as such: its own decoder would leave out their colour profile.

    Args:
        root: of the shards, where ``index.json`` is.
        images: how many there are; None reads the index of a local folder.
        image_key: of the items; None tries the usual ones.
        label_key: likewise.

    Raises:
        InputError: for a folder without ``index.json``, items without those keys, and without the package.

    Example:
        >>> LitDataStream("shards/train", images=1_281_167).per_part(8)
        160145
    """

    def __init__(
        self, root: str, images: int | None = None, image_key: str | None = None, label_key: str | None = None
    ) -> None:
        super().__init__(images)
        text("root", root)
        self.root = root if is_address(root) else on_this_machine("root", root)
        self.image_key, self.label_key = text("image_key", image_key, True), text("label_key", label_key, True)
        index = Path(self.root, "index.json")
        if self.images is None and index.is_file():
            self.images = sum(int(chunk["chunk_size"]) for chunk in json.loads(index.read_bytes())["chunks"]) or None

    def open(self, share: StreamShare) -> _LitItems:
        """Return LitData's own data set, at the wanted position."""
        return _LitItems(self._dataset(share), self.image_key, self.label_key)

    def _dataset(self, share: StreamShare) -> Any:
        library, serializers = engine("litdata"), engine("litdata.streaming.serializers")
        if not is_address(self.root) and not Path(self.root, "index.json").is_file():
            raise InputError(f"root: expected shards of LitData with their index.json at {self.root}, found none")
        dataset = library.StreamingDataset(
            self.root,
            shuffle=share.shuffled,
            drop_last=share.shuffled,
            seed=share.seed,
            serializers={"jpeg": serializers.BytesSerializer()},
        )
        # Said rather than detected: the environment of whoever started this process may be another's.
        dataset.distributed_env.world_size, dataset.distributed_env.global_rank = share.ranks, share.rank
        dataset.set_batch_size(share.batch_size)
        dataset.set_num_workers(share.workers)
        dataset.set_epoch(share.epoch + 1)
        if share.skip:
            had = share.skip * share.workers * share.batch_size
            dataset.load_state_dict(dataset.state_dict(had, share.workers, share.batch_size))
        return dataset

    def facts(self) -> Mapping[str, Any]:
        """Return the digest of the index."""
        index = Path(self.root, "index.json")
        digest = sha256(index.read_bytes()).hexdigest() if index.is_file() else self.root
        return {**super().facts(), "index": digest}

    def class_names(self) -> list[str] | None:
        """Return what the packer wrote."""
        return what_was_packed(self.root).get("class_names")


class _LitItems:
    def __init__(self, dataset: Any, image_key: str | None, label_key: str | None) -> None:
        self.dataset, self.keys = dataset, (image_key, label_key)

    def __iter__(self) -> Iterator[StreamedImage]:
        for item in self.dataset:
            if not isinstance(item, Mapping):
                raise InputError(f"root: expected items that are dictionaries, got {kind_of(item)}")
            image, label = item_of(item, *self.keys)
            encoded = isinstance(image, (memoryview, bytearray))
            yield StreamedImage(bytes(image) if encoded else image, label, item.get("id"))
