"""What training a classifier and distilling one share, put together: evaluation, optimisation, guards."""

from __future__ import annotations

import inspect
from contextlib import nullcontext
from functools import partial
from typing import Any, cast

import lightning as L
import torch
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from ida_lightning.checkpoint_io import write_whole_checkpoints
from ida_lightning.data_facts import facts_of
from ida_lightning.errors import InputError, is_a, kind_of, positive
from ida_lightning.inputs import Inputs, is_picture
from ida_lightning.lightning_internals import (
    attached_trainer,
    configured_by_cli,
    forward_precision,
    logs_this_step,
    searches_learning_rate,
    shows_progress_bar,
    to_precision,
)
from ida_lightning.mixing import MixedBatch
from ida_lightning.models import Description, check_vocabulary, describe, try_network
from ida_lightning.models.description import KEY as DESCRIPTION_KEY
from ida_lightning.modules.described import with_run
from ida_lightning.modules.evaluation import EvaluatedModule, require_finite
from ida_lightning.modules.guards import FiniteRows, StepGuard
from ida_lightning.modules.layout import channels_last, wants_channels_last
from ida_lightning.modules.optimisation import make_optimizer, set_learning_rate
from ida_lightning.modules.options import Optimisation, OptimizerCallable
from ida_lightning.supervision import Supervision


