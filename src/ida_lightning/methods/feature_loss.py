"""The public base of losses between features of student and teacher."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Protocol, cast, runtime_checkable

import lightning as L
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ida_lightning.data_facts import facts_of
from ida_lightning.errors import InputError, kind_of, non_negative
from ida_lightning.inputs import Inputs
from ida_lightning.lightning_internals import attached_datamodule
from ida_lightning.methods.base import LossMethod
from ida_lightning.models import converted, eval_mode, failure, find_layer, layer_names, run_network
from ida_lightning.modules.base import ClassifierBase
from ida_lightning.modules.distillation import DistillationModule
from ida_lightning.modules.options import built_for
from ida_lightning.modules.teacher import FrozenTeacher
from ida_lightning.modules.teachers import FrozenTeachers
from ida_lightning.revision_selection.heads import classifier_head
from ida_lightning.supervision import Supervision

PENULTIMATE = "penultimate"


@runtime_checkable
class _Pair(Protocol):
    """A module of a student and its teacher."""

    student: Any
    teacher: Any


class FeatureLoss(LossMethod):
    """Base of methods that compare features of the student with those of its teacher.

    A subclass defines :meth:`compare`, and :meth:`build_projector` if it trains something. When a fit starts, both
    networks are run once on two rows, so that projectors have the shapes that are seen; they are trained, moved,
    saved and averaged with the student, and exports leave them out. Features are caught by hooks that end with the fit.
    The teacher's are those of the pass that made the soft labels; where its answers are stored, or it looks at unmixed
    images, it is asked about the student's inputs for its features; of several teachers it is the first. Rows with a
    ``soft_weight`` of 0 have no loss.

    Args:
        student_layers: one or more layers of the student, as its ``named_modules`` or timm's ``feature_info`` call
            them; ``"penultimate"`` is what its last linear layer is given.
        teacher_layers: as many of the teacher.
        weight: of the term, >= 0.
        name: see :class:`~ida_lightning.methods.base.Method`.

    Raises:
        InputError: for something else than names; when a fit starts, for layers that are not there (the nearest are
            named), shapes that cannot be compared, a module without ``student`` and ``teacher``, and compiled networks,
            whose layers cannot be looked at.

    Example:
        >>> class Means(FeatureLoss):
        ...     def compare(self, student, teacher, supervision):
        ...         return (student[0].flatten(1).mean(1) - teacher[0].flatten(1).mean(1)).square()
        >>> Means("layer3", "layer4").term_name
        'Means'
    """

    needs_teacher = True

    def __init__(
        self,
        student_layers: str | list[str] = PENULTIMATE,
        teacher_layers: str | list[str] = PENULTIMATE,
        weight: float = 1.0,
        name: str | None = None,
    ) -> None:
        super().__init__(name)
        self.student_layers = layer_names("student_layers", student_layers)
        self.teacher_layers = layer_names("teacher_layers", teacher_layers)
        if len(self.student_layers) != len(self.teacher_layers):
            raise InputError(
                f"teacher_layers: expected as many as student_layers, {len(self.student_layers)}, got "
                f"{len(self.teacher_layers)}"
            )
        self.weight = non_negative("weight", weight)
        self.projector = nn.ModuleDict()
        self._student: dict[str, Tensor] = {}
        self._teacher: dict[str, Tensor] = {}
        self._ask: Callable[[Any], Any] | None = None
        self._reuses = True

    @abstractmethod
    def compare(self, student: list[Tensor], teacher: list[Tensor], supervision: Supervision) -> Tensor:
        """Compute one loss per row, ``(batch,)``, from the features of each layer, in float32; outside autocast."""

    def build_projector(self, student: list[Tensor], teacher: list[Tensor]) -> Mapping[str, nn.Module]:
        """Build what is trained, by name, for features of these shapes (of two rows); nothing by default.

        Raises:
            InputError: for shapes that cannot be compared.
        """
        return {}

    def build_network(self, module: L.LightningModule) -> nn.Module | None:
        """Run student and teacher once on two rows, and build projectors for what they give."""
        student, teacher = _student_of(self, module), _stand_in(self, module)
        facts = facts_of(module.trainer)
        if facts.splits == {} and facts.input_shape is None:  # only the data themselves can tell, and it is early
            cast(L.LightningDataModule, attached_datamodule(module.trainer)).setup("fit")
            facts = facts_of(module.trainer)
        example = facts.example()
        if example is None and isinstance(module, ClassifierBase):
            example = module.example()
        if example is None:
            raise InputError(f"{self}: expected a data module that says what its inputs are, got none that does")
        given = self._tried("student", student, example), self._tried("teacher", teacher, example)
        self.projector = nn.ModuleDict(dict(self.build_projector(*given)))
        return self.projector

    def _tried(self, owner: str, network: nn.Module, example: Inputs) -> list[Tensor]:
        """Return the features of a few rows."""
        like = next(network.parameters(), torch.zeros(1))
        caught: dict[str, Tensor] = {}
        handles = self._watch(owner, network, caught)
        try:
            devices = [like.device] if like.device.type == "cuda" else []
            with torch.random.fork_rng(devices=devices), eval_mode(network), torch.no_grad():
                run_network(network, converted(example, like.device, like.dtype))
        except (RuntimeError, TypeError) as error:
            raise failure(owner, example, error) from error
        finally:
            for handle in handles:
                handle.remove()
        return [feature.float() for feature in self._in_order(caught, owner)]

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Begin to catch features, now that the teacher is built."""
        module: Any = pl_module
        teacher = module.teacher if isinstance(module.teacher, nn.Module) else module.teacher.members[0]
        network = teacher if isinstance(teacher, nn.Module) else teacher.network
        self._handles += self._watch("student", module.student, self._student)
        self._handles += self._watch("teacher", network, self._teacher)
        # One that looks at other pictures than the student is asked again about these.
        self._reuses = not isinstance(module, DistillationModule) or module.answers.view == "mixed"
        self._ask = teacher

    def loss(self, student_logits: Tensor, supervision: Supervision) -> Tensor:
        """Compute the loss of every row that the teacher teaches."""
        student = self._in_order(self._student, "student")
        teacher = self._teacher_features(supervision)
        with torch.autocast(student_logits.device.type, enabled=False):
            rows = self.compare([f.float() for f in student], [f.float() for f in teacher], supervision)
        self._clear()
        return self.weight * rows * (supervision.soft_weight > 0)

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, *args: Any) -> None:
        """Forget what was caught before the batch."""
        super().on_train_batch_start(trainer, pl_module, *args)
        self._clear()

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Remove the hooks, and free what they have caught."""
        super().teardown(trainer, pl_module, stage)
        self._ask = None
        self._clear()

    def project(self, name: str, features: Tensor) -> Tensor:
        """Pass features through the projector of a name, in its precision; float32 comes back."""
        projector = self.projector[name]
        weight = next(projector.parameters(), features)
        return projector(features.to(weight.dtype)).float()  # type: ignore[no-any-return]

    def _clear(self) -> None:
        self._student.clear()
        self._teacher.clear()

    def _teacher_features(self, supervision: Supervision) -> list[Tensor]:
        """Return the features of the rows of a supervision."""
        rows, caught = supervision.rows, self._teacher
        asked = len(next(iter(caught.values()))) if caught else 0
        if not caught or not self._reuses or (rows is None and asked != len(supervision.index)):
            if self._ask is None:
                raise InputError(f"{self}: expected a fit that has begun, got a loss before it")
            caught.clear()
            with torch.no_grad():
                self._ask(supervision.inputs)
            rows = None
        features = self._in_order(self._teacher, "teacher")
        return features if rows is None else [feature[rows] for feature in features]

    def _watch(self, owner: str, network: nn.Module, into: dict[str, Tensor]) -> list[RemovableHandle]:
        """Have the layers of a network put their features into a dictionary.

        Of the teacher's passes of a step the first one counts, which makes the soft labels; of the student's the last.
        """
        handles = []
        for name in self.student_layers if owner == "student" else self.teacher_layers:
            part, at_input = _layer(owner, network, name)

            def catch(part: nn.Module, args: Any, output: Any, name: str = name, at_input: bool = at_input) -> None:
                if not (owner == "teacher" and name in into):
                    into[name] = _tensor(owner, name, args[0] if at_input else output)

            handles.append(part.register_forward_hook(catch))
        return handles

    def _in_order(self, caught: dict[str, Tensor], owner: str) -> list[Tensor]:
        layers = self.student_layers if owner == "student" else self.teacher_layers
        for name in layers:
            if name not in caught:
                raise InputError(f"{owner}_layers: expected layers that the {owner} runs through, not so {name!r}")
        return [caught[name] for name in layers]


def _student_of(method: FeatureLoss, module: Any) -> nn.Module:
    if not isinstance(module, _Pair) or not isinstance(module.student, nn.Module) or module.teacher is None:
        raise InputError(
            f"{method}: expected a module with student and teacher, such as DistillationModule, got "
            f"{type(module).__name__}"
        )
    if isinstance(module, ClassifierBase) and module.compile_args is not None:
        raise InputError(
            f"compile_args: expected none with {method}, which looks at layers that a compiled network hides"
        )
    return module.student


def _stand_in(method: FeatureLoss, module: Any) -> nn.Module:
    """Return the teacher's network, or one of its shapes where it is not built yet."""
    teacher = module.teacher
    if isinstance(teacher, nn.Module):
        return teacher
    if not isinstance(teacher, (FrozenTeacher, FrozenTeachers)):
        raise InputError(f"{method}: expected a teacher that is a network, got {type(teacher).__name__}")
    first = teacher.members[0]
    if first.network is not None:
        return first.network
    if isinstance(first.source, nn.Module):
        return first.source
    args = {key: value for key, value in first.args.items() if key not in ("pretrained", "checkpoint_path")}
    with torch.random.fork_rng():
        return built_for("teacher", first.source, first.num_classes, first.in_channels, args)


