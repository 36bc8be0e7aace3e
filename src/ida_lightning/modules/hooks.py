"""What others may add to a training step: supervision hooks, loss terms, and networks that are trained with it."""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol, runtime_checkable

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn, TrainerStatus
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ida_lightning.errors import InputError, kind_of
from ida_lightning.lightning_internals import attached_trainer
from ida_lightning.losses import KL, DistillationLoss
from ida_lightning.supervision import LossTerm, Supervision, SupervisionHook, check_supervision, weighted_losses

_PARTS = ("kd_loss", "hard_loss")
_NETWORKS = "method_networks"


@runtime_checkable
class BringsNetwork(Protocol):
    """A callback that brings parameters of its own: they are trained, moved, saved and averaged with the module's."""

    name: str

    def build_network(self, module: Any) -> nn.Module | None:
        """Build the network for a fit of ``module``; None for none."""


class _Hook(NamedTuple):
    call: SupervisionHook
    fit: object | None


class _Term(NamedTuple):
    name: str
    call: LossTerm
    replaces: str | None
    fit: object | None


class SupervisionHooks(L.LightningModule):
    """Base of Lightning modules whose training step others may change; :class:`DistillationModule` is one.

    A module of one's own derives from it, builds a :class:`Supervision` in its training step
    (:meth:`Supervision.from_teacher`), calls :meth:`apply_supervision_hooks` on it and, on the student's logits,
    :meth:`loss_parts`, whose sum is the loss. ``docs/own_code.md`` shows one.

    What is registered while a fit runs, as callbacks do in ``setup``, belongs to that fit: it is in force until the
    fit ends, crashes or is interrupted, and never in another one. What is registered at any other time stays until its
    handle removes it.

    Attributes:
        hard_temperature: of the cross-entropy with the hard label.
        distillation: the distillation loss.
    """

    hard_temperature: float = 1.0
    distillation: DistillationLoss = KL()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._supervision_hooks: OrderedDict[int, _Hook] = OrderedDict()
        self._loss_terms: OrderedDict[int, _Term] = OrderedDict()
        self._fit: object | None = None
        self.method_networks = nn.ModuleDict()
        self._weighted_losses = weighted_losses

    def register_supervision_hook(self, hook: SupervisionHook) -> RemovableHandle:
        """Register a function that changes what the student is taught, on every training batch.

        Hooks run in the order of registration, without gradient and outside autocast.

        Args:
            hook: ``Supervision -> Supervision``. It may select rows, replace soft labels and change weights.

        Returns:
            A handle; ``handle.remove()`` takes the hook out again.

        Example:
            >>> module = SupervisionHooks()
            >>> handle = module.register_supervision_hook(lambda supervision: supervision)
            >>> handle.remove()
        """
        handle = RemovableHandle(self._supervision_hooks)
        self._supervision_hooks[handle.id] = _Hook(hook, self._running_fit())
        return handle

    def register_loss_term(self, name: str, term: LossTerm, replaces: str | None = None) -> RemovableHandle:
        """Register a further term of the student's loss, on every training batch.

        Args:
            name: under which the term is logged, after ``train/``.
            term: ``(student_logits, supervision) -> (batch,)``, one loss per row; its mean is added to the loss.
            replaces: ``kd_loss`` or ``hard_loss``: that part is left out while this term is there.

        Returns:
            A handle; ``handle.remove()`` takes the term out again.

        Raises:
            InputError: if there is a term of that name, or one that replaces the same part.
        """
        present = list(self._active(self._loss_terms))
        if name in ("loss", *_PARTS, *(other.name for other in present)):
            raise InputError(f"name: expected one that no other part of the loss has, got {name!r}")
        if replaces not in {None, *_PARTS} - {other.replaces for other in present if other.replaces}:
            raise InputError(f"replaces: expected kd_loss or hard_loss, not replaced yet, got {replaces!r}")
        handle = RemovableHandle(self._loss_terms)
        self._loss_terms[handle.id] = _Term(name, term, replaces, self._running_fit())
        return handle

    def apply_supervision_hooks(self, supervision: Supervision) -> Supervision:
        """Pass ``supervision`` through the registered hooks.

        Raises:
            InputError: naming the hook that returned anything but a whole Supervision on this device.
        """
        with torch.no_grad(), torch.autocast(supervision.soft_labels.device.type, enabled=False):
            for hook in tuple(self._active(self._supervision_hooks)):
                supervision = check_supervision(hook.call(supervision), supervision, _name_of(hook.call))
        return supervision

    def replaced_parts(self) -> set[str]:
        """Return which of ``kd_loss`` and ``hard_loss`` a registered term replaces."""
        return {term.replaces for term in self._active(self._loss_terms) if term.replaces}

    def loss_parts(self, student_logits: Tensor, supervision: Supervision) -> dict[str, Tensor]:
        """Return the named parts whose sum is the loss; each the mean over rows, weights included."""
        kd_loss, hard_loss = self._weighted_losses(
            student_logits, supervision, self.hard_temperature, self.distillation
        )
        parts = {"kd_loss": kd_loss, "hard_loss": hard_loss}
        for name in self.replaced_parts():
            del parts[name]
        return parts | self.loss_terms(student_logits, supervision)

    def loss_terms(self, student_logits: Tensor, supervision: Supervision) -> dict[str, Tensor]:
        """Compute the registered terms, each the mean over its rows.

        Raises:
            InputError: naming the term that returned anything but one floating point number per row.
        """
        terms = {}
        for term in self._active(self._loss_terms):
            rows = term.call(student_logits, supervision)
            if (
                not isinstance(rows, Tensor)
                or rows.shape != student_logits.shape[:1]
                or not rows.is_floating_point()
                or rows.device != student_logits.device
            ):
                wanted = f"floating point ({len(student_logits)},) on {student_logits.device}"
                came = f"{kind_of(rows)} on {rows.device}" if isinstance(rows, Tensor) else kind_of(rows)
                raise InputError(f"{_name_of(term.call)}: expected one loss per row, {wanted}, got {came}")
            terms[term.name] = rows.mean()
        return terms

    def configure_callbacks(self) -> list[L.Callback]:
        """Begin a fit: Lightning calls this first. Forget what earlier fits left and build the methods' networks."""
        trainer = self.trainer
        if trainer.state.fn == TrainerFn.FITTING:
            self._fit = object()
            for entries in (self._supervision_hooks, self._loss_terms):
                for key in [key for key, entry in entries.items() if entry.fit is not None]:
                    del entries[key]
            self.method_networks = nn.ModuleDict()
            for callback in trainer.callbacks:  # type: ignore[attr-defined]
                network = callback.build_network(self) if isinstance(callback, BringsNetwork) else None
                if network is not None:
                    self.method_networks[callback.name] = network
        inherited = super().configure_callbacks()
        return [inherited] if isinstance(inherited, L.Callback) else list(inherited)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Leave out networks of methods that this run does not have: a student is tested without its projector."""
        super().on_load_checkpoint(checkpoint)
        present = {f"{_NETWORKS}.{name}" for name in self.method_networks.state_dict()}
        weights = checkpoint["state_dict"]
        for name in [name for name in weights if name.startswith(f"{_NETWORKS}.") and name not in present]:
            del weights[name]

    def _running_fit(self) -> object | None:
        """Return the fit that is running now, None outside of one."""
        trainer = attached_trainer(self)
        running = trainer is not None and trainer.state.status == TrainerStatus.RUNNING
        return self._fit if running and trainer.state.fn == TrainerFn.FITTING else None  # type: ignore[union-attr]

    def _active(self, entries: OrderedDict[int, Any]) -> Iterator[Any]:
        fit = self._running_fit()
        return (entry for entry in list(entries.values()) if entry.fit is None or entry.fit is fit)

    def __getstate__(self) -> dict[str, Any]:
        """Copies of the module start without hooks and terms: those belong to callbacks of the original's fit."""
        empty: dict[str, Any] = {"_supervision_hooks": OrderedDict(), "_loss_terms": OrderedDict(), "_fit": None}
        return {**super().__getstate__(), **empty}


def _name_of(call: Callable[..., Any]) -> str:
    """Name a hook or term in a message: the callback whose method it is, or the function."""
    if inspect.ismethod(call):
        return str(call.__self__) if isinstance(call.__self__, BringsNetwork) else type(call.__self__).__name__
    return call.__qualname__ if inspect.isfunction(call) else type(call).__name__
