"""Run the map of docs/evidence.md: teachers of several strengths x shares of truth and repairs x mixing x size of data.

``python -m tools.evidence_map --teachers 5 12 60 --images few --seeds 0 1`` from the root of the repository, with
CIFAR-100 unpacked in data/. Every (size, teacher, mixing) is a comparison of ``configs/evidence/compare_map.yaml`` in
a folder of its own, so what was cut off goes on. After every comparison its rows go to
``docs/evidence/results/map.csv``. Runs whose rows stand there already are left out, wherever they were run; ``--again``
runs them too, and their rows must come out the same.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import yaml  # type: ignore[import-untyped]

from ida_lightning.files import replacing
from ida_lightning.studies.compare.settings import read_settings

CONFIGS = Path("configs/evidence")
OUTPUT = Path("outputs/evidence/map")
RESULTS = Path("docs/evidence/results/map.csv")
FIGURES = Path("docs/evidence/results/map_teachers.csv")
KEPT = (
    "best_epoch", "best_val_acc", "best_test_acc", "last_val_acc", "last_val_nll", "last_test_acc", "last_test_nll",
    "last_test_nll_scaled", "last_test_ece", "last_agreement", "last_teacher_kl", "violation_rate", "moved_mass",
    "seconds", "device", "teacher_sha256", "config_sha256",
)  # fmt: skip
"""Columns of a comparison's results.csv that the map keeps."""
PLACE = ("images", "teacher_epochs", "mixing", "method", "seed")
"""The columns that say which run a row is of."""
ALSO = ("more", "repairs")
"""Files of methods beside the shares: revision and margins; repairs, losses and views of the teacher."""
MEASURED = ("missed", "missed_by_guessing", "accuracy", "violated")
"""What an audit measures of a teacher on the images that a student is shown, and the accuracy on validation images."""


class Regime(NamedTuple):
    """One comparison of the map.

    Attributes:
        images: ``few`` or ``all`` that the student learns from.
        teacher: epochs that it was trained, or ``labels`` for no teacher.
        mixing: of the student's images.
    """

    images: str
    teacher: str
    mixing: str

    @property
    def folder(self) -> Path:
        """Where the comparison is."""
        return OUTPUT / "-".join(self[:2] if self.mixing == "cutmix" else self)


def teacher_config(epochs: str) -> Path:
    """Write the fit config of the teacher of so many epochs, and return its path."""
    config: dict[str, Any] = yaml.safe_load((CONFIGS / "teacher.yaml").read_text(encoding="utf-8"))
    config["trainer"]["max_epochs"] = int(epochs)
    checkpoint, export = (callback["init_args"] for callback in config["trainer"]["callbacks"])
    checkpoint["dirpath"] = f"{OUTPUT}/teachers/{epochs}"
    export["path"] = weights(epochs)
    return _written(OUTPUT / "teachers" / f"{epochs}.yaml", config)


def weights(epochs: str) -> str:
    """Return where the weights of the teacher of so many epochs are."""
    return f"{OUTPUT}/teachers/{epochs}.safetensors"


def plan(regime: Regime, also: Sequence[str] = (), share: float | None = None) -> dict[str, Any]:
    """Return a comparison of the map, whole, as its config file says it.

    Args:
        regime: which one.
        also: files of methods beside the shares, of :data:`ALSO`.
        share: of truth behind every method, under the name METHOD+SHARE; None for the methods as they are.
    """
    labels = regime.teacher == "labels"
    names = ["compare_map_labels" if labels else "compare_map"]
    names += [f"compare_map_{part}" for part in also if not labels]
    names += ["compare_map_all"] * (regime.images == "all")
    settings = read_settings([str(CONFIGS / f"{name}.yaml") for name in names])
    methods, reference = {name: part or {} for name, part in settings.methods.items()}, settings.reference
    if share is not None:
        methods = {f"{name}+{share:g}": with_truth(part, share) for name, part in methods.items()}
        reference = f"{reference}+{share:g}"
    part: dict[str, Any] = {"fit": str(settings.fit), "threads": int(settings.threads or 1), "common": settings.common}
    part |= {"methods": methods, "output": str(regime.folder), "reference": reference, "seeds": [0]}
    if not labels:
        part["teacher"] = str(teacher_config(regime.teacher))
        part["common"]["model"]["init_args"]["teacher_checkpoint"] = weights(regime.teacher)
    if regime.mixing != "cutmix":
        part["common"]["data"]["init_args"]["mixing"] = {"kind": regime.mixing}
    return part


def run(regime: Regime, given: argparse.Namespace, seed: int) -> int:
    """Run one comparison of the map, without the runs whose results are there, and return its exit code."""
    part = plan(regime, given.also, given.share)
    there = {} if given.again else _read(RESULTS, PLACE)
    methods = {
        name: method
        for name, method in part["methods"].items()
        if (not given.methods or name.partition("+")[0] in given.methods) and (*regime, name, str(seed)) not in there
    }
    if not methods:
        return 0
    reference = part["reference"] if part["reference"] in methods else next(iter(methods))
    file = _written(Path(f"{regime.folder}.yaml"), part | {"methods": methods, "seeds": [seed], "reference": reference})
    return subprocess.call([sys.executable, "-m", "ida_lightning", "compare", "--config", str(file)])