def pooled(features: Tensor) -> Tensor:
    """Return features as ``(batch, features)``: means over the places of a map, or over tokens."""
    if features.ndim == 4:
        return features.mean((2, 3))
    return features.mean(1) if features.ndim == 3 else features.flatten(1)


def cannot_compare(student: Tensor, teacher: Tensor, what: str) -> InputError:
    """Return the line for layers whose shapes do not go together."""
    shapes = f"{tuple(student.shape[1:])} of the student and {tuple(teacher.shape[1:])} of the teacher"
    return InputError(f"student_layers: expected {what}, got {shapes}")


def _layer(owner: str, network: nn.Module, name: str) -> tuple[nn.Module, bool]:
    """Return a layer by name, and whether its input is meant."""
    parts = dict(network.named_modules())
    if name == PENULTIMATE and name not in parts:
        try:
            width = [part.out_features for part in network.modules() if isinstance(part, nn.Linear)]
            return classifier_head(network, width[-1] if width else 0), True
        except InputError:
            raise InputError(
                f"{owner}_layers: expected a layer by name, as {type(network).__name__} ends in no linear layer, got "
                f"{name!r}"
            ) from None
    return find_layer(f"{owner}_layers", owner, network, name), False


def _tensor(owner: str, name: str, output: Any) -> Tensor:
    value = output[0] if isinstance(output, (tuple, list)) and output else output
    if not isinstance(value, Tensor) or not value.is_floating_point() or value.ndim not in (2, 3, 4):
        raise InputError(
            f"{owner}_layers: expected layers that return features (batch, features), (batch, tokens, features) or "
            f"(batch, channels, height, width), {name!r} returns {kind_of(value)}"
        )
    return value
