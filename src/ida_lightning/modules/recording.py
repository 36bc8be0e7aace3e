"""Asks a teacher about the batches of a fit and stores what it says; no student, no optimiser."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import lightning as L
import torch
from torch import Tensor, nn

from ida_lightning.data_facts import facts_of
from ida_lightning.errors import InputError
from ida_lightning.inputs import Inputs
from ida_lightning.lightning_internals import attached_trainer
from ida_lightning.mixing import MixedBatch
from ida_lightning.modules.distillation import DistillationModule
from ida_lightning.modules.evaluation import EvaluatedModule


class TeacherRecorder(EvaluatedModule):
    """Takes the place of a :class:`DistillationModule` in a fit that only stores the teacher's answers.

    Epochs that are stored already cost one batch each, batches that are stored no forward pass; so a recording that
    was stopped goes on when it is started again. Validation is the teacher's.

    Args:
        module: whose teacher is asked; its student is not used.

    Raises:
        InputError: if the module stores no answers.
    """

    owner = "teacher"

    def __init__(self, module: DistillationModule) -> None:
        super().__init__(module.num_classes)
        options = module.answers.options
        if options is None:
            raise InputError(
                "teacher_outputs: expected a folder for the answers, --model.teacher_outputs.folder, got none"
            )
        if options.mode == "replay":  # what the students of these answers will be told
            module.answers.options = replace(options, mode="auto")
        self.automatic_optimization = False
        self.answers = module.answers
        self.layout = module.optimisation.layout
        self.nothing = nn.Parameter(torch.zeros(()))  # DDP takes no module without parameters

    @property
    def network(self) -> nn.Module:
        """The teacher."""
        return cast(nn.Module, self.answers.teacher.network)

    def forward(self, inputs: Inputs) -> Tensor:
        """Return the teacher's logits ``(batch, classes)``, of inputs as the student sees them."""
        return self.answers.teacher(inputs)

    def setup(self, stage: str) -> None:
        """Build the teacher; for a fit, open the folder, too: only then is it known how the rows are mixed."""
        trainer = attached_trainer(self)
        if stage != "fit":
            facts = facts_of(trainer)
            self.answers.teacher.prepare(facts.class_names, facts.image_input, facts.example)
            return
        on_cuda = trainer is not None and trainer.strategy.root_device.type == "cuda"
        chosen = self.layout in ("auto", "trial")
        self.answers.open(trainer, on_cuda if chosen else self.layout == "channels_last", chosen)

    def configure_optimizers(self) -> None:
        """Give no optimiser: nothing is trained."""

    def configure_callbacks(self) -> list[L.Callback]:
        """Add what stores the answers."""
        return [self.answers]

    def on_train_batch_start(self, batch: MixedBatch, batch_idx: int) -> int | None:
        """Skip the epoch if its answers are there: Lightning takes -1 for that."""
        return -1 if batch_idx == 0 and self.answers.holds_epoch(self.trainer, batch) else None

    def training_step(self, batch: MixedBatch, batch_idx: int) -> None:
        """Ask the teacher about one batch."""
        self.answers(self.take_batch(batch), batch_idx)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        self.answers.teacher.move(fn)
        return super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
