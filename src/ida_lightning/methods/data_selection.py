"""Data selection (DS): the teacher teaches only the images where that is worth following."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, get_args

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks.progress.tqdm_progress import Tqdm
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ida_lightning.errors import InputError
from ida_lightning.methods.base import SupervisionCallback
from ida_lightning.models import eval_mode, fingerprint
from ida_lightning.modules import DistillationModule
from ida_lightning.revision_selection.selection import (
    Look,
    Looks,
    Score,
    classifier_head,
    data_fingerprint,
    head_input,
    influence_scores,
    read_scores,
    scores_file,
    teacher_scores,
    trusted_rows,
    write_scores,
)
from ida_lightning.supervision import Supervision


class DataSelectionCallback(SupervisionCallback):
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
        network: whose head is looked at for influence: ``"teacher"``, a head that the ground truth has trained and
            that is known before the first step, or ``"student"``, as it is at the named epochs.
        damping: of the Hessian, as a share of the mean of its diagonal.
        hessian_rows: training images, spread evenly, that the Hessian is made of; their features and logits are kept in
            memory, in float64, while the scores are computed.
        folder: of the files with the scores.

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

    def __init__(
        self,
        score: Score = "influence",
        fraction: float = 0.5,
        epochs: tuple[int, ...] = (0,),
        transfer: float = 1.0,
        network: Literal["teacher", "student"] = "teacher",
        damping: float = 0.1,
        hessian_rows: int = 10_000,
        folder: str = "outputs/selection",
    ) -> None:
        super().__init__()
        for name, value, choices in (("score", score, get_args(Score)), ("network", network, ("teacher", "student"))):
            if value not in choices:
                raise InputError(f"{name}: expected one of {', '.join(choices)}, got {value!r}")
        for name, share in (("fraction", fraction), ("transfer", transfer)):
            if not 0 <= share <= 1:
                raise InputError(f"{name}: expected a number from 0 to 1, got {share}")
        if not damping > 0:
            raise InputError(f"damping: expected a number > 0, got {damping}")
        if hessian_rows < 1:
            raise InputError(f"hessian_rows: expected at least 1, got {hessian_rows}")
        if not epochs or min(epochs) < 0:
            raise InputError(f"epochs: expected numbers >= 0, got {list(epochs)}")
        changes = score == "random" or (score == "influence" and network == "student")
        if len(epochs) > 1 and not changes:
            raise InputError(f"epochs: expected one, as these scores never change, got {list(epochs)}")
        self.score = score
        self.fraction = fraction
        self.epochs = tuple(epochs)
        self.transfer = transfer
        self.network = network
        self.damping = damping
        self.hessian_rows = hessian_rows
        self.folder = folder
        self._trusted: Tensor | None = None
        self._chosen_for: int | None = None  # epoch

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Join the module's supervision; a new fit chooses anew."""
        super().setup(trainer, pl_module, stage)
        if stage != "fit":
            return
        self._trusted = self._chosen_for = None
        if not isinstance(pl_module, DistillationModule):
            raise InputError(f"DataSelectionCallback: expected a DistillationModule, got {type(pl_module).__name__}")
        data: Any = getattr(trainer, "datamodule", None)
        if not hasattr(data, "splits") or not hasattr(data, "normalise"):
            raise InputError(f"DataSelectionCallback: expected a MixingDataModule, got {type(data).__name__}")

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Choose, also where a run goes on in the middle of an epoch."""
        self._choose(trainer, pl_module)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Choose anew at the named epochs."""
        self._choose(trainer, pl_module)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep the choice beside the sums."""
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        if self._trusted is not None:
            chosen = {"trusted": self._trusted.cpu(), "epoch": self._chosen_for, "score": self.score}
            checkpoint["DataSelectionCallback_chosen"] = {**chosen, "fraction": self.fraction}

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Go on with the choice, if it is one of the kind asked for."""
        super().on_load_checkpoint(trainer, pl_module, checkpoint)
        chosen = checkpoint.get("DataSelectionCallback_chosen", {})
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

    def _teach(self, supervision: Supervision) -> Supervision:
        if self._trusted is None:
            return supervision
        trusted, soft = self._trusted[supervision.index], supervision.soft_weight
        self._measure({"trusted_rate": trusted})
        hard = supervision.hard_weight + self.transfer * soft * ~trusted
        return supervision._replace(soft_weight=soft * trusted, hard_weight=hard)

    def scores(self, trainer: L.Trainer, module: DistillationModule, data: Any, epoch: int = 0) -> Tensor:
        """The scores of the training images, float32 ``(rows,)`` on the CPU: read from their file, or computed.

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
            looks = self._looks(trainer, module, data)
            found = influence_scores(looks, rows, module.temperature, self.damping, self.hessian_rows)
            if found.residual > 1e-3:
                rank_zero_warn(f"influence: solved only to {found.residual:.1e}; a larger damping is solved sooner")
            scores = found.scores
        else:
            scores = teacher_scores(self.score, self._looks(trainer, module, data))
        write_scores(path, about, scores)
        rank_zero_info(f"data selection: scores written to {path}")
        return scores

    def _about(self, module: DistillationModule, data: Any, epoch: int) -> dict[str, Any]:
        """All that the scores depend on, as plain values."""
        about: dict[str, Any] = {"score": self.score, "train": data_fingerprint(data.splits["train"])}
        if self.score == "random":
            return {**about, "seed": data.seed, "epoch": epoch}
        about |= {"teacher": module.teacher.fingerprint, "mean": list(data.mean), "std": list(data.std)}
        if self.score == "influence":
            about |= {"val": data_fingerprint(data.splits["val"]), "temperature": module.temperature}
            about |= {"damping": self.damping, "hessian_rows": self.hessian_rows}
            about["network"] = "teacher" if self.network == "teacher" else fingerprint(module.student)
        return about

    def _network(self, module: DistillationModule) -> nn.Module:
        network = module.teacher.network if self.network == "teacher" else module.student
        assert network is not None
        return network

    def _looks(self, trainer: L.Trainer, module: DistillationModule, data: Any) -> Looks:
        device = trainer.strategy.root_device
        # Exact enough for conjugate gradients; MPS has no float64.
        dtype = torch.float32 if device.type == "mps" else torch.float64
        network = self._network(module) if self.score == "influence" else None
        head = None if network is None else classifier_head(network, module.num_classes)
        bar: Any = trainer.progress_bar_callback
        quiet = bar is None or not getattr(bar, "is_enabled", True)

        def progress(batches: Iterable[Any], split: str) -> Iterable[Any]:
            shown: Iterable[Any] = Tqdm(batches, f"Scoring ({split})", unit="batch", disable=quiet, file=sys.stderr)
            return shown

        def looks(split: str, rows: Sequence[int] | None) -> Iterator[Look]:
            loader: DataLoader[Any] = DataLoader(
                data.splits[split],
                data.batch_size,
                sampler=rows,
                num_workers=data.num_workers,
                collate_fn=_as_fetched,
            )
            with ExitStack() as stack:
                stack.enter_context(torch.no_grad())
                given = [] if network is None or head is None else stack.enter_context(_watching(network, head))
                for fetched in progress(loader, split):
                    batch = data.transfer_batch_to_device(fetched, device, 0)
                    images = trainer.precision_plugin.convert_input(data.normalise(batch.inputs))
                    given.clear()
                    with trainer.precision_plugin.forward_context():
                        teacher_logits = module.teacher(images)
                        other = self.network == "student" and network is not None
                        logits = module.student(images).float() if other else teacher_logits
                    features = torch.zeros_like(logits[:, :0]) if head is None else head_input(head, given[-1], logits)
                    finite = torch.isfinite(teacher_logits).all(1) & torch.isfinite(logits).all(1)
                    teacher_logits, logits, features = (
                        torch.where(finite[:, None], part.to(dtype), 0) for part in (teacher_logits, logits, features)
                    )
                    yield Look(batch.label_mix.labels[:, 0], teacher_logits, logits, features, finite)

        return looks


@contextmanager
def _watching(network: nn.Module, head: nn.Linear) -> Iterator[list[Tensor]]:
    """Inside, the network is in eval mode and eager, and what its head is given is appended to the list."""
    given: list[Tensor] = []
    # A hook inside a compiled graph would not be called.
    compiled, network._compiled_call_impl = network._compiled_call_impl, None
    handle = head.register_forward_pre_hook(lambda module, args: given.append(args[0]))
    try:
        with eval_mode(network):
            yield given
    finally:
        handle.remove()
        network._compiled_call_impl = compiled


def _as_fetched(batch: Any) -> Any:
    return batch
