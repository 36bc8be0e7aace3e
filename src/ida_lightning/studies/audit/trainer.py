"""A Trainer that looks at a teacher instead of training a student."""

from __future__ import annotations

import io
import os
import platform
import sys
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn

from ida_lightning.data import MixingDataModule
from ida_lightning.errors import InputError
from ida_lightning.files import replacing
from ida_lightning.label_mix import LabelMix
from ida_lightning.methods import (
    AddedTermCallback,
    AuthorsIsotonicCallback,
    DataSelectionCallback,
    IsotonicSoftLabelCallback,
    LabelRevisionCallback,
)
from ida_lightning.models import ImageInput, load_weights, put_weights
from ida_lightning.modules import DistillationModule
from ida_lightning.revision_selection.revision import revise_soft_labels
from ida_lightning.revision_selection.selection import trusted_rows
from ida_lightning.studies.audit.figure import draw
from ida_lightning.studies.audit.measure import Rows, audited_mixings, corrected_name, measure
from ida_lightning.studies.audit.page import write_page
from ida_lightning.studies.audit.report import Configured, Measurement, Report, summarise, worst_pairs
from ida_lightning.studies.audit.verdict import Verdict, judge
from ida_lightning.studies.stddev import agreement_with_paper, measure_stddev

_PACKAGES = ("ida-lightning", "torch", "lightning", "timm", "numpy")


class AuditTrainer(L.Trainer):
    """A Trainer with one more method: :meth:`audit`.

    Attributes:
        audited_config: goes into the report; the command line puts the whole config there.

    Example:
        >>> trainer = AuditTrainer(accelerator="cpu", logger=False)
        >>> trainer.audit(L.LightningModule(), L.LightningDataModule())
        Traceback (most recent call last):
        ...
        ida_lightning.errors.InputError: model: expected a DistillationModule, got LightningModule
    """

    audited_config: dict[str, Any] | None = None

    def audit(
        self,
        model: L.LightningModule,
        datamodule: L.LightningDataModule,
        batches: int | None = None,
        out: str = "outputs/audit",
        stddev_batches: int | None = None,
        student_checkpoint: str | None = None,
    ) -> tuple[Report, Verdict] | None:
        """Say whether the teacher breaks orders on mixed images, and what a correction would change. Trains nothing.

        The teacher sees training images of the run's first steps: clean, mixup, CutMix and half of each, augmented as
        in training. One process looks, on the Trainer's (first) device and in its precision. The student is not used.

        Args:
            model: a DistillationModule; its teacher is audited.
            datamodule: a MixingDataModule.
            batches: how many batches; none for about 10,000 images, or one epoch if that is shorter.
            out: the folder for audit.json, audit.csv, audit.png and audit.html.
            stddev_batches: also measure, on so many batches, T. stddev of the augmentations from identity to CutMixPick
                that Wang et al. (NeurIPS 2022) compare: which is good for distillation. They take 10 epochs of batches
                of 64; 10 batches are the least.
            student_checkpoint: for T. stddev, weights of the model's student: CutMixPick by its entropy, too.

        Returns:
            All numbers and the verdict; None on all processes but the first.

        Raises:
            InputError: for another kind of model or data, too few batches, and networks that cannot be used.
        """
        if not isinstance(model, DistillationModule):
            raise InputError(f"model: expected a DistillationModule, got {type(model).__name__}")
        if not isinstance(datamodule, MixingDataModule):
            raise InputError(f"data: expected a MixingDataModule, got {type(datamodule).__name__}")
        if batches is not None and batches < 1:
            raise InputError(f"batches: expected at least 1, got {batches}")
        if student_checkpoint is not None and stddev_batches is None:
            raise InputError("student_checkpoint: expected stddev_batches with it, nothing else asks a student")
        if self.global_rank > 0:
            return None
        if self.world_size > 1:
            rank_zero_info(f"audit: one process looks, the other {self.world_size - 1} are not needed")
        if student_checkpoint is not None:
            weights = load_weights(student_checkpoint, "student_checkpoint")
            put_weights(model.student, weights, student_checkpoint, "student_checkpoint")
        self._make_ready(model, datamodule)
        student = None if student_checkpoint is None else model.student.eval()
        stddevs = [] if stddev_batches is None else self._stddevs(model, datamodule, stddev_batches, student)
        rows = self._look(model, datamodule, batches)
        report = replace(self._report(model, datamodule, rows), stddevs=stddevs)
        verdict = judge(report)
        folder = Path(out)
        _write(report, verdict, folder)
        print(_message(report, verdict, folder))  # noqa: T201
        return report, verdict

    def _make_ready(self, model: DistillationModule, data: MixingDataModule) -> None:
        data.prepare_data()
        data.setup("fit")
        model.teacher.compile_args = None  # takes longer than looking
        seen = ImageInput(tuple(data.mean), tuple(data.std), int(data.image_size))
        model.teacher.prepare(list(data.class_names), seen)
        device = self.strategy.root_device
        self.accelerator.setup_device(device)
        self.precision_plugin.convert_module(model)
        model.to(device)

    def _look(self, model: DistillationModule, data: MixingDataModule, batches: int | None) -> dict[str, Rows]:
        device, teacher = self.strategy.root_device, self._precise(model.teacher)
        return measure(data, batches, model.temperature, teacher, device, self._revise, self._progress("Auditing"))

    def _stddevs(
        self, model: DistillationModule, data: MixingDataModule, batches: int, student: nn.Module | None
    ) -> list[Measurement]:
        networks = self._precise(model.teacher), None if student is None else self._precise(student)
        with torch.no_grad():
            return measure_stddev(data, batches, *networks, self.strategy.root_device, self._progress("T. stddev"))

    def _precise(self, network: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
        def answer(images: Tensor) -> Tensor:
            with self.precision_plugin.forward_context():
                return network(self.precision_plugin.convert_input(images))

        return answer

    def _revise(self, soft_labels: Tensor, mix: LabelMix, temperature: float) -> Tensor:
        revision = self._revision()
        return revise_soft_labels(soft_labels, mix, revision.eta, revision.which, temperature, revision.space)

    def _revision(self) -> LabelRevisionCallback:
        """The config's, or what one would be by default."""
        found = [callback for callback in self.callbacks if isinstance(callback, LabelRevisionCallback)]  # type: ignore[attr-defined]
        return found[0] if found else LabelRevisionCallback()

    def _selection(self, model: DistillationModule, data: MixingDataModule) -> dict[str, Any] | None:
        """What the config's data selection would choose of the training images, unmixed and not augmented."""
        found = [callback for callback in self.callbacks if isinstance(callback, DataSelectionCallback)]  # type: ignore[attr-defined]
        if not found:
            return None
        selection = found[0]
        about = {"score": selection.score, "fraction": selection.fraction, "network": selection.influence.network}
        if selection.score == "influence" and selection.influence.network == "student":
            return about  # nobody has trained one
        scores = selection.scores(self, model, data)
        trusted = trusted_rows(scores, selection.fraction)
        wrong = DataSelectionCallback("violation", folder=selection.folder).scores(self, model, data) < 0

        def share(of: Tensor, rows: Tensor) -> float | None:
            return float(of[rows].double().mean()) if rows.any() else None

        everything = torch.ones_like(wrong)
        return {
            **about,
            "teacher_wrong": share(wrong, everything),
            "positive_scores": share(scores > 0, everything),
            "trusted": share(trusted, everything),
            "trusted_where_right": share(trusted, ~wrong),
            "trusted_where_wrong": share(trusted, wrong),
        }

    def _progress(self, what: str) -> Callable[[Iterable[int]], Iterable[int]]:
        quiet = self.progress_bar_callback is None
        return lambda numbers: Tqdm(numbers, desc=what, unit="batch", disable=quiet, file=sys.stderr)

    def _report(self, model: DistillationModule, data: MixingDataModule, rows: dict[str, Rows]) -> Report:
        correction, role = configured_correction(self.callbacks)  # type: ignore[attr-defined]
        configured = Configured(
            "clean" if data.mixing.kind == "none" else data.mixing.kind,
            data.mixing.probability,
            "softened" if correction is None else correction.space,
            None if correction is None else correction.strength,
            role,
            model.temperature,
        )
        teacher, device = model.teacher, self.strategy.root_device
        source = teacher.source if isinstance(teacher.source, str) else type(teacher.source).__name__
        facts = {
            "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "teacher": {"network": source, "checkpoint": teacher.checkpoint, "fingerprint": teacher.fingerprint},
            "data": {
                "module": type(data).__name__,
                "classes": data.num_classes,
                "batch_size": data.batch_size,
                "rows": len(rows["clean"].labels) + rows["clean"].nonfinite,
                "nonfinite_rows": {name: found.nonfinite for name, found in rows.items()},
            },
            "seed": {"data": data.seed, "everything": os.environ.get("PL_GLOBAL_SEED")},
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
            "precision": str(self.precision),
            "versions": {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}},
            "revision": {name: getattr(self._revision(), name) for name in ("eta", "which", "space")},
            "selection": self._selection(model, data),
            "config": self.audited_config,
        }
        moved = corrected_name("moved_mass", configured.space, configured.temperature)
        audited = audited_mixings(data.mixing).keys() - {"clean"}
        return Report(
            facts,
            configured,
            [found for name, table in rows.items() for found in summarise(name, table)],
            {name: worst_pairs(table, moved, data.class_names) for name, table in rows.items() if name in audited},
        )


