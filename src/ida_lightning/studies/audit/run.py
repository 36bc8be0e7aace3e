"""Audit of a teacher from Python: measure, judge, write the files, print the message."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from ida_lightning.data import LabelledDataModule, MixingDataModule
from ida_lightning.data_facts import facts_from
from ida_lightning.errors import InputError, at_least
from ida_lightning.files import writable_folder
from ida_lightning.isotonic import describe_trials
from ida_lightning.label_mix import LabelMix
from ida_lightning.lightning_internals import in_precision, move_to_device, with_progress_bar
from ida_lightning.locks import OutputLock
from ida_lightning.methods import DataSelectionCallback, InnerMixingCallback, LabelRevisionCallback
from ida_lightning.models import load_weights, put_weights
from ida_lightning.modules import DistillationModule
from ida_lightning.revision_selection.revision import revise_soft_labels
from ida_lightning.revision_selection.selection import trusted_rows
from ida_lightning.studies.audit.examples import MostChanged
from ida_lightning.studies.audit.figure import draw
from ida_lightning.studies.audit.measure import measure, takes_rectangles
from ida_lightning.studies.audit.methods import configured_correction, methods_not_measured, of_teacher_not_measured
from ida_lightning.studies.audit.page import write_page
from ida_lightning.studies.audit.report import Configured, Report, summarise, worst_pairs
from ida_lightning.studies.audit.verdict import Verdict, judge
from ida_lightning.studies.stddev import agreement_with_paper, measure_stddev
from ida_lightning.studies.tables import as_png, render, run_id, write_result

_PACKAGES = ("ida-lightning", "torch", "lightning", "timm", "numpy")


def audit(
    trainer: L.Trainer,
    model: L.LightningModule,
    datamodule: L.LightningDataModule,
    batches: int | None = None,
    out: str = "outputs/audit",
    stddev_batches: int | None = None,
    student_checkpoint: str | None = None,
    config: Mapping[str, Any] | None = None,
) -> tuple[Report, Verdict] | None:
    """Say whether the teacher breaks orders on mixed images, and what a correction would change. Trains nothing.

    The teacher sees training images of the run's first steps: clean, mixup, CutMix and half of each, augmented as
    in training. One process looks, on the Trainer's (first) device and in its precision. The student is not used.

    Args:
        trainer: any Trainer; its device, precision and progress bar are used, and its callbacks say what is corrected.
        model: a DistillationModule; its teacher is audited.
        datamodule: a LabelledDataModule.
        batches: how many batches; none for about 10,000 images, or one epoch if that is shorter.
        out: the folder for audit.json, audit.csv, audit.png and audit.html.
        stddev_batches: also measure, on so many batches, T. stddev of the augmentations from identity to CutMixPick
            that Wang et al. (NeurIPS 2022) compare: which is good for distillation. They take 10 epochs of batches
            of 64; 10 batches are the least.
        student_checkpoint: for T. stddev, weights of the model's student: CutMixPick by its entropy, too.
        config: goes into the report; the command line gives the whole config.

    Returns:
        All numbers and the verdict; None on all processes but the first.

    Raises:
        InputError: for another kind of model or data, too few batches, and networks that cannot be used.

    Example:
        >>> trainer = L.Trainer(accelerator="cpu", logger=False)
        >>> audit(trainer, L.LightningModule(), L.LightningDataModule())
        Traceback (most recent call last):
        ...
        ida_lightning.errors.InputError: model: expected a DistillationModule, got LightningModule
    """
    if not isinstance(model, DistillationModule):
        raise InputError(f"model: expected a DistillationModule, got {type(model).__name__}")
    if not isinstance(datamodule, LabelledDataModule):
        raise InputError(f"data: expected a LabelledDataModule, got {type(datamodule).__name__}")
    if batches is not None:
        at_least("batches", batches, 1)
    if student_checkpoint is not None and stddev_batches is None:
        raise InputError("student_checkpoint: expected stddev_batches with it, nothing else asks a student")
    if trainer.global_rank > 0:
        return None
    if trainer.world_size > 1:
        rank_zero_info(f"audit: one process looks, the other {trainer.world_size - 1} are not needed")
    return write_audit(out, trainer, model, datamodule, batches, stddev_batches, student_checkpoint, config)


def write_audit(
    out: str, trainer: L.Trainer, model: DistillationModule, data: LabelledDataModule, *options: Any
) -> tuple[Report, Verdict]:
    """Measure, judge, write the files and print the message; see :func:`audit` for the arguments."""
    writable_folder("out", out)
    with OutputLock("out", out):
        report = measure_teacher(trainer, model, data, *options)
        verdict = judge(report)
        write_files(report, verdict, Path(out))
    print(message(report, verdict, Path(out)))  # noqa: T201
    return report, verdict


def measure_teacher(
    trainer: L.Trainer,
    model: DistillationModule,
    data: LabelledDataModule,
    batches: int | None,
    stddev_batches: int | None = None,
    student_checkpoint: str | None = None,
    config: Mapping[str, Any] | None = None,
) -> Report:
    """Measure everything that :func:`audit` reports; see there for the arguments."""
    student = None
    if student_checkpoint is not None:
        weights = load_weights(student_checkpoint, "student_checkpoint")
        put_weights(model.student, weights, student_checkpoint, "student_checkpoint")
        student = in_precision(trainer, model.student.eval())
    data.prepare_data()
    data.setup("fit")
    model.teacher.compile_args = None  # compiling takes longer than the few forward passes
    known = facts_from(data)
    model.teacher.prepare(known.class_names, known.image_input, known.example, known.vocabulary)
    move_to_device(trainer, model)
    device, teacher = trainer.strategy.root_device, in_precision(trainer, model.teacher)
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    # What the config's revision would do, or one with the default arguments.
    revision = next((c for c in callbacks if isinstance(c, LabelRevisionCallback)), None) or LabelRevisionCallback()

    def revise(soft_labels: Tensor, mix: LabelMix, temperature: float) -> Tensor:
        return revise_soft_labels(soft_labels, mix, revision.eta, revision.which, temperature, revision.space)

    def progress(title: str) -> Callable[[Iterable[int]], Iterable[int]]:
        return lambda numbers: with_progress_bar(trainer, numbers, title)

    stddevs = []
    if stddev_batches is not None:
        if not isinstance(data, MixingDataModule):
            raise InputError(
                f"stddev_batches: expected pictures to augment, of a MixingDataModule, got {type(data).__name__}"
            )
        with torch.no_grad():
            stddevs = measure_stddev(data, stddev_batches, teacher, student, device, progress("T. stddev"))
    space, strength, role = configured_correction(callbacks)
    mixing = "clean" if data.mixing.kind == "none" else data.mixing.kind
    inner = next((c for c in callbacks if isinstance(c, InnerMixingCallback)), None)
    with nullcontext() if inner is None else inner.asking(data, model.teacher):
        rectangles = takes_rectangles(data)
        configured = Configured(mixing, data.mixing.probability, space, strength, role, model.temperature, rectangles)
        stored = model.answers.reader(data.pictures, str(trainer.precision))
        look = MostChanged(configured.mixed, space, model.temperature, data.class_names, known.shown)
        how: dict[str, Any] = {"progress": progress("Auditing"), "stored": stored, "look": look}
        how |= {} if inner is None else {"inside": inner.mixing}
        tables = measure(data, batches, model.temperature, teacher, device, revise, **how)
    selection = _selection(trainer, model, data)
    mixed = [name for name in tables if name not in ("clean", "validation")]
    source = model.teacher.source
    facts = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "teacher": {
            "network": source if isinstance(source, str) else type(source).__name__,
            "checkpoint": model.teacher.checkpoint,
            "fingerprint": model.teacher.fingerprint,
        },
        "data": {
            "module": type(data).__name__,
            "unit": data.unit,
            "classes": data.num_classes,
            "batch_size": data.batch_size,
            "rows": len(tables["clean"].labels) + tables["clean"].nonfinite,
            "nonfinite_rows": {name: rows.nonfinite for name, rows in tables.items()},
        },
        "seed": {"data": data.seed, "everything": os.environ.get("PL_GLOBAL_SEED")},
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "precision": str(trainer.precision),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}},
        "revision": {"eta": revision.eta, "which": revision.which, "space": revision.space},
        "selection": selection,
        "not_measured": [*methods_not_measured(callbacks, selection), *of_teacher_not_measured(model)],
        "config": config,
    }
    return Report(
        facts,
        configured,
        [measurement for name, rows in tables.items() for measurement in summarise(name, rows)],
        {name: worst_pairs(tables[name], configured.moved, data.class_names) for name in mixed},
        stddevs,
        look.examples,
    )


def _selection(trainer: L.Trainer, model: DistillationModule, data: LabelledDataModule) -> dict[str, Any] | None:
    """Measure what the config's data selection would choose of the training images, unmixed and not augmented."""
    callbacks = trainer.callbacks  # type: ignore[attr-defined]
    selection = next((c for c in callbacks if isinstance(c, DataSelectionCallback)), None)
    if selection is None or "train" not in data.splits:
        return None
    about = {"score": selection.score, "fraction": selection.fraction, "network": selection.influence.network}
    if selection.score == "influence" and selection.influence.network == "student":
        return about  # there is no trained student
    scores = selection.scores(trainer, model, data)
    trusted = trusted_rows(scores, selection.fraction)
    wrong = DataSelectionCallback("violation", folder=selection.folder).scores(trainer, model, data) < 0

    def share(of: Tensor, rows: Tensor | None = None) -> float | None:
        chosen = of if rows is None else of[rows]
        return float(chosen.double().mean()) if len(chosen) else None

    return {
        **about,
        "teacher_wrong": share(wrong),
        "positive_scores": share(scores > 0),
        "trusted": share(trusted),
        "trusted_where_right": share(trusted, ~wrong),
        "trusted_where_wrong": share(trusted, wrong),
    }


def write_files(report: Report, verdict: Verdict, folder: Path) -> None:
    """Write ``audit.json``, ``audit.csv``, ``audit.png`` and ``audit.html`` as one result, with its mark in each."""
    run = run_id({key: value for key, value in report.facts.items() if key != "date"}, report.csv(""), verdict.code)
    picture = as_png(draw(report, verdict), run)
    files: dict[str, str | bytes] = {
        "audit.json": report.json(run=run, verdict=verdict._asdict()),
        "audit.csv": report.csv(run),
        "audit.png": picture,
        "audit.html": write_page(report, verdict, picture, run),
    }
    write_result(folder, files, files)


def message(report: Report, verdict: Verdict, folder: Path) -> str:
    """Return what :func:`audit` prints: verdict, reasons, thresholds, T. stddev, and where the files are."""
    agreement = agreement_with_paper(report.stddevs) if report.stddevs else None
    values = {"report": report, "verdict": verdict, "folder": folder, "agreement": agreement}
    values["solver"] = describe_trials()
    return render(Path(__file__).with_name("message.txt.j2"), **values).rstrip()
