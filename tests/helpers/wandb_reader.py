"""Reads the file of an offline W&B run, so that tests see what was really logged; wandb ships no reader.

The file is a 7-byte header and a LevelDB log: blocks of 32 KiB, the first one header included, hold chunks of
``<crc32 u32, length u16, type u8>`` and data; a record that does not fit is cut into several chunks.
"""

import json
import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]  # passed on by version

_HEADER, _CHUNK = struct.Struct("<4sHB"), struct.Struct("<IHB")
_KNOWN_HEADER = (b":W&B", 0xBEE1, 0)
_BLOCK = 32 * 1024
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


class Run(NamedTuple):
    """What a run logged; keys of nested dicts are joined with dots."""

    config: Mapping[str, Any] = {}
    history: Sequence[Mapping[str, Any]] = ()
    exit_code: int | None = None  # the run was never finished
    group: str = ""
    job_type: str = ""
    name: str = ""
    summaries: Mapping[str, set[str]] = {}  # which values of a metric the run's summary has
    summary: Mapping[str, Any] = {}
    artifacts: Mapping[str, list[str]] = {}  # the files of each by name


def read_run(path: Path) -> Run:
    """Read ``run-<id>.wandb``; ValueError if it has another format version or is damaged."""
    config: dict[str, Any] = {}
    history: list[dict[str, Any]] = []
    summary: dict[str, Any] = {}
    exit_code, said = None, ("", "", "")
    summaries: dict[str, set[str]] = {}
    artifacts: dict[str, list[str]] = {}
    for data in _records(path.read_bytes()):
        record = Record.FromString(data)
        kind = record.WhichOneof("record_type")
        if kind in ("run", "config"):
            change = record.run.config if kind == "run" else record.config
            config.update(_items(change.update))
            for item in change.remove:
                config.pop(_name(item), None)
            if kind == "run":
                said = record.run.run_group, record.run.job_type, record.run.display_name
        elif kind == "history":
            history.append(_items(record.history.item))
        elif kind == "exit":
            exit_code = record.exit.exit_code
        elif kind == "summary":
            summary.update(_items(record.summary.update))
        elif kind == "metric":
            chosen = record.metric.summary
            summaries[record.metric.name] = {name for name in ("min", "max", "last") if getattr(chosen, name)}
        elif kind in ("artifact", "request") and (made := _artifact(record)) is not None:
            artifacts[made.name] = [entry.path for entry in made.manifest.contents]
    return Run(config, history, exit_code, *said, summaries, summary, artifacts)


def _artifact(record: Any) -> Any:
    """The artifact that a record is about, if it is about one; as a request where the caller waits for it."""
    if record.WhichOneof("record_type") == "artifact":
        return record.artifact
    return record.request.log_artifact.artifact if record.request.HasField("log_artifact") else None


def _records(data: bytes) -> Iterator[bytes]:
    if data[: _HEADER.size] != _HEADER.pack(*_KNOWN_HEADER):
        raise ValueError(f"expected a W&B run file of version 0, got the header {data[: _HEADER.size]!r}")
    offset, parts = _HEADER.size, list[bytes]()
    while offset < len(data):
        room = _BLOCK - offset % _BLOCK
        if room < _CHUNK.size:  # no chunk header fits: zeros up to the next block
            offset += room
            continue
        if len(data) - offset < _CHUNK.size:
            raise ValueError(f"the file ends inside the chunk at byte {offset}")
        crc, length, kind = _CHUNK.unpack_from(data, offset)
        end = offset + _CHUNK.size + length
        if zlib.crc32(data[offset + _CHUNK.size - 1 : end]) != crc:  # of type and data
            raise ValueError(f"checksum mismatch in the chunk at byte {offset}")
        if kind not in (_FULL, _FIRST, _MIDDLE, _LAST) or (kind in (_FULL, _FIRST)) == bool(parts):
            raise ValueError(f"unexpected chunk type {kind} at byte {offset}")
        parts.append(data[end - length : end])
        if kind in (_FULL, _LAST):
            yield b"".join(parts)
            parts = []
        offset = end
    if parts:
        raise ValueError("the file ends inside a record")


def _items(items: Any) -> dict[str, Any]:
    return {_name(item): json.loads(item.value_json) for item in items}


def _name(item: Any) -> str:
    return ".".join(item.nested_key) or item.key
