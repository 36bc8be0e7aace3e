"""Mixing of rows inside the networks, in the place of mixed inputs (manifold mixup; embeddings of text)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import lightning as L
import numpy as np
import torch
from lightning.pytorch.callbacks import LearningRateFinder
from torch import Tensor, nn

from ida_lightning.data_facts import facts_from, facts_of
from ida_lightning.errors import InputError, kind_of
from ida_lightning.inputs import Inputs, rows_in
from ida_lightning.lightning_internals import attached_datamodule, epoch_in_progress
from ida_lightning.methods.base import Method
from ida_lightning.methods.feature_loss import FeatureLoss
from ida_lightning.mixing import InnerPlan, MixedBatch, mix_rows
from ida_lightning.models import check_vocabulary, converted, eval_mode, failure, find_layer, layer_names, run_network
from ida_lightning.modules.answers import TeacherAnswers
from ida_lightning.modules.asking import looks_at_plain
from ida_lightning.modules.base import ClassifierBase
from ida_lightning.modules.evaluation import EvaluatedModule
from ida_lightning.modules.teacher import FrozenTeacher
from ida_lightning.modules.teachers import FrozenTeachers

INPUTS = "inputs"
_LAYERS = 1905  # a stream of draws of its own


class InnerMixingCallback(Method):
    """Mixes the rows of a batch in a layer of each network instead of in the inputs, by the data module's own draws.

    Token ids cannot be mixed, their embeddings can; and pictures mixed in a hidden layer are manifold mixup. The data
    module draws partners and shares as ever (``mixing: {kind: mixup}``), mixes the labels and leaves the inputs;
    teacher and student apply the same plan, each to what its layer gives. Masks in the inputs (entries whose names
    end in ``mask``) are joined before the networks run, so that a mixed row shows what either of its rows shows.

    With several layers one is drawn for every batch, from the seed of the data, epoch, batch and process alone, and the
    teacher's is the one at the same place of its list. Validation and tests mix nothing, and what is exported is the
    network alone. Works with :class:`~ida_lightning.modules.ClassificationModule`, too.

    Args:
        layers: one or more layers of the network that is trained, as its ``named_modules`` calls them; ``"inputs"`` is
            what the network is given, where that is a tensor.
        teacher_layers: as many of the teacher; None takes those of the same names.
        name: see :class:`~ida_lightning.methods.base.Method`.

    Raises:
        InputError: for something else than names; when a fit starts, for layers that are not there (the nearest are
            named), that a pass does not run through exactly once, or that give something else than one floating point
            tensor with the rows of the batch, for data without ``mixing: {kind: mixup}`` or with a pool, and for other
            data modules than those of this package.

    Example:
        >>> from lightning import Trainer
        >>> trainer = Trainer(callbacks=[InnerMixingCallback(["inputs", "layer1", "layer2"])], logger=False)

        In YAML, for networks whose embeddings have different names::

            callbacks:
              - class_path: InnerMixingCallback
                init_args: {layers: distilbert.embeddings, teacher_layers: bert.embeddings}

    References:
        Verma et al., ICML 2019, arXiv 1806.05236 (manifold mixup); Guo et al. 2019, arXiv 1905.08941 (text).
    """

    def __init__(
        self, layers: str | list[str], teacher_layers: str | list[str] | None = None, name: str | None = None
    ) -> None:
        super().__init__(name)
        self.layers = layer_names("layers", layers)
        self.teacher_layers = self.layers if teacher_layers is None else layer_names("teacher_layers", teacher_layers)
        if len(self.teacher_layers) != len(self.layers):
            raise InputError(
                f"teacher_layers: expected as many as layers, {len(self.layers)}, got {len(self.teacher_layers)}"
            )
        self._points: list[tuple[int, _MixingPoint]] = []
        self._data: Any = None

    def register(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Have the data module send plans, and watch the layers of the network that is trained."""
        if not isinstance(module, EvaluatedModule):
            raise InputError(f"{self}: expected a module of this package, got {type(module).__name__}")
        if _answers_of(module) is None and self.teacher_layers != self.layers:
            raise InputError(f"teacher_layers: expected a module with a teacher, got {type(module).__name__}")
        if any(isinstance(callback, LearningRateFinder) for callback in trainer.callbacks):  # type: ignore[attr-defined]
            raise InputError(f"LearningRateFinder: expected none with {self}, which its trial steps leave out")
        self._plan_inside(attached_datamodule(trainer))
        if isinstance(module, ClassifierBase):
            facts = facts_of(trainer)
            if facts.vocabulary is not None:  # before a trial that a number without a row would end
                check_vocabulary(module.network, facts.vocabulary, module.owner)
            self._watch(module.owner, module.network, module.network, facts.example())

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Watch the layers of the teacher, which is built now, unless it looks at unmixed inputs or is not needed."""
        answers = _answers_of(pl_module)
        if answers is None:
            return
        if not looks_at_plain(answers.view):
            self._watch_teacher(answers.teacher, facts_of(trainer).example())
        elif features := [one for one in trainer.callbacks if isinstance(one, FeatureLoss)]:  # type: ignore[attr-defined]
            raise InputError(
                f"teacher_view: expected mixed with {self} and {features[0]}, whose features would be unmixed, got "
                f"{answers.view}"
            )

    @contextmanager
    def asking(self, data: Any, teacher: FrozenTeacher | FrozenTeachers) -> Iterator[None]:
        """Have a data module send plans and a teacher that is built mix inside, without a fit; see :meth:`mixing`."""
        try:
            self._plan_inside(data)
            self._watch_teacher(teacher, facts_from(data).example())
            yield
        finally:
            self._let_go()

    def _plan_inside(self, data: Any) -> None:
        """Have a data module send the plans of unmixed batches."""
        kind = "loaders" if data is None else type(data).__name__
        if facts_from(data).inner_layers is None:
            raise InputError(f"{self}: expected a LabelledDataModule, whose batches know their plan, got {kind}")
        if data.mixing.kind != "mixup":
            raise InputError(f"mixing.kind: expected mixup with {self}, got {data.mixing.kind}")
        if data.pool:
            raise InputError(f"pool: expected 0 with {self}, whose rows are mixed inside, got {data.pool}")
        self._data, data.inner_layers = data, self.teacher_layers

    def _watch_teacher(self, teacher: FrozenTeacher | FrozenTeachers, example: Inputs | None) -> None:
        for member in teacher.members:
            if member.network is not None:
                compiled = member.compile_args is not None  # then the first batch is the trial
                self._watch("teacher", member.network, member, None if compiled else example)

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Have the layer of this batch mix."""
        self._set(batch, epoch_in_progress(trainer), batch_idx, trainer.global_rank)

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        """Have no layer mix."""
        self._clear()

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Remove the hooks, and let the data module mix inputs again."""
        super().teardown(trainer, pl_module, stage)
        self._let_go()

    @contextmanager
    def mixing(self, batch: MixedBatch, epoch: int, number: int) -> Iterator[None]:
        """Mix inside the block as in the step of a fit with this batch."""
        self._set(batch, epoch, number, rank=0)
        try:
            yield
        finally:
            self._clear()

    def _let_go(self) -> None:
        while self._handles:
            self._handles.pop().remove()
        self._clear()
        self._points.clear()
        if self._data is not None:
            self._data.inner_layers, self._data = (), None

    def _set(self, batch: Any, epoch: int, number: int, rank: int) -> None:
        """Give the plan of a batch to the layer that is drawn for it."""
        plan = batch.inner[0] if isinstance(batch, MixedBatch) and batch.inner else None
        chosen = 0
        if len(self.layers) > 1:
            epoch %= self._data.cycle or epoch + 1
            draws = np.random.default_rng((self._data.seed, epoch, number, rank, _LAYERS))
            chosen = int(draws.integers(len(self.layers)))
        for place, point in self._points:
            point.plan = plan if place == chosen else None

    def _clear(self) -> None:
        for _, point in self._points:
            point.plan = None

    def _watch(self, owner: str, network: nn.Module, call: Callable[..., Any], example: Inputs | None) -> None:
        """Register with the layers of a network, and run it on a few rows with each of them mixing.

        Args:
            owner: whose network it is.
            network: that has the layers.
            call: runs it.
            example: rows to try it on; None leaves the trial to the first batch.
        """
        argument, names = ("teacher_layers", self.teacher_layers) if owner == "teacher" else ("layers", self.layers)
        for place, name in enumerate(names):
            point = _MixingPoint(f"{argument}: {name}")
            if name == INPUTS and name not in dict(network.named_modules()):
                handle = network.register_forward_pre_hook(point.mix_inputs, with_kwargs=True)
            else:  # before the hooks of those who look at what the layer gives
                handle = find_layer(argument, owner, network, name).register_forward_hook(point, prepend=True)
            self._handles.append(handle)
            self._points.append((place, point))
            if example is not None:
                _try(owner, network, call, point, example)


def _answers_of(module: object) -> TeacherAnswers | None:
    """Return the answers of the teacher of a module; None for one that has no teacher."""
    answers = getattr(module, "answers", None)
    return answers if isinstance(answers, TeacherAnswers) else None


def _try(owner: str, network: nn.Module, call: Callable[..., Any], point: _MixingPoint, example: Inputs) -> None:
    """Run a network on a few rows; the layer of ``point``, which mixes them, must be met once."""
    like = next((p for p in network.parameters() if p.is_floating_point()), torch.zeros(1))
    inputs = converted(example, like.device, like.dtype)
    rows = rows_in(inputs)
    partner = torch.arange(rows, device=like.device).roll(1)[:, None]
    point.plan, point.met = InnerPlan(partner, torch.full((rows, 2), 0.5, device=like.device)), 0
    try:
        devices = [like.device] if like.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), eval_mode(network), torch.no_grad():
            run_network(call, inputs) if call is network else call(inputs)
    except InputError:
        raise
    except (RuntimeError, TypeError, AttributeError, ValueError, LookupError) as error:
        raise failure(owner, inputs, error) from error
    finally:
        point.plan = None
    if point.met != 1:
        raise InputError(f"{point.name}: expected a layer that a pass of the {owner} meets once, got {point.met} times")


class _MixingPoint:
    """Mixes what one layer gives, while it has a plan; a forward hook without state of the layer.

    Args:
        name: argument and layer, for messages.

    Attributes:
        plan: of the batch in progress; None leaves everything as it is.
        met: how often it has mixed.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.plan: InnerPlan | None = None
        self.met = 0

    def __deepcopy__(self, memo: dict[int, Any]) -> _MixingPoint:
        """Return one without a plan: copies of a network mix nothing."""
        return _MixingPoint(self.name)

    def __call__(self, layer: nn.Module, args: Any, output: Any) -> Any:
        """Return the output mixed, or None to leave it."""
        if self.plan is None:
            return None
        if not torch.compiler.is_compiling():
            self.met += 1
        return self._mixed(output, self.plan)

    def mix_inputs(self, network: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        """Return the network's arguments with the only one mixed, or None to leave them."""
        if self.plan is None:
            return None
        if named or len(args) != 1:
            raise InputError(f"{self.name}: expected inputs of one tensor, got {', '.join(named) or len(args)}")
        if not torch.compiler.is_compiling():
            self.met += 1
        return (self._mixed(args[0], self.plan),), named

    def _mixed(self, output: Any, plan: InnerPlan) -> Any:
        """Mix the only floating point tensor of an output: itself, or in a tuple beside what is none."""
        rows = len(plan.weight)
        if isinstance(output, (tuple, list)) and type(output) in (tuple, list):
            places = [i for i, part in enumerate(output) if isinstance(part, Tensor) and part.is_floating_point()]
            if len(places) == 1:
                (place,) = places
                mixed = self._mixed(output[place], plan)
                return type(output)((*output[:place], mixed, *output[place + 1 :]))
        if not isinstance(output, Tensor) or not output.is_floating_point() or not output.ndim or len(output) != rows:
            raise InputError(
                f"{self.name}: expected a layer that gives one floating point tensor ({rows}, ...), the rows of the "
                f"batch, got {kind_of(output)}"
            )
        return mix_rows(output, plan)
