"""Describes the splits of a data module for the log."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from ida_lightning.data.decoded import DecodedImages
from ida_lightning.data.in_memory import InMemoryRows
from ida_lightning.data.streaming.loader import StreamSplit

_MOST_NAMES = 5


def lines_about(
    splits: Mapping[str, Any], origins: Mapping[str, str], class_names: Sequence[str], unit: str = "images"
) -> Iterator[str]:
    """Yield one line with the size and origin of every split, and one for each split in which classes are missing.

    Args:
        splits: data sets by name.
        origins: in words where a split comes from, for those of which it is known.
        class_names: of all classes.
        unit: what rows are called.
    """
    counts = [f"{name} {_count(split)} {unit}" for name, split in splits.items()]
    said = [f" ({origins[name]})" if name in origins else "" for name in splits]
    usual = () if set(splits) == {"predict"} else ("train", "val", "test")
    absent = [f"no {name} {unit}" for name in usual if name not in splits]
    yield "data: " + "; ".join([*map("".join, zip(counts, said, strict=True)), *absent])
    for name, split in splits.items():
        labels = _labels(split)
        if name == "predict" or labels is None:
            continue
        there = set(labels.tolist())
        missing = [title for number, title in enumerate(class_names) if number not in there]
        if missing:
            more = f" and {len(missing) - _MOST_NAMES} more classes" if len(missing) > _MOST_NAMES else ""
            yield f"data: {name} has no {unit.removesuffix('s')} of {', '.join(missing[:_MOST_NAMES])}{more}"


def _count(split: Any) -> str:
    size = split.stream.size() if isinstance(split, StreamSplit) else len(split)
    return "an unknown number of" if size is None else f"{size:,}"


def _labels(split: Any) -> Tensor | None:
    """Return the labels of a split if that takes no reading of images."""
    if isinstance(split, InMemoryRows):
        return split.labels
    return split.known_labels() if isinstance(split, DecodedImages) else None