class ClassifierBase(EvaluatedModule):
    """A module with one network that is trained, whatever teaches it.

    A subclass gives the property ``network``, the class attribute ``owner`` and ``training_step``, which calls
    :meth:`guard_step` with what led to the loss.

    Args:
        num_classes: width of the network's output.
        optimizer: from parameters to optimiser.
        optimisation: schedule, learning rate and compilation.

    Attributes:
        owner: whose metrics these are: the first part of their names.
        step_supervision: what the student is taught in the training step in progress; for the report of a loss that
            is NaN.
        finite_rows: counts the rows that a teacher spoils; None without a teacher.
        input_shape: of one image, for networks that are built or tried without data; None if unknown.
        run_config: the text of the ``config.yaml`` that the command line saves of this run; None from Python.
    """

    finite_rows: FiniteRows | None = None
    input_shape: tuple[int, ...] | None = None
    run_config: str | None = None

    def __init__(self, num_classes: int, optimizer: OptimizerCallable, optimisation: Optimisation) -> None:
        super().__init__(num_classes)
        self.optimisation = is_a("optimisation", optimisation, Optimisation)
        self.step_supervision: Supervision | None = None
        self._lr: float | None = None
        if not callable(optimizer):
            raise InputError(f"optimizer: expected a function from parameters to optimiser, got {kind_of(optimizer)}")
        self._make_optimizer = optimizer
        self._channels_last: bool | None = None

    @property
    def lr(self) -> float | None:
        """Learning rate that replaces that of the optimiser; None leaves it. Lightning's finder looks for this name."""
        return self._lr

    @lr.setter
    def lr(self, lr: float | None) -> None:
        self._lr = None if lr is None else positive("lr", lr)
        trainer = attached_trainer(self)
        if lr is not None and trainer is not None:  # the finder as a callback sets it when the fit has its optimiser
            for optimizer in trainer.optimizers:
                set_learning_rate(optimizer, lr)
            for config in trainer.lr_scheduler_configs:
                if isinstance(config.scheduler, LRScheduler):
                    groups = config.scheduler.optimizer.param_groups
                    config.scheduler.base_lrs = [group["initial_lr"] for group in groups]

    @property
    def compile_args(self) -> dict[str, Any] | None:
        """Arguments of ``torch.compile`` for training; None for eager."""
        return self.optimisation.compile_args

    def _save_plain_hyperparameters(self, plain: dict[str, Any], left_out: tuple[str, ...]) -> None:
        """Keep the init arguments that a checkpoint can hold without pickling code; called in ``__init__``.

        Args:
            plain: arguments to keep in place of those left out.
            left_out: names of arguments that may be objects.
        """
        frame = cast(Any, inspect.currentframe()).f_back
        if configured_by_cli():  # every argument is its plain config
            self.save_hyperparameters(frame=frame)
            return
        self.save_hyperparameters(ignore=[*left_out, *plain], frame=frame)  # with those of a subclass
        self.save_hyperparameters(plain)

    def setup(self, stage: str) -> None:
        """Compile for training, if asked to; in place, so the names in checkpoints stay as they are.

        Raises:
            InputError: for a strategy that splits the network.
        """
        trainer = attached_trainer(self)
        if trainer is not None:
            write_whole_checkpoints(trainer)
        if trainer is not None and isinstance(trainer.strategy, (FSDPStrategy, ModelParallelStrategy)):
            raise InputError(
                "strategy: expected one that keeps the whole network in every process, such as ddp, as guards, "
                f"checkpoints and exports read all of its weights, got {type(trainer.strategy).__name__}; a large "
                "teacher is shared out by teacher_strategy: shard"
            )
        self._try_network(trainer)
        if stage == "fit" and not any(parameter.requires_grad for parameter in self.trained_parameters()):
            raise InputError(f"{self.owner}: expected parameters to train, all of them are frozen or there are none")
        if stage == "fit" and self.compile_args is not None:
            try:
                torch.compile(nn.Identity(), **self.compile_args)  # tries the arguments, compiles nothing yet
            except Exception as error:
                reason = str(error).strip().splitlines() or [type(error).__name__]
                raise InputError(f"compile_args: expected those of torch.compile, got an error: {reason[0]}") from error
            self.network.compile(**self.compile_args)

    @property
    def channels_last(self) -> bool:
        """Whether this fit has the channels last in memory: chosen when it starts, or by the fit that it resumes."""
        if self._channels_last is None:
            trainer = attached_trainer(self)
            device = self.device if trainer is None else trainer.strategy.root_device
            autocast = nullcontext if trainer is None else partial(forward_precision, trainer)
            example = self.example(trainer)
            shape = tuple(example.shape[1:]) if is_picture(example) else None
            layout = self.optimisation.layout
            chosen = wants_channels_last(layout, self.network, shape, device, autocast)
            self._channels_last = chosen if trainer is None else trainer.strategy.broadcast(chosen)
        return self._channels_last

    def take_batch(self, batch: object, labelled: bool = True) -> MixedBatch:
        """Return a checked batch whose inputs lie in memory as the network wants them, once for all networks."""
        taken = super().take_batch(batch, labelled)
        return taken._replace(inputs=channels_last(taken.inputs)) if self._channels_last else taken

    def on_fit_start(self) -> None:
        """Lay the weights out; the parameters stay the same objects."""
        if self.channels_last:
            self.network.to(memory_format=torch.channels_last)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on with the layout of the fit that wrote the checkpoint."""
        super().on_load_checkpoint(checkpoint)
        self._channels_last = bool(checkpoint.get("channels_last", False))  # those before there was a choice had none

    def _try_network(self, trainer: L.Trainer | None) -> None:
        """Run the network once before anything is built around it, if it is known what it will see."""
        facts = facts_of(trainer)
        known = self.num_classes if facts.class_names is None else len(facts.class_names)
        if known > self.num_classes:
            raise InputError(f"num_classes: expected {known}, the classes of the data module, got {self.num_classes}")
        if known < self.num_classes:
            rank_zero_info(
                f"num_classes: the data module has {known} classes, {self.num_classes - known} outputs are none"
            )
        if facts.vocabulary is not None:
            check_vocabulary(self.network, facts.vocabulary, self.owner)
        example = self.example(trainer)
        if example is None:  # the first batch is the trial
            return
        weights = next((p.dtype for p in self.network.parameters() if p.is_floating_point()), torch.float32)
        images = torch.float32 if trainer is None else to_precision(trainer, torch.zeros(1)).dtype
        # A Trainer of true precision converts the weights after this, so float32 fits any.
        if weights not in (torch.float32, images):
            wanted = " or ".join(dict.fromkeys(str(dtype).removeprefix("torch.") for dtype in (torch.float32, images)))
            raise InputError(f"{self.owner}: expected weights in {wanted}, got {str(weights).removeprefix('torch.')}")
        try_network(self.network, example, self.num_classes, self.owner, weights)

    def example(self, trainer: L.Trainer | None = None) -> Inputs | None:
        """Return rows as the network will see them: of the data module, or blank pictures where there are no data.

        Args:
            trainer: of the run; None for a module of its own.

        Returns:
            None with the loaders or the data module of somebody else: nothing is fetched from those before its time.
        """
        if trainer is not None:
            return facts_of(trainer).example()
        return None if self.input_shape is None else torch.zeros(2, *self.input_shape)

    def trained_parameters(self) -> list[nn.Parameter]:
        """Return what the optimiser trains."""
        return list(self.network.parameters())

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Build the optimiser of the trained network and its schedule."""
        parameters = self.trained_parameters()
        return make_optimizer(parameters, self._make_optimizer, self.optimisation, self.trainer, self.owner, self.lr)

    def configure_callbacks(self) -> list[L.Callback]:
        """Add a :class:`StepGuard` to the Trainer, once."""
        return [] if self._is_guarded() else [StepGuard()]

    def _is_guarded(self) -> bool:
        return any(isinstance(callback, StepGuard) for callback in self.trainer.callbacks)  # type: ignore[attr-defined]

    def guard_step(self, supervision: Supervision | None = None) -> None:
        """Tell the guard what the student is taught in this step; called in ``training_step``.

        Args:
            supervision: for the report of a loss that is NaN.

        Raises:
            InputError: if a subclass's ``configure_callbacks`` has lost the guard.
        """
        if not self._is_guarded() and not searches_learning_rate(self.trainer):
            raise InputError(
                f"{type(self).__name__}.configure_callbacks: expected the callbacks of super().configure_callbacks() "
                "among its own, which stop a run whose loss is NaN, got none"
            )
        self.step_supervision = supervision

    def logs_loss(self) -> bool:
        """Say whether the loss of this step is logged: that costs about half a millisecond a value.

        That of an epoch's last step is, for callbacks that monitor it.
        """
        if self.trainer.barebones:
            return False
        return logs_this_step(self.trainer) or self.trainer.is_last_batch or shows_progress_bar(self.trainer)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Write what the network is, sees and answers beside the weights, so that who loads them can check it.

        Raises:
            InputError: for weights that are NaN or infinite, which replace no checkpoint.
        """
        require_finite(self.owner, self.network)
        checkpoint["channels_last"] = bool(self._channels_last)
        checkpoint[DESCRIPTION_KEY] = self.description().content()

    def description(self) -> Description:
        """Return what checkpoints and exported files say of the network and of the run that trained it."""
        described = describe(self.network, self.num_classes)
        return with_run(described, attached_trainer(self), self.run_config)
