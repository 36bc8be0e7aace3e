"""The public bases of methods: callbacks that change what a student is taught, or add a term to its loss."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, Literal

import lightning as L
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ida_lightning.errors import InputError
from ida_lightning.label_mix import LabelMix
from ida_lightning.metrics import moved_mass, violated_rows
from ida_lightning.modules.row_means import MeasuringCallback, RowMeans
from ida_lightning.supervision import Supervision


class Method(MeasuringCallback, ABC):
    """Takes part in the training step of a module while it fits, and logs means over the rows of every epoch.

    Derive from :class:`SupervisionMethod` or :class:`LossMethod`. Two methods of one class may stand in one list if
    they have different names: the name is in the keys that they log and in their state in a checkpoint.

    Attributes:
        prefix: of the keys that are logged, after ``train/``, for a method that was given no name; None is the name.
        needs_teacher: whether the method needs the teacher itself, and not only its logits of the training batches,
            which may be stored (:class:`~ida_lightning.modules.TeacherOutputs`).

    Args:
        name: letters, digits, ``_`` and ``-``; None is the name of the class.

    Raises:
        InputError: for another kind of name; when a fit starts, for two methods of one name, and a module that does
            not offer what the method needs; in training, for two methods that log one key.
    """

    prefix: str | None = None
    needs_teacher: bool = False

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        """Make the state here, so that a subclass that forgets ``super().__init__()`` works."""
        method = super().__new__(cls)
        method._name = None
        method._handles = []
        method._means = RowMeans()
        method._methods = [method]
        return method

    _name: str | None
    _handles: list[RemovableHandle]
    _methods: list[Method]

    def __init__(self, name: str | None = None) -> None:
        if name is not None and not (isinstance(name, str) and re.fullmatch(r"[A-Za-z0-9_-]+", name)):
            raise InputError(f"name: expected letters, digits, _ and -, got {name!r}")
        self._name = name

    @property
    def name(self) -> str:
        """The name that was given, or that of the class."""
        return self._name or type(self).__name__

    @property
    def log_prefix(self) -> str:
        """What the keys that are logged begin with, after ``train/``."""
        return self.prefix if self._name is None and self.prefix is not None else f"{self.name}/"

    @property
    def means_key(self) -> str:
        """Where a checkpoint has the sums."""
        return f"{self.name}_means"

    def __str__(self) -> str:
        return type(self).__name__ if self._name is None else f"{type(self).__name__} {self._name!r}"

    @abstractmethod
    def register(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Register hooks and terms with ``module`` by :meth:`register_with`; called when a fit starts."""

    def build_network(self, module: L.LightningModule) -> nn.Module | None:
        """Build what the method trains beside the student, such as a projector; None for nothing.

        Called at the start of every fit, before hooks are registered. The network's parameters reach the optimiser,
        and with its buffers the device, DDP, checkpoints and weight averaging; a resumed run has the checkpoint's.
        Keep it as an attribute to use it in the step.
        """
        return None

    def measure(self, rows: Mapping[str, Tensor]) -> None:
        """Add values ``(batch,)`` to the epoch's means over rows, logged as ``train/<prefix><name>``.

        Args:
            rows: numbers or booleans by name; the same names on every batch.
        """
        if tuple(rows) != self._means.names:
            self._check_keys(rows)
        self._means.add(rows)

    def register_with(
        self,
        module: L.LightningModule,
        registration: Literal["register_supervision_hook", "register_loss_term"],
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Call a registration of ``module``; what was registered is removed when the fit ends, however it does."""
        if not hasattr(module, registration):
            raise InputError(
                f"{self}: expected a module with {registration}, such as DistillationModule, got "
                f"{type(module).__name__}"
            )
        register: Callable[..., RemovableHandle] = getattr(module, registration)
        self._handles.append(register(*args, **kwargs))

    def register_forward_hook(self, part: nn.Module, hook: Callable[..., Any]) -> None:
        """Register a forward hook on a part of a network, to get at features; removed when the fit ends."""
        self._handles.append(part.register_forward_hook(hook))

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Register with the module when a fit starts."""
        self.teardown(trainer, pl_module, stage)
        if stage != "fit":
            return
        self._methods = [self]
        if trainer is not None:
            self._methods = [other for other in trainer.callbacks if isinstance(other, Method)]  # type: ignore[attr-defined]
        same = [other for other in self._methods if other.name == self.name]
        if len(same) > 1:
            raise InputError(
                f"name: expected methods with different names, got {len(same)} called {self.name!r}; give name: to one"
            )
        self.register(trainer, pl_module)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Remove what was registered."""
        while self._handles:
            self._handles.pop().remove()

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Remove what was registered from a fit that crashed or was interrupted."""
        self.teardown(trainer, pl_module, "fit")

    def _check_keys(self, rows: Mapping[str, Tensor]) -> None:
        keys = {f"{self.log_prefix}{key}" for key in rows}
        for other in self._methods:
            shared = sorted(keys & {f"{other.log_prefix}{key}" for key in other._means.names})
            if other is not self and shared:
                raise InputError(
                    f"name: expected methods that log different keys, got train/{shared[0]} from {other} and {self}; "
                    "give name: to one"
                )


class SupervisionMethod(Method):
    """Base of methods that change what the student is taught on a batch.

    A subclass defines :meth:`transform`; that is all. It is called on every training batch, in the order of the list of
    callbacks, without gradient and outside autocast.

    Example:
        >>> class Halve(SupervisionMethod):
        ...     def transform(self, supervision):
        ...         return supervision._replace(soft_weight=supervision.soft_weight / 2)
        >>> Halve(name="half").name
        'half'
        >>> class Misspelt(SupervisionMethod):
        ...     def transfrom(self, supervision):
        ...         return supervision
        >>> Misspelt()  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ...
        TypeError: Can't instantiate abstract class Misspelt ...
    """

    @abstractmethod
    def transform(self, supervision: Supervision) -> Supervision:
        """Return what the student is taught instead; the same number of rows in every field."""

    def register(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Register :meth:`transform` as a supervision hook."""
        self.register_with(module, "register_supervision_hook", self.transform)


class SoftLabelMethod(SupervisionMethod):
    """Base of methods that put other soft labels in the place of the teacher's, and nothing else.

    A subclass defines :meth:`replace`. Logs epoch means over the training rows, after ``train/<prefix>``:
    ``violation_rate`` (rows whose order was broken), ``violation_rate_corrected`` (rows where it still is),
    ``moved_mass`` (share of the soft label that was moved).

    Example:
        >>> class Uniform(SoftLabelMethod):
        ...     def replace(self, supervision):
        ...         return supervision.soft_labels * 0 + 1 / supervision.soft_labels.shape[1]
        >>> Uniform().log_prefix
        'Uniform/'
    """

    @abstractmethod
    def replace(self, supervision: Supervision) -> Tensor:
        """Return the soft labels ``(batch, classes)`` that the student is taught instead."""

    def transform(self, supervision: Supervision) -> Supervision:
        """Replace the soft labels, and measure."""
        after = self.replace(supervision)
        self.measure(self.measured_rows(supervision, after))
        return supervision._replace(soft_labels=after)

    def measured_rows(self, supervision: Supervision, after: Tensor) -> dict[str, Tensor]:
        """Return what is logged of the change of a batch's soft labels, values ``(batch,)`` by name."""
        before, mix = supervision.soft_labels, supervision.label_mix
        return order_rows(violated_rows(before, mix), before, after, mix)


class LossMethod(Method):
    """Base of methods that add a term to the student's loss.

    A subclass defines :meth:`loss`. What it trains beside the student (a projector, a memory bank) it returns from
    :meth:`build_network`; features of the student it takes by :meth:`register_forward_hook` in :meth:`register`.

    Attributes:
        term: the name under which the term is logged, after ``train/``, for a method that was given no name; None is
            the name of the class.
        replaces: ``"kd_loss"`` or ``"hard_loss"`` for a term that takes the place of that part of the loss.

    Example:
        >>> class Confidence(LossMethod):
        ...     def loss(self, student_logits, supervision):
        ...         return student_logits.softmax(1).square().sum(1)
        >>> Confidence().term_name
        'Confidence'
    """

    term: str | None = None
    replaces: Literal["kd_loss", "hard_loss"] | None = None

    @property
    def term_name(self) -> str:
        """The name under which the term is logged, after ``train/``."""
        return self.term if self._name is None and self.term is not None else self.name

    @abstractmethod
    def loss(self, student_logits: Tensor, supervision: Supervision) -> Tensor:
        """Compute one loss per row, ``(batch,)``, from logits ``(batch, classes)``; its mean is added to the loss."""

    def register(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        """Register :meth:`loss` as a term of the loss."""
        self.register_with(module, "register_loss_term", self.term_name, self.loss, replaces=self.replaces)


def order_rows(violated: Tensor, before: Tensor, after: Tensor, mix: LabelMix) -> dict[str, Tensor]:
    """Return what is logged of a change of soft labels, row by row.

    Args:
        violated: bool ``(batch,)``, which rows broke their order before.
        before: soft labels ``(batch, classes)``.
        after: likewise.
        mix: their hard labels.
    """
    return {
        "violation_rate": violated,
        "violation_rate_corrected": violated_rows(after, mix),
        "moved_mass": moved_mass(before, after),
    }
