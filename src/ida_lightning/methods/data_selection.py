"""Data selection (DS): the teacher teaches only the images where that is worth following."""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Sized
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ida_lightning.checks import path_like, whole_numbers
from ida_lightning.data_facts import data_fingerprint, facts_from, facts_of
from ida_lightning.errors import InputError, at_least, is_a, one_of, positive, share
from ida_lightning.lightning_internals import attached_datamodule, forward_precision, to_precision, with_progress_bar
from ida_lightning.methods.base import SupervisionMethod
from ida_lightning.models import fingerprint
from ida_lightning.modules import DistillationModule
from ida_lightning.revision_selection.heads import capture_head_input, classifier_head, head_input
from ida_lightning.revision_selection.selection import (
    HeadBatch,
    HeadBatches,
    Score,
    influence_scores,
    read_scores,
    scores_file,
    teach_trusted_rows,
    teacher_scores,
    trusted_rows,
    write_scores,
)
from ida_lightning.supervision import Supervision


@dataclass(frozen=True)
class Influence:
    """How the influence of training images on the validation loss is computed.

    Args:
        network: whose head it is computed for: ``"teacher"``, a head that the ground truth has trained and that is
            known before the first step, or ``"student"``, as it is at the named epochs.
        damping: of the Hessian, as a share of the mean of its diagonal.
        hessian_rows: training images, spread evenly, that the Hessian is made of; their features and logits are kept in
            memory, in float64, while the scores are computed.

    Raises:
        InputError: for values out of range.
    """

    network: Literal["teacher", "student"] = "teacher"
    damping: float = 0.1
    hessian_rows: int = 10_000

    def __post_init__(self) -> None:
        one_of("network", self.network, ("teacher", "student"))
        positive("damping", self.damping)
        at_least("hessian_rows", self.hessian_rows, 1)


