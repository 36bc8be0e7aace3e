"""Run the map of docs/evidence.md: teachers of several strengths x ways to the truth x two sizes of data.

``python -m tools.evidence_map --teachers 5 12 60 --images few --seeds 0 1`` from the root of the repository, with
CIFAR-100 unpacked in data/. Every (teacher, size) is one comparison of ``configs/evidence/compare_map.yaml`` in a
folder of its own, so what was cut off goes on, and more seeds or teachers are added to what is there. All rows that are
finished are written to ``docs/evidence/results/map.csv`` after every comparison.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from ida_lightning.files import replacing

CONFIGS = Path("configs/evidence")
OUTPUT = Path("outputs/evidence/map")
RESULTS = Path("docs/evidence/results/map.csv")
KEPT = (
    "method", "seed", "best_epoch", "best_val_acc", "best_test_acc", "last_val_acc", "last_val_nll", "last_test_acc",
    "last_test_nll", "last_test_nll_scaled", "last_test_ece", "last_agreement", "last_teacher_kl", "violation_rate",
    "moved_mass", "seconds", "device", "teacher_sha256", "config_sha256",
)  # fmt: skip
"""Columns of a comparison's results.csv that the map keeps."""


def teacher_config(epochs: int) -> Path:
    """Write the fit config of the teacher of so many epochs, and return its path."""
    config: dict[str, Any] = yaml.safe_load((CONFIGS / "teacher.yaml").read_text(encoding="utf-8"))
    config["trainer"]["max_epochs"] = epochs
    checkpoint, export = (callback["init_args"] for callback in config["trainer"]["callbacks"])
    checkpoint["dirpath"] = f"{OUTPUT}/teachers/{epochs}"
    export["path"] = weights(epochs)
    return _written(OUTPUT / "teachers" / f"{epochs}.yaml", config)


def weights(epochs: int) -> str:
    """Return where the weights of the teacher of so many epochs are."""
    return f"{OUTPUT}/teachers/{epochs}.safetensors"


def run(name: str, files: list[Path], seeds: list[int], teacher: int | None) -> int:
    """Run one comparison of the map and return its exit code."""
    finished = {int(cell.parent.name.partition("_")[2]) for cell in OUTPUT.glob(f"{name}/cells/*/seed_*/cell.json")}
    part: dict[str, Any] = {"seeds": sorted({*seeds, *finished}), "output": f"{OUTPUT}/{name}"}
    if teacher is not None:
        part |= {"teacher": str(teacher_config(teacher))}
        part |= {"common": {"model": {"init_args": {"teacher_checkpoint": weights(teacher)}}}}
    files = [*files, _written(OUTPUT / f"{name}.yaml", part)]
    arguments = [text for file in files for text in ("--config", str(file))]
    return subprocess.call([sys.executable, "-m", "ida_lightning", "compare", *arguments])


def collect() -> None:
    """Write the rows of every finished run to the result file."""
    rows = [["images", "teacher_epochs", *KEPT]]
    for results in sorted(OUTPUT.glob("*/results.csv")):
        images, _, teacher = results.parent.name.partition("-")
        with results.open(encoding="utf-8", newline="") as lines:
            rows += [[images, teacher, *(row.get(key, "") for key in KEPT)] for row in csv.DictReader(lines)]
    with replacing(RESULTS) as unfinished, unfinished.open("w", encoding="utf-8", newline="") as lines:
        csv.writer(lines, lineterminator="\n").writerows(rows)


def main() -> int:
    """Run what is asked for, seed by seed, so that a first seed of everything is there first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teachers", type=int, nargs="*", default=[], help="epochs that the teachers were trained")
    parser.add_argument("--labels", action="store_true", help="labels alone too")
    parser.add_argument("--images", nargs="+", choices=["few", "all"], default=["few"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    given = parser.parse_args()
    worst = 0
    for number in range(len(given.seeds)):
        seeds = given.seeds[: number + 1]
        for images in given.images:
            more = [CONFIGS / "compare_map_all.yaml"] if images == "all" else []
            for teacher in [*([None] if given.labels else []), *given.teachers]:
                base = "compare_map_labels.yaml" if teacher is None else "compare_map.yaml"
                name = f"{images}-{'labels' if teacher is None else teacher}"
                worst = max(worst, run(name, [CONFIGS / base, *more], seeds, teacher))
                collect()
    return worst


def _written(path: Path, content: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as unfinished:
        unfinished.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return path


if __name__ == "__main__":
    sys.exit(main())
