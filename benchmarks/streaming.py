"""How fast images come from shards, beside a folder of files: images/s, bytes, repeats, and the way into an epoch.

    python benchmarks/streaming.py PHOTOGRAPHS/train --work /tmp/shards    # results/streaming_cpu.csv

Shards are packed by ``examples/pack_shards.py`` unless they are in ``--work`` already. ``images_per_s`` and
``mb_per_s`` (of encoded images) are of the batches after the first one, the median over passes in shuffled order;
``start_s`` and ``middle_s`` are the seconds to the first batch of an epoch and of one that is gone on with at its
middle; ``repeats`` counts images that come twice in an epoch of 2 processes x 2 workers.
"""

from __future__ import annotations

import argparse
import csv
import json
import multiprocessing
import sys
import time
from collections.abc import Iterable, Iterator
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import torch

if not __package__:  # run as a file: Python looks beside this file, and the packages are one floor up
    sys.path[0] = str(Path(__file__).parents[1])

from examples.pack_shards import FORMATS, pack

from benchmarks._report import about
from ida_lightning import HuggingFaceStream, ImageFolderDataModule, LitDataStream, StreamingDataModule, WebDatasetStream
from ida_lightning.data import Crops, ImageStream, StreamedImage, StreamShare
from ida_lightning.data.streaming.loader import StreamLoader
from ida_lightning.files import replacing

SHARDS = 8
PACKAGES = {"litdata": "litdata", "webdataset": "webdataset", "arrow": "datasets"}
COLUMNS = (
    *("device", "torch", "date", "commit", "source", "version", "workers", "images", "shards_mb"),
    *("images_per_s", "mb_per_s", "start_s", "middle_s", "repeats"),
)


class Counted(ImageStream):
    """A stream that counts the bytes of the images that it yields, in all workers together."""

    def __init__(self, stream: ImageStream) -> None:
        super().__init__(stream.size())
        self.stream, self.bytes = stream, multiprocessing.Value("q", 0)
        self.shards, self.class_names = stream.shards, stream.class_names  # type: ignore[method-assign]

    def open(self, share: StreamShare) -> Iterable[StreamedImage]:
        """Open the stream."""
        return _Counting(self.stream.open(share), self.bytes)


class _Counting:
    def __init__(self, images: Iterable[StreamedImage], total: Any) -> None:
        self.images, self.total = images, total

    def __iter__(self) -> Iterator[StreamedImage]:
        for image in self.images:
            with self.total.get_lock():
                self.total.value += len(image.image)
            yield image


def stream_of(engine: str, folder: Path, images: int) -> ImageStream:
    """Return the stream of packed shards."""
    if engine == "litdata":
        return LitDataStream(str(folder))
    if engine == "webdataset":
        return WebDatasetStream(str(folder))
    return HuggingFaceStream("arrow", options={"data_files": str(folder / "*.arrow")}, images=images)


def timed(loader: Any, batches: int) -> tuple[float, float, int]:
    """Return the seconds to the first batch, those of the batches behind it, and how many images these have."""
    begun = time.perf_counter()
    iterator = iter(loader)
    next(iterator)
    first = time.perf_counter()
    images = sum(len(batch.inputs) for batch in islice(iterator, batches))
    took = time.perf_counter() - first
    iterator.close()
    return first - begun, took, images


def repeats(stream: ImageStream, options: dict[str, Any]) -> tuple[int, int]:
    """Return how many images 2 processes x 2 workers have in an epoch, and how many of them more than once."""
    ids: list[int] = []
    data = StreamingDataModule(stream, num_workers=2, **options)
    data.setup("fit")
    for rank in (0, 1):
        share = StreamShare(0, 0, True, rank, 2, 2, data.batch_size)
        for batch in StreamLoader(data.load()["train"], share, 2):
            ids += batch.index.tolist()
    return len(ids), len(ids) - len(set(ids))


def measured(source: str, folder: Path, given: argparse.Namespace, workers: int) -> dict[str, Any]:
    """Measure one source of images."""
    crops, options = Crops(given.size), {"batch_size": given.batch}
    line: dict[str, Any] = {"source": source, "workers": workers}
    if source == "folder":
        data: Any = ImageFolderDataModule(
            str(folder.parent), given.size, folder.name, val_share=0.0, num_workers=workers, **options
        )
        data.setup("fit")
        runs = [timed(data.train_dataloader(), given.batches) for _ in range(given.passes)]
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        line |= {"images": len(data.splits["train"]), "shards_mb": f"{size / 1e6:.1f}"}
    else:
        said = json.loads((folder / "images.json").read_text())
        stream = Counted(stream_of(source, folder, said["images"]))
        data = StreamingDataModule(stream, crops=crops, num_workers=workers, **options)
        data.setup("fit")
        loader = data.train_dataloader()
        runs = [timed(loader, given.batches) for _ in range(given.passes)]
        loader.position = lambda: (0, len(loader) // 2)
        middle = timed(loader, 1)[0]
        size = sum(file.stat().st_size for file in folder.iterdir())
        line |= {"images": said["images"], "shards_mb": f"{size / 1e6:.1f}", "middle_s": f"{middle:.2f}"}
        line["version"] = version(PACKAGES[source])
        if workers == 2:
            stream.bytes.value = 0
            seen, twice = repeats(stream, {"crops": crops, **options})
            line["repeats"] = f"{twice} of {seen}"
            line["mb_per_image"] = stream.bytes.value / 1e6 / seen
    line["images_per_s"] = f"{median(images / took for _, took, images in runs):.0f}"
    line["start_s"] = f"{median(first for first, _, _ in runs):.2f}"
    return line


def main(args: list[str] | None = None) -> None:
    """Pack, measure, and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="of class folders")
    parser.add_argument("--work", type=Path, default=Path("outputs/shards"))
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results"))
    for name, value in {"batch": 64, "size": 160, "batches": 20, "passes": 3}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    given = parser.parse_args(args)
    where, lines = about(torch.device("cpu")), []
    for engine in FORMATS:
        if not (given.work / engine / "images.json").is_file():
            pack(given.folder, given.work / engine, engine, SHARDS)
    for workers in (0, 2):
        for source in ("folder", *FORMATS):
            folder = given.folder if source == "folder" else given.work / source
            line = measured(source, folder, given, workers)
            mb = line.pop("mb_per_image", None)
            if mb is not None:
                line["mb_per_s"] = f"{mb * float(line['images_per_s']):.1f}"
            lines.append({**where, **line})
            print(line)  # noqa: T201
    given.out.mkdir(parents=True, exist_ok=True)
    with replacing(given.out / "streaming_cpu.csv") as unfinished, unfinished.open("w", newline="") as file:
        table = csv.DictWriter(file, COLUMNS, extrasaction="ignore", lineterminator="\n")
        table.writeheader()
        table.writerows(lines)


if __name__ == "__main__":
    main()
