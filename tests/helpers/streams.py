"""Small shards of every engine, and what a loader yields of them."""

from ida_lightning.data import (
    HuggingFaceStream,
    ImageStream,
    LitDataStream,
    StreamedImage,
    StreamShare,
    WebDatasetStream,
)
from ida_lightning.data.decoded import middle_of
from ida_lightning.data.decoding import ImageDecoding
from ida_lightning.data.streaming.loader import StreamLoader, StreamSplit

IMAGES = 51  # of three classes
ENGINES = ("litdata", "webdataset", "arrow")
OF = {"mean": (0.4, 0.4, 0.4), "std": (0.3, 0.3, 0.3)}


def stream_of(root, engine):
    """Return the stream of shards that ``root`` has by the name of their engine."""
    folder = root / engine
    if engine == "litdata":
        return LitDataStream(str(folder))
    if engine == "webdataset":
        return WebDatasetStream(str(folder), buffer=10)
    options = {"data_files": str(folder / "*.arrow"), "cache_dir": str(root / "cache")}
    return HuggingFaceStream("arrow", options=options, images=IMAGES, buffer=10)


def loader_of(stream, workers=0, position=None, name="train", **share):
    decoding = ImageDecoding(4, 3, middle_of(16, 7 / 8))
    share = StreamShare(**{"seed": 3, "shuffled": True, "workers": max(1, workers), "batch_size": 3, **share})
    return StreamLoader(StreamSplit(name, stream, decoding), share, workers, position)


def ids_of(loader):
    """Return the ids of every batch."""
    return [batch.index.tolist() for batch in loader]


class Pixels(ImageStream):
    """An engine of a user: images of four classes, made when they are asked for."""

    def __init__(self, images=48, known=True, resumes=True):
        super().__init__(images if known else None)
        self.count, self.resumes = images, resumes

    def open(self, share):
        return _Made(self, share)


class _Made:
    def __init__(self, stream, share):
        self.stream, self.share = stream, share

    def __iter__(self):
        import numpy as np

        share = self.share
        rows = range(self.stream.count)
        rows = np.random.default_rng(share.order()).permutation(rows).tolist() if share.shuffled else list(rows)
        for row in rows[share.part :: share.parts][share.skip * share.batch_size if self.stream.resumes else 0 :]:
            pixels = np.random.default_rng(row).integers(0, 60, (10, 12, 3), dtype=np.uint8)
            pixels[5 * (row % 2) :][:5] += 100
            yield StreamedImage(pixels, row % 4, row)
