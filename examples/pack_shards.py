"""Packs a folder of class folders into shards for StreamingDataModule: LitData's, WebDataset's or Arrow files.

    python examples/pack_shards.py photographs/train shards/train --to webdataset --shards 64

Files go in as they are, byte for byte, in a drawn but fixed order, so that every shard shows all classes. Shards differ
by one image at most. Beside them lies ``images.json`` with the number of images and the names of the classes.
"""

import argparse
import json
import random
import sys
from collections.abc import Iterator
from pathlib import Path

from ida_lightning import InputError
from ida_lightning.data.image_files import ImageFiles, list_classes

FORMATS = ("litdata", "webdataset", "arrow")
_AT_ONCE = 100  # images of a record batch
Row = tuple[int, str, int]  # number, path, label


def pack(folder: Path, out: Path, to: str, shards: int) -> int:
    """Write the shards; return the number of images."""
    if not folder.is_dir():
        raise InputError(f"folder: expected a folder of class folders at {folder.resolve()}, found none")
    if out.exists() and any(out.iterdir()):
        raise InputError(f"out: expected an empty folder, got {out}")
    files = list_classes(folder, "folder")
    if not 1 <= shards <= len(files):
        raise InputError(f"shards: expected 1 ... {len(files)}, as many as there are images, got {shards}")
    out.mkdir(parents=True, exist_ok=True)
    {"litdata": write_litdata, "webdataset": write_webdataset, "arrow": write_arrow}[to](files, out, shards)
    said = {"images": len(files), "class_names": files.classes}
    (out / "images.json").write_text(json.dumps(said) + "\n", encoding="utf-8")
    return len(files)


def divided(files: ImageFiles, shards: int) -> Iterator[list[Row]]:
    """Yield the rows of each shard."""
    rows = [(number, path, label) for number, (path, label) in enumerate(files.samples)]
    random.Random(0).shuffle(rows)
    return (rows[shard::shards] for shard in range(shards))


def write_webdataset(files: ImageFiles, out: Path, shards: int) -> None:
    """Write tar files: 000000007.jpg beside 000000007.cls."""
    import webdataset

    for shard, rows in enumerate(divided(files, shards)):
        with webdataset.TarWriter(str(out / f"{shard:06d}.tar"), mtime=0) as tar:
            for number, path, label in rows:
                ending = Path(path).suffix[1:].lower()
                tar.write({"__key__": f"{number:09d}", ending: Path(path).read_bytes(), "cls": str(label)})


def write_litdata(files: ImageFiles, out: Path, shards: int) -> None:
    """Write LitData's chunks, whose index says what is where."""
    from litdata.streaming import Cache

    cache = Cache(str(out), chunk_size=-(-len(files) // shards))
    for place, (number, path, label) in enumerate(row for rows in divided(files, shards) for row in rows):
        cache[place] = {"image": Path(path).read_bytes(), "label": label, "id": number}
    cache.done()
    cache.merge()


def write_arrow(files: ImageFiles, out: Path, shards: int) -> None:
    """Write Arrow files as Hugging Face's datasets reads them, with the names of the classes in each."""
    import pyarrow
    from datasets import ClassLabel, Features, Image, Value

    features = Features({"image": Image(), "label": ClassLabel(names=files.classes), "id": Value("int64")})
    schema = features.arrow_schema
    for shard, rows in enumerate(divided(files, shards)):
        with pyarrow.ipc.new_stream(out / f"{shard:06d}.arrow", schema) as file:
            for start in range(0, len(rows), _AT_ONCE):
                part = rows[start : start + _AT_ONCE]
                columns = {
                    "image": [{"bytes": Path(path).read_bytes(), "path": None} for _, path, _ in part],
                    "label": [label for *_, label in part],
                    "id": [number for number, *_ in part],
                }
                file.write_batch(pyarrow.RecordBatch.from_pydict(columns, schema=schema))


def main(args: list[str] | None = None) -> None:
    """Read the arguments, pack, and say what was written."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("folder", type=Path, help="of class folders")
    parser.add_argument("out", type=Path, help="new folder of the shards")
    parser.add_argument("--to", choices=FORMATS, default="litdata")
    parser.add_argument("--shards", type=int, default=64, help="a multiple of processes x loader workers")
    given = parser.parse_args(args)
    try:
        images = pack(given.folder, given.out, given.to, given.shards)
    except InputError as error:
        sys.exit(f"error: {error}")
    size = sum(file.stat().st_size for file in given.out.iterdir())
    print(f"{images:,} images, {size / 1e6:,.1f} MB in {given.out}")


if __name__ == "__main__":
    main()