def configured_correction(callbacks: Iterable[L.Callback]) -> tuple[IsotonicSoftLabelCallback | None, str | None]:
    """Return the first isotonic correction of a list, and whether it replaces the soft label or adds a term."""
    for callback in callbacks:
        if isinstance(callback, IsotonicSoftLabelCallback):
            return callback, "replace"
        if isinstance(callback, AddedTermCallback) and isinstance(callback.method, IsotonicSoftLabelCallback):
            return callback.method, "add"
        if isinstance(callback, AuthorsIsotonicCallback):
            return IsotonicSoftLabelCallback(callback.solver, "logits"), "add"
    return None, None


def _write(report: Report, verdict: Verdict, folder: Path) -> None:
    picture = io.BytesIO()
    draw(report, verdict).savefig(picture, format="png", dpi=110, metadata={"Software": None})
    files = {
        "audit.json": report.json(verdict=verdict._asdict()).encode(),
        "audit.csv": report.csv().encode(),
        "audit.png": picture.getvalue(),
        "audit.html": write_page(report, verdict, picture.getvalue()).encode(),
    }
    for name, content in files.items():
        with replacing(folder / name) as unfinished:
            unfinished.write_bytes(content)


def _message(report: Report, verdict: Verdict, folder: Path) -> str:
    reasons, thresholds = (["- " + sentence for sentence in part] for part in (verdict.reasons, verdict.thresholds))
    files = f"Page: {folder / 'audit.html'}; picture: audit.png; numbers: audit.json and audit.csv beside it"
    table: list[str] = []
    if report.stddevs:
        title = (
            f"T. stddev (lower is better; Spearman with the paper's order: {agreement_with_paper(report.stddevs):.2f}):"
        )
        table = ["", title, *(f"{name:>20} {value:.5f}" for name, _, _, value, _ in report.stddevs)]
    return "\n".join(("", verdict.headline, "", *reasons, "", "Thresholds:", *thresholds, *table, "", files))
