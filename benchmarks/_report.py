"""What a run of the benchmark leaves behind: where it ran, a picture and a short table."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path

import torch
from matplotlib.figure import Figure

COLUMNS = [
    *("device", "torch", "threads", "date", "commit", "B", "c", "dtype", "violation_rate", "candidate"),
    *("median_ms", "ratio_to_softmax", "host_syncs", "peak_extra_mb", "note"),
]
Line = Mapping[str, str]


def about(device: torch.device) -> dict[str, str | int]:
    """Where and with what a run measures."""
    return {
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "date": datetime.now(timezone.utc).strftime("%Y-%m-%d"),
        "commit": _commit(),
    }


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _commit() -> str:
    """The commit of the sources, with a mark when they differ from it."""
    command = ["git", "describe", "--always", "--abbrev=10", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"  # a copy without its history
    return done.stdout.strip()


def _shown(lines: Sequence[Line]) -> tuple[str, list[str], list[Line]]:
    """One batch size of float32, 256 where it was measured: its rows, the violation rates and the timed lines."""
    timed = [line for line in lines if line["ratio_to_softmax"] and line["dtype"] == lines[0]["dtype"]]
    sizes = {line["B"] for line in timed}
    rows = "256" if "256" in sizes else max(sizes, key=int, default="")
    return rows, sorted({line["violation_rate"] for line in timed}, key=float), [x for x in timed if x["B"] == rows]


def draw(lines: Sequence[Line], candidates: Sequence[str]) -> Figure:
    """Cost as a ratio to the softmax over the number of classes, one panel per violation rate."""
    rows, rates, timed = _shown(lines)
    figure = Figure(figsize=(4.2 * max(1, len(rates)) + 1.8, 4.2), layout="constrained")
    panels = figure.subplots(1, max(1, len(rates)), sharey=True, squeeze=False)[0]
    markers = "ovs^D<>phX*P8d"
    for panel, rate in zip(panels, rates, strict=False):
        for number, name in enumerate(candidates):
            points = sorted(
                (int(line["c"]), float(line["ratio_to_softmax"]))
                for line in timed
                if line["candidate"] == name and line["violation_rate"] == rate
            )
            if points:
                style = {"color": f"C{number % 10}", "marker": markers[number % len(markers)], "markersize": 4}
                panel.plot(*zip(*points, strict=True), label=name, linestyle="-" if number < 10 else "--", **style)
        panel.set(xscale="log", yscale="log", xlabel="classes", title=f"violation rate {float(rate):g}")
        panel.grid(alpha=0.3)
    if rates:
        panels[0].set_ylabel("time / softmax of the same batch")
        # A candidate may be too slow for some panels only.
        handles = {
            label: line for panel in panels for line, label in zip(*panel.get_legend_handles_labels(), strict=True)
        }
        figure.legend(handles.values(), handles, loc="outside right center", fontsize=8)
        first = timed[0]
        figure.suptitle(
            f"{rows} rows, {first['dtype']}; {first['device']}, {first['threads']} threads, torch {first['torch']}",
            fontsize=9,
        )
    return figure


def summary(lines: Sequence[Line], candidates: Sequence[str]) -> str:
    """The ratios at the highest violation rate, as plain text."""
    rows, rates, timed = _shown(lines)
    if not timed:
        return "nothing was timed"
    timed = [line for line in timed if line["violation_rate"] == rates[-1]]
    classes = sorted({line["c"] for line in timed}, key=int)
    ratios = {(line["candidate"], line["c"]): line["ratio_to_softmax"] for line in timed}
    text = [f"time / softmax at {rows} rows, {timed[0]['dtype']}, violation rate {float(rates[-1]):g}"]
    text.append(f"{'':20}" + "".join(f"{'c ' + label:>12}" for label in classes))
    for name in candidates:
        cells = [ratios.get((name, label), "-") for label in classes]
        text.append(f"{name:20}" + "".join(f"{cell:>12}" for cell in cells))
    noisy = sum("noisy" in line["note"] for line in lines)
    if noisy:
        text.append(
            f"{noisy} of {len(lines)} timings are marked noisy: repeat them on a quiet machine or with --threads 1"
        )
    return "\n".join(text)
