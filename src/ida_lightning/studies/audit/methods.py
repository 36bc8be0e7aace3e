"""Which of a run's methods an audit measures, and which it only names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import lightning as L

from ida_lightning.isotonic import Space
from ida_lightning.methods import (
    AddedTermCallback,
    AuthorsIsotonicCallback,
    DataSelectionCallback,
    InnerMixingCallback,
    IsotonicSoftLabelCallback,
    LabelRevisionCallback,
    Method,
)
from ida_lightning.modules import DistillationModule
from ida_lightning.modules.teachers import FrozenTeachers


def configured_correction(callbacks: Iterable[L.Callback]) -> tuple[Space, float | None, str | None]:
    """Return space, strength and role of the correction among a Trainer's callbacks; the last two None without one."""
    for callback in callbacks:
        if isinstance(callback, AuthorsIsotonicCallback):
            return "logits", 1.0, "add"
        method = callback.method if isinstance(callback, AddedTermCallback) else callback
        if isinstance(method, IsotonicSoftLabelCallback):
            return method.space, method.strength, "replace" if method is callback else "add"
    return "softened", None, None


def methods_not_measured(callbacks: Iterable[L.Callback], selection: Mapping[str, Any] | None) -> list[str]:
    """Name the methods among a Trainer's callbacks about which the report says nothing.

    Measured are the first isotonic correction without a margin, the first label revision, and data selection.

    Args:
        callbacks: of the Trainer.
        selection: what was found out about the data selection.
    """
    left_out, seen = [], set()
    for callback in (c for c in callbacks if isinstance(c, Method)):
        method = callback.method if isinstance(callback, AddedTermCallback) else callback
        kinds = {
            "inner mixing": isinstance(callback, InnerMixingCallback),
            "correction": isinstance(method, (IsotonicSoftLabelCallback, AuthorsIsotonicCallback)),
            "revision": isinstance(callback, LabelRevisionCallback),
            "selection": isinstance(callback, DataSelectionCallback) and "trusted" in (selection or {}),
        }
        kind = next((kind for kind, holds in kinds.items() if holds), None)
        if kind is None or kind in seen:
            left_out.append(str(callback))
        elif isinstance(method, IsotonicSoftLabelCallback) and method.margin != 0:
            left_out.append(f"the margin of {callback}")
        seen.add(kind)
    return left_out


def of_teacher_not_measured(model: DistillationModule) -> list[str]:
    """Name what a run does with its teachers' answers and the audit, which shows them mixed images, does not."""
    named = [] if model.answers.view == "mixed" else [f"teacher_view {model.answers.view}"]
    if isinstance(model.teacher, FrozenTeachers):
        blend = model.teacher.options
        named += ["correction before averaging"] if blend.correct == "before" else []
        named += ["trust in each teacher"] if blend.trust is not None else []
    return named
