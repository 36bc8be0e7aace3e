"""Which network teaches, and where its answers are stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import nn

from ida_lightning.checks import path_like
from ida_lightning.errors import InputError, at_least, flag, is_a, kind_of, one_of
from ida_lightning.modules.options.networks import check_args, check_network
from ida_lightning.teacher_outputs import Encoding

Precision = Literal["32", "bf16", "16"]


@dataclass(frozen=True)
class TeacherOutputs:
    """Where a teacher's answers to the training batches are stored, so that it is asked once for many students.

    Args:
        folder: of the answers; see :class:`~ida_lightning.teacher_outputs.OutputStore`.
        mode: ``record`` asks the teacher about every batch and stores what it says; ``replay`` asks the folder alone
            and does not build the teacher; ``auto`` asks the folder and, about what is not there, the teacher.
        precision: ``exact``: the student is the one that the teacher itself would have taught, bit for bit; ``half``:
            about half the space.
        top_k: store only so many classes of a row; see :class:`~ida_lightning.teacher_outputs.Encoding`.
        cycle: train on the pictures of the first so many epochs again and again; None for new ones in every epoch.

    Raises:
        InputError: for values out of range.

    Example:
        >>> outputs = TeacherOutputs("answers", top_k=16)

        In YAML::

            teacher_outputs: {folder: answers, mode: auto, top_k: 16}
    """

    folder: str
    mode: Literal["record", "replay", "auto"] = "auto"
    precision: Literal["exact", "half"] = "exact"
    top_k: int | None = None
    cycle: int | None = None

    def __post_init__(self) -> None:
        # As text: a checkpoint with a Path could not be read safely.
        object.__setattr__(self, "folder", str(path_like("teacher_outputs.folder", self.folder)))
        one_of("teacher_outputs.mode", self.mode, ("record", "replay", "auto"))
        if self.cycle is not None:
            at_least("teacher_outputs.cycle", self.cycle, 1)
        self.encoding(1.0)

    def encoding(self, temperature: float) -> Encoding:
        """Return how answers are stored; their sums over what is left out are taken at ``temperature``."""
        return Encoding(self.precision, self.top_k, temperature)


@dataclass(frozen=True)
class Teacher:
    """Which network teaches, and how it is run.

    Args:
        network: a timm name, or a module that maps images to logits ``(batch, num_classes)``.
        checkpoint: its weights: safetensors, a state dict or a Lightning checkpoint.
        args: further arguments of :func:`ida_lightning.models.build_model`.
        precision: of its forward pass; None is that of the Trainer.
        allow_other: resume a run although the teacher's weights are not those it was started with.
        outputs: where its answers are stored; None asks it in every step.

    Raises:
        InputError: for a network that is neither, and an unknown precision.

    Example:
        >>> teacher = Teacher("resnet34", checkpoint="teacher.safetensors", args={"stem": "small"})

        In YAML::

            teacher: {network: resnet34, checkpoint: teacher.safetensors, args: {stem: small}}
    """

    network: str | nn.Module
    checkpoint: str | None = None
    args: dict[str, Any] | None = None
    precision: Precision | None = None
    allow_other: bool = False
    outputs: TeacherOutputs | None = None

    def __post_init__(self) -> None:
        check_network("teacher", self.network)
        if isinstance(self.outputs, Mapping):  # as a checkpoint keeps it
            known = set(TeacherOutputs.__dataclass_fields__)
            if not {"folder"} <= set(self.outputs) <= known:
                raise InputError(f"teacher_outputs: expected folder and others of {sorted(known)}, got {self.outputs}")
            object.__setattr__(self, "outputs", TeacherOutputs(**self.outputs))
        if self.outputs is not None:
            is_a("teacher_outputs", self.outputs, TeacherOutputs)
        check_args("teacher_args", self.args)
        if self.checkpoint is not None and not isinstance(self.checkpoint, (str, Path)):
            raise InputError(f"teacher_checkpoint: expected a path, got {kind_of(self.checkpoint)}")
        if self.checkpoint is not None:  # a checkpoint with a Path could not be read safely
            object.__setattr__(self, "checkpoint", str(self.checkpoint))
        flag("allow_other_teacher", self.allow_other)
        if self.precision is not None:
            one_of("teacher_precision", self.precision, ("32", "bf16", "16"))