def with_truth(method: dict[str, Any], share: float) -> dict[str, Any]:
    """Return a method of a comparison that blends a share of truth into what it teaches otherwise."""
    blend = {"class_path": "TruthBlendCallback", "init_args": {"share": share}}
    trainer = method.get("trainer", {})
    key = "callbacks" if "callbacks" in trainer else "callbacks+"
    return {**method, "trainer": {**trainer, key: [*trainer.get(key, ()), blend]}}


def collect(regime: Regime) -> None:
    """Write the rows of a comparison's finished runs to the result file, in the place of older ones of these runs."""
    rows = _read(RESULTS, PLACE)
    results = regime.folder / "results.csv"
    if results.exists():
        with results.open(encoding="utf-8", newline="") as lines:
            for row in csv.DictReader(lines):
                place = (*regime, row["method"], row["seed"])
                rows[place] = [*place, *(row.get(key, "") for key in KEPT)]
    _write_table(RESULTS, [*PLACE, *KEPT], rows)


def measure(images: str, teacher: str) -> None:
    """Audit one teacher on the first images that its students are shown, and write what was found to the figures."""
    out = OUTPUT / "audits" / f"{images}-{teacher}"
    few = ["--data.val_images=8000"] * (images == "few")
    files = ["audit", "--config", str(CONFIGS / "kd_cutmix.yaml"), f"--model.teacher_checkpoint={weights(teacher)}"]
    subprocess.run([sys.executable, "-m", "ida_lightning", *files, *few, "--batches=60", f"--out={out}"], check=True)
    found = json.loads((out / "audit.json").read_text(encoding="utf-8"))["measurements"]
    values = {(each["mixing"], each["metric"]): each["value"] for each in found if each["bin"] == "all"}
    rows = _read(FIGURES, PLACE[:3])
    for mixing, shown in (("none", "clean"), ("mixup", "mixup"), ("cutmix", "cutmix")):
        measured = [values[shown, metric] for metric in MEASURED] + [values["validation", "accuracy"]]
        rows[images, teacher, mixing] = [images, teacher, mixing, *(f"{value:.6g}" for value in measured)]
    _write_table(FIGURES, [*PLACE[:3], *MEASURED, "val_accuracy"], rows)


def main() -> int:
    """Run what is asked for, seed by seed, so that a first seed of everything is there first."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teachers", nargs="*", default=[], help="epochs that they were trained; labels: no teacher")
    parser.add_argument("--images", nargs="+", choices=["few", "all"], default=["few"])
    parser.add_argument("--mixing", nargs="+", choices=["cutmix", "mixup", "none"], default=["cutmix"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--figures", action="store_true", help="audit the teachers, and train no student")
    parser.add_argument("--also", nargs="+", choices=ALSO, default=[], help="methods of compare_map_NAME.yaml too")
    parser.add_argument("--share", type=float, help="of truth, blended into what every method teaches: METHOD+SHARE")
    parser.add_argument("--methods", nargs="+", help="only these of them")
    parser.add_argument("--again", action="store_true", help="run also what the result file has")
    given = parser.parse_args()
    if given.figures:
        for images in given.images:
            for teacher in given.teachers:
                measure(images, teacher)
        return 0
    parts = [read_settings([str(CONFIGS / f"compare_map{part}.yaml") for part in ("", *(f"_{also}" for also in ALSO))])]
    parts += [read_settings([str(CONFIGS / "compare_map_labels.yaml")])]
    known = {name for part in parts for name in part.methods}
    if unknown := set(given.methods or ()) - known:
        parser.error(f"--methods: expected names of {', '.join(sorted(known))}, got {', '.join(sorted(unknown))}")
    worst = 0
    for seed, images, mixing, teacher in product(given.seeds, given.images, given.mixing, given.teachers):
        regime = Regime(images, teacher, mixing)
        worst = max(worst, run(regime, given, seed))
        collect(regime)
    return worst


def _read(path: Path, key: tuple[str, ...]) -> dict[tuple[str, ...], list[str]]:
    if not path.exists():
        return {}
    with path.open(encoding="utf-8", newline="") as lines:
        return {tuple(row[name] for name in key): list(row.values()) for row in csv.DictReader(lines)}


def _write_table(path: Path, names: list[str], rows: dict[tuple[str, ...], list[str]]) -> None:
    with replacing(path) as unfinished, unfinished.open("w", encoding="utf-8", newline="") as lines:
        csv.writer(lines, lineterminator="\n").writerows([names, *(rows[place] for place in sorted(rows))])


def _written(path: Path, content: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as unfinished:
        unfinished.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return path


if __name__ == "__main__":
    sys.exit(main())