class DataSelectionCallback(SupervisionMethod):
    """Lets the teacher teach the training images with the highest scores, and the ground truth alone the others.

    A row that is not chosen gets ``soft_weight`` 0, and what it had goes over to its ``hard_weight``. A mixed row goes
    by its own image, the one that ``Supervision.index`` names, not by its partners. Behind
    :class:`TeacherLabelCallback` a mixed row that is not chosen has its hard label again; before it, it is left out.

    Scores are those of the unmixed, unaugmented images, computed by one process before the first step of a named epoch
    and sent to the others. They are kept in ``folder``, in a file whose name holds the digest of all that they depend
    on (data, teacher, definition), where other runs find them; which rows are trusted is in the checkpoint too, so that
    a resumed run goes on with the same. Logs ``train/trusted_rate``, the share of the training rows that were chosen.

    The paper's definition of influence, its model, the sign and the share could not be had. Ours, from first
    principles: the fall of the validation loss per unit of weight that an image moves from cross-entropy to
    distillation, to the first order, for the linear head of a network whose features stay as they are, with its exact
    Hessian, damped. See :func:`ida_lightning.revision_selection.influence.influence`.

    Args:
        score: ``"influence"``; ``"random"`` (the control: drawn from the data module's seed); ``"teacher_loss"`` and
            ``"violation"``, which choose images that the teacher gets right, see
            :func:`ida_lightning.revision_selection.selection.teacher_scores`.
        fraction: share of the training images that the teacher teaches, from 0 to 1.
        epochs: from which epochs on there is a new choice, the first one 0 for before training; before the first of
            them the teacher teaches everything.
        transfer: share of an unchosen row's soft weight that goes over to its hard weight, from 0 to 1.
        influence: how influence is computed; None is :class:`Influence` with its defaults.
        folder: of the files with the scores.
        name: see :class:`~ida_lightning.methods.base.Method`.

    Raises:
        InputError: for values out of range; when fitting starts for a module that is no DistillationModule, a data
            module without splits (see :class:`ida_lightning.data.MixingDataModule`), and a network whose logits are
            not made by a linear layer.

    Example:
        >>> from lightning import Trainer
        >>> trainer = Trainer(callbacks=[DataSelectionCallback("influence", fraction=0.5)], logger=False)

    References:
        Lan et al., Improve Knowledge Distillation via Label Revision and Data Selection, arXiv 2404.03693.
    """

    prefix = ""

    def __init__(
        self,
        score: Score = "influence",
        fraction: float = 0.5,
        epochs: tuple[int, ...] = (0,),
        transfer: float = 1.0,
        influence: Influence | None = None,
        folder: str | Path = "outputs/selection",
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        self.score: Score = one_of("score", score, get_args(Score))
        self.fraction = share("fraction", fraction)
        self.epochs = tuple(whole_numbers("epochs", epochs, 0, fewest=1))
        self.transfer = share("transfer", transfer)
        self.influence = Influence() if influence is None else is_a("influence", influence, Influence)
        self.folder = path_like("folder", folder)
        if len(epochs) > 1 and not (
            score == "random" or (score == "influence" and self.influence.network == "student")
        ):
            raise InputError(f"epochs: expected one, as these scores never change, got {list(epochs)}")
        if score != "influence" and influence is not None:
            raise InputError(f"influence: expected nothing with score {score}, got {influence}")
        self._trusted: Tensor | None = None
        self._chosen_for: int | None = None  # epoch

    @property
    def needs_teacher(self) -> bool:  # type: ignore[override]
        """Whether scores are made from the teacher's answers to unmixed images."""
        return self.score != "random"

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Register with the module; a new fit chooses anew."""
        super().setup(trainer, pl_module, stage)
        if stage != "fit":
            return
        self._trusted = self._chosen_for = None
        if not isinstance(pl_module, DistillationModule):
            raise InputError(f"{self}: expected a DistillationModule, got {type(pl_module).__name__}")
        facts = facts_of(trainer)
        if facts.splits is None or facts.normalise is None:
            data = attached_datamodule(trainer)
            raise InputError(f"{self}: expected a MixingDataModule, got {type(data).__name__}")
        if not isinstance(facts.splits.get("train"), Sized):
            raise InputError(f"{self}: expected training images that can be asked for by number, got a stream")

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Choose the trusted rows, also where a run goes on in the middle of an epoch."""
        self._choose(trainer, pl_module)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Choose anew at the named epochs."""
        self._choose(trainer, pl_module)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep the choice beside the sums."""
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        if self._trusted is not None:
            chosen = {"trusted": self._trusted.cpu(), "epoch": self._chosen_for, "score": self.score}
            checkpoint[f"{self.name}_chosen"] = {**chosen, "fraction": self.fraction}

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Go on with the choice, if it is one of the kind asked for."""
        super().on_load_checkpoint(trainer, pl_module, checkpoint)
        chosen = checkpoint.get(f"{self.name}_chosen", {})
        if (chosen.get("score"), chosen.get("fraction")) == (self.score, self.fraction):
            self._trusted = chosen["trusted"].to(trainer.strategy.root_device)
            self._chosen_for = chosen["epoch"]

    def _choose(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        due = max((epoch for epoch in self.epochs if epoch <= trainer.current_epoch), default=None)
        if due is None or due == self._chosen_for:
            return
        assert isinstance(module, DistillationModule)
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        if self.score == "influence":  # what is wrong here is wrong on every process; none may wait for the first
            classifier_head(self._network(module), module.num_classes)
        scores = self.scores(trainer, module, data, due) if trainer.is_global_zero else None
        scores = trainer.strategy.broadcast(scores)
        assert scores is not None
        self._trusted = trusted_rows(scores, self.fraction).to(trainer.strategy.root_device)
        self._chosen_for = due

    def transform(self, supervision: Supervision) -> Supervision:
        """Leave the rows that are not trusted to the ground truth."""
        if self._trusted is None:
            return supervision
        trusted = self._trusted[supervision.index]
        self.measure({"trusted_rate": trusted})
        return teach_trusted_rows(supervision, trusted, self.transfer)

    def scores(self, trainer: L.Trainer, module: DistillationModule, data: Any, epoch: int = 0) -> Tensor:
        """Read the scores of the training images from their file, or compute them; float32 ``(rows,)`` on the CPU.

        Args:
            trainer: whose device and precision are used.
            module: with a teacher that is ready.
            data: a MixingDataModule, set up.
            epoch: of the choice; scores that do not change do not depend on it.
        """
        about, rows = self._about(module, data, epoch), len(data.splits["train"])
        path = scores_file(self.folder, about)
        scores = read_scores(path, about, rows)
        if scores is not None:
            rank_zero_info(f"data selection: scores read from {path}")
            return scores
        if self.score == "random":
            scores = torch.from_numpy(np.random.default_rng((data.seed, epoch)).random(rows)).float()
        elif self.score == "influence":
            batches_of = self._head_batches(trainer, module, data)
            how = self.influence
            found = influence_scores(batches_of, rows, module.temperature, how.damping, how.hessian_rows)
            if found.residual > 1e-3:
                rank_zero_warn(f"influence: solved only to {found.residual:.1e}; a larger damping is solved sooner")
            scores = found.scores
        else:
            scores = teacher_scores(self.score, self._head_batches(trainer, module, data))
        write_scores(path, about, scores)
        rank_zero_info(f"data selection: scores written to {path}")
        return scores

    def _about(self, module: DistillationModule, data: Any, epoch: int) -> dict[str, Any]:
        """Return all that the scores depend on, as plain values."""
        about: dict[str, Any] = {"score": self.score, "train": data_fingerprint(data.splits["train"])}
        if self.score == "random":
            return {**about, "seed": data.seed, "epoch": epoch}
        about["teacher"] = module.teacher.fingerprint
        if (seen := facts_from(data).image_input) is not None:
            about |= {"mean": list(seen.mean), "std": list(seen.std)}
        if self.score == "influence":
            about |= {"val": data_fingerprint(data.splits["val"]), "temperature": module.temperature}
            about |= {"damping": self.influence.damping, "hessian_rows": self.influence.hessian_rows}
            about["network"] = "teacher" if self.influence.network == "teacher" else fingerprint(module.student)
        return about

    def _network(self, module: DistillationModule) -> nn.Module:
        if self.influence.network == "teacher" and len(module.teacher.members) > 1:
            raise InputError(
                f"influence.network: expected student with {len(module.teacher.members)} teachers, got teacher"
            )
        network = module.teacher.network if self.influence.network == "teacher" else module.student
        assert network is not None
        return network

    def _head_batches(self, trainer: L.Trainer, module: DistillationModule, data: Any) -> HeadBatches:
        device = trainer.strategy.root_device
        # Exact enough for conjugate gradients; MPS has no float64.
        dtype = torch.float32 if device.type == "mps" else torch.float64
        network = self._network(module) if self.score == "influence" else None
        head = None if network is None else classifier_head(network, module.num_classes)

        def batches_of(split: str, rows: Sequence[int] | None) -> Iterator[HeadBatch]:
            loader: DataLoader[Any] = DataLoader(
                data.splits[split],
                data.batch_size,
                sampler=rows,
                num_workers=data.num_workers,
                collate_fn=_as_fetched,
            )
            with ExitStack() as stack:
                stack.enter_context(torch.no_grad())
                given: list[Tensor] = []
                if network is not None and head is not None:
                    given = stack.enter_context(capture_head_input(network, head))
                for fetched in with_progress_bar(trainer, loader, f"Scoring ({split})"):
                    batch = data.transfer_batch_to_device(fetched, device, 0)
                    inputs = to_precision(trainer, data.normalise(batch.inputs))
                    given.clear()
                    with forward_precision(trainer):
                        teacher_logits = module.teacher(inputs)
                        other = self.influence.network == "student" and network is not None
                        logits = module(inputs).float() if other else teacher_logits
                    features = torch.zeros_like(logits[:, :0]) if head is None else head_input(head, given[-1], logits)
                    finite = torch.isfinite(teacher_logits).all(1) & torch.isfinite(logits).all(1)
                    teacher_logits, logits, features = (
                        torch.where(finite[:, None], part.to(dtype), 0) for part in (teacher_logits, logits, features)
                    )
                    yield HeadBatch(batch.label_mix.labels[:, 0], teacher_logits, logits, features, finite)

        return batches_of


def _as_fetched(batch: Any) -> Any:
    return batch
