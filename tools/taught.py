"""Measure what the methods of the map teach beside what their teacher says: ``python -m tools.taught --teachers 12``.

What a method changes in a soft label is taken apart into a step towards the hard label, of such a length as fits best,
and the rest; on all rows, on those whose heaviest answer is a class of the picture and those where it is not, and by
the share of the heavier class. Nothing is trained beyond a few steps. Writes ``docs/evidence/results/taught.csv``, of
which ``tools.evidence_figures`` makes a table and a figure: what the step alone explains of the accuracy, and what not.
"""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml  # type: ignore[import-untyped]
from lightning.pytorch.callbacks import Checkpoint
from torch import Tensor

from ida_lightning import ExportCallback, Supervision, SupervisionMethod, missed_rows, moved_mass, violated_rows
from ida_lightning.cli import IDACLI
from ida_lightning.errors import InputError, one_of
from ida_lightning.files import replacing
from ida_lightning.studies.compare.cells import resolve_methods
from ida_lightning.studies.compare.settings import read_settings
from tools.evidence_map import ALSO, Regime, plan

RESULTS = Path("docs/evidence/results/taught.csv")
PLACE = ("images", "teacher_epochs", "mixing", "method")
SHORT = (
    "--trainer.max_epochs=1", "--trainer.limit_val_batches=0", "--trainer.logger=false", "--trainer.accelerator=cpu",
    "--trainer.enable_progress_bar=false", "--model.teacher_outputs=null",
)  # fmt: skip


class Listener(SupervisionMethod):
    """Keeps what the methods before it have made of every batch, and changes nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[Supervision] = []

    def transform(self, supervision: Supervision) -> Supervision:
        """Keep the supervision, without its images."""
        self.heard.append(supervision._replace(inputs=supervision.soft_labels))
        return supervision


def listen(config: dict[str, Any], batches: int) -> list[Supervision]:
    """Return what a fit config teaches in its first batches.

    Args:
        config: of ``ida-lightning fit``, whole.
        batches: how many.
    """
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "fit.yaml"
        file.write_text(yaml.safe_dump(config, sort_keys=False), encoding="utf-8")
        cli = IDACLI(["fit", "--config", str(file), *SHORT, f"--trainer.limit_train_batches={batches}"])
    listener = Listener()
    writes = (Checkpoint, ExportCallback)  # where the real runs of this config keep what they have
    kept = [each for each in cli.trainer.callbacks if not isinstance(each, writes)]
    cli.trainer.callbacks = [*kept, listener]
    cli.trainer.fit(cli.model, cli.datamodule)
    return listener.heard


def taken_apart(heard: Iterable[Supervision]) -> dict[str, float]:
    """Return what was changed in the teacher's soft labels, means over rows.

    ``moved`` is the share of a soft label that was moved, ``towards`` the length of the step towards the hard label (1:
    all the way) and ``explained`` how much of the squared change such a step is; ``ties`` the share of rows with more
    than one largest value, ``violated`` of those that break their order. ``towards_seen`` and ``towards_missed`` are of
    rows whose heaviest answer is in the picture and not, ``towards_even``, ``_mixed`` and ``_clear`` of rows in which
    the heavier class has less than 0.6 of the picture, up to 0.8, and more.

    Args:
        heard: batches, of which one at least has rows.
    """
    rows: dict[str, list[Tensor]] = {}
    for batch in heard:
        said = (batch.teacher_logits / batch.temperature).softmax(1)
        hard = batch.label_mix.dense(said.shape[1])
        change, way = batch.soft_labels - said, hard - said
        along, length = (change * way).sum(1), way.square().sum(1)
        largest = batch.soft_labels.amax(1, keepdim=True)
        for name, values in {
            "moved": moved_mass(said, batch.soft_labels),
            "along": along,
            "length": length,
            "step": along.square() / length.clamp_min(1e-12),
            "change": change.square().sum(1),
            "ties": ((batch.soft_labels == largest).sum(1) > 1).float(),
            "violated": violated_rows(batch.soft_labels, batch.label_mix).float(),
            "missed": missed_rows(said, batch.label_mix),
            "lead": hard.amax(1),
        }.items():
            rows.setdefault(name, []).append(values)
    all_rows = {name: torch.cat(values) for name, values in rows.items()}

    def towards(which: Tensor) -> float:
        length = all_rows["length"][which].sum()
        return float(all_rows["along"][which].sum() / length) if length > 0 else float("nan")

    change, lead, missed = all_rows["change"].sum(), all_rows["lead"], all_rows["missed"]
    return {
        "rows": len(lead),
        "moved": float(all_rows["moved"].mean()),
        "towards": towards(lead > 0),
        "explained": float(all_rows["step"].sum() / change) if change > 0 else float("nan"),
        "ties": float(all_rows["ties"].mean()),
        "violated": float(all_rows["violated"].mean()),
        "towards_seen": towards(~missed),
        "towards_missed": towards(missed),
        "towards_even": towards(lead < 0.6),
        "towards_mixed": towards((lead >= 0.6) & (lead <= 0.8)),
        "towards_clear": towards(lead > 0.8),
    }


def measure(regime: Regime, share: float | None, only: Sequence[str], batches: int) -> dict[str, dict[str, float]]:
    """Return what every method of a regime, or every one of ``only``, changes, by its name."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "compare.yaml"
        file.write_text(yaml.safe_dump(plan(regime, ALSO, share), sort_keys=False), encoding="utf-8")
        settings = read_settings([str(file)])
    for name in only:
        one_of("--methods", name, [each.partition("+")[0] for each in settings.methods])
    methods = {name: part for name, part in settings.methods.items() if not only or name.partition("+")[0] in only}
    configs = resolve_methods(settings._replace(methods=methods, reference=next(iter(methods))))
    return {name: taken_apart(listen(config, batches)) for name, config in configs.items()}


def main() -> int:
    """Measure what is asked for, in the place of older lines of these methods."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--teachers", nargs="+", required=True, help="epochs that they were trained")
    parser.add_argument("--mixing", choices=["cutmix", "mixup", "none"], default="cutmix")
    parser.add_argument("--share", type=float, help="of truth behind every method: METHOD+SHARE")
    parser.add_argument("--methods", nargs="+", help="only these of them")
    parser.add_argument("--batches", type=int, default=8)
    given = parser.parse_args()
    for teacher in given.teachers:
        regime = Regime("few", teacher, given.mixing)
        try:
            found = measure(regime, given.share, given.methods or (), given.batches)
        except InputError as error:
            parser.error(str(error))
        rows = read()
        for name, values in found.items():
            place = (*regime, name)
            rows[place] = dict(zip(PLACE, place, strict=True)) | {key: f"{each:.4g}" for key, each in values.items()}
        with replacing(RESULTS) as unfinished, unfinished.open("w", encoding="utf-8", newline="") as lines:
            writer = csv.DictWriter(lines, list(next(iter(rows.values()))), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows[place] for place in sorted(rows))
    return 0


def read() -> dict[tuple[str, ...], dict[str, str]]:
    """Return the lines that are there, by regime and method."""
    if not RESULTS.exists():
        return {}
    with RESULTS.open(encoding="utf-8", newline="") as lines:
        return {tuple(row[name] for name in PLACE): row for row in csv.DictReader(lines)}


if __name__ == "__main__":
    sys.exit(main())
