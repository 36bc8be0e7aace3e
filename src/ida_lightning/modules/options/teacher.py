"""Which network teaches, or which several, what they look at, and where their answers are stored."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from torch import nn

from ida_lightning.blending import Average
from ida_lightning.checks import path_like
from ida_lightning.errors import InputError, at_least, flag, is_a, kind_of, one_of
from ida_lightning.models import ImageInput
from ida_lightning.modules.options.networks import check_args, check_network
from ida_lightning.teacher_outputs import Encoding

Precision = Literal["32", "bf16", "16"]
View = Literal["mixed", "plain", "plain_logits", "mirrored"]
Strategy = Literal["replicate", "shard"]
_Group = TypeVar("_Group")
# What each of several teachers has for itself, and what belongs to all of them together.
_EACH = ("checkpoint", "args", "precision", "image_input", "classes", "strategy")
_TOGETHER = ("allow_other", "outputs", "view", "blend")


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
class TeacherBlend:
    """How several teachers answer as one.

    Args:
        weights: how much each counts, in their order; None counts all alike.
        average: of ``"probabilities"`` softmax(z / T), or of ``"logits"``; see :func:`ida_lightning.blend_answers`.
        correct: ``"before"`` repairs the order of every teacher's soft label before they are averaged, so that the
            average keeps it; ``"after"`` leaves repairs to the methods of the run, as with one teacher.
        trust: ``"violation"`` multiplies a teacher's weight, on every row, by the share of its soft label that a repair
            would leave where it is (:func:`ida_lightning.trust_by_order`); None trusts all alike.

    Raises:
        InputError: for weights that are negative or all 0, and unknown names.

    Example:
        >>> blend = TeacherBlend(weights=[2, 1], trust="violation")

        In YAML::

            teacher: [{network: resnet34, checkpoint: a.safetensors}, {network: resnet18, checkpoint: b.safetensors}]
            teacher_blend: {weights: [2, 1], trust: violation}
    """

    weights: list[float] | None = None
    average: Average = "probabilities"
    correct: Literal["before", "after"] = "after"
    trust: Literal["violation"] | None = None

    def __post_init__(self) -> None:
        one_of("teacher_blend.average", self.average, get_args(Average))
        one_of("teacher_blend.correct", self.correct, ("before", "after"))
        if self.trust is not None:
            one_of("teacher_blend.trust", self.trust, ("violation",))
        if self.weights is None:
            return
        numbers = isinstance(self.weights, (list, tuple)) and all(
            isinstance(weight, (int, float)) and not isinstance(weight, bool) for weight in self.weights
        )
        if not numbers or not all(0 <= weight < math.inf for weight in self.weights) or not sum(self.weights) > 0:
            raise InputError(f"teacher_blend.weights: expected numbers >= 0, not all 0, got {self.weights!r}")
        object.__setattr__(self, "weights", [float(weight) for weight in self.weights])


@dataclass(frozen=True)
class Teacher:
    """Which network teaches, or which several, and how it is run.

    Args:
        network: a name (:func:`ida_lightning.build_model`; those of a hub come with weights), or a module that maps
            images to logits ``(batch, num_classes)``; or a list of those and of :class:`Teacher`, which answer as one.
        checkpoint: its weights: safetensors, a state dict or a Lightning checkpoint.
        args: further arguments of :func:`ida_lightning.models.build_model`.
        precision: of its forward pass; None is that of the Trainer.
        allow_other: resume a run although the teacher's weights are not those it was started with.
        outputs: where its answers are stored; None asks it in every step.
        view: what it looks at. ``"mixed"``: the student's images. ``"plain"``: the unmixed images, with the same
            augmentation; the answer to a mixed one is the average of their soft labels by the label's weights, or with
            ``"plain_logits"`` of their logits. ``"mirrored"``: the student's images and their mirror images, the
            average of their logits.
        blend: how several teachers answer as one.
        image_input: ``{mean, std, size}`` of the images it was trained on, where its weight file does not say; the
            student's are converted to these.
        classes: which of its outputs are the student's classes, one for each, by number or name; ``"by_name"`` looks
            the data set's names up among its own. None where it has the student's classes.

    Raises:
        InputError: for a network that is none of these, no teachers, one value for several of them where each has its
            own, and values out of range.

    Example:
        >>> teacher = Teacher("resnet34", checkpoint="teacher.safetensors", args={"stem": "small"})

        In YAML::

            teacher: {network: resnet34, checkpoint: teacher.safetensors, args: {stem: small}}

    References:
        The plain view is that of DM-KD, IEEE Access 2025.
    """

    network: str | nn.Module | list[Any]
    checkpoint: str | None = None
    args: dict[str, Any] | None = None
    precision: Precision | None = None
    allow_other: bool = False
    outputs: TeacherOutputs | None = None
    view: View = "mixed"
    blend: TeacherBlend | None = None
    image_input: dict[str, Any] | None = None
    classes: list[int] | list[str] | Literal["by_name"] | None = None
    strategy: Strategy = "replicate"

    def __post_init__(self) -> None:
        object.__setattr__(self, "outputs", _group("teacher_outputs", self.outputs, TeacherOutputs, "folder"))
        object.__setattr__(self, "blend", _group("teacher_blend", self.blend, TeacherBlend))
        one_of("teacher_view", self.view, get_args(View))
        if isinstance(self.network, (list, tuple)):
            object.__setattr__(self, "network", [_member(entry) for entry in self.network])
            self._check_several()
        else:
            check_network("teacher", self.network)
            if self.blend is not None:
                raise InputError("teacher_blend: expected it with a list of teachers, got one teacher")
        check_args("teacher_args", self.args)
        if self.checkpoint is not None and not isinstance(self.checkpoint, (str, Path)):
            raise InputError(f"teacher_checkpoint: expected a path, got {kind_of(self.checkpoint)}")
        if self.checkpoint is not None:  # a checkpoint with a Path could not be read safely
            object.__setattr__(self, "checkpoint", str(self.checkpoint))
        flag("allow_other_teacher", self.allow_other)
        if self.precision is not None:
            one_of("teacher_precision", self.precision, ("32", "bf16", "16"))
        one_of("teacher_strategy", self.strategy, get_args(Strategy))
        self.trained_on()
        _check_choice(self.classes)

    @property
    def members(self) -> list[Teacher]:
        """The teachers: the entries of a list, or itself."""
        return list(self.network) if isinstance(self.network, list) else [self]

    def names(self) -> list[str]:
        """Return a name of every teacher, for logs and folders: of its network and weight file, and different."""
        names: list[str] = []
        for member in self.members:
            network = member.network if isinstance(member.network, str) else type(member.network).__name__
            name = re.sub(
                r"[^A-Za-z0-9_.-]+", "_", "-".join(filter(None, (network, Path(member.checkpoint or "").stem)))
            )
            same = sum(other == name or other.startswith(f"{name}.") for other in names)
            names.append(f"{name}.{same + 1}" if same else name)
        return names

    def trained_on(self) -> ImageInput | None:
        """Return ``image_input`` as the networks of this package know it.

        Raises:
            InputError: for anything but means, deviations above 0 and a size.
        """
        given = self.image_input
        if given is None:
            return None
        try:
            mean, std, size = (given[key] for key in ("mean", "std", "size"))
            found = ImageInput(tuple(map(float, mean)), tuple(map(float, std)), int(size))
            right = len(given) == 3 and len(found.mean) == len(found.std) > 0 and found.size > 0 and min(found.std) > 0
        except (TypeError, ValueError, LookupError):
            right = False
        if not right:
            raise InputError(f"teacher_image_input: expected mean and std of every channel and size, got {given!r}")
        return found

    def _check_several(self) -> None:
        members = self.members
        if not members:
            raise InputError("teacher: expected one or more teachers, got an empty list")
        defaults = {field.name: field.default for field in fields(Teacher)}
        if given := [name for name in _EACH if vars(self)[name] != defaults[name]]:
            raise InputError(
                f"teacher_{given[0]}: expected none beside a list of teachers, whose entries have their own, got "
                f"{vars(self)[given[0]]!r}"
            )
        for member in members:
            if given := [name for name in _TOGETHER if vars(member)[name] != defaults[name]]:
                raise InputError(
                    f"teacher: expected {given[0]} once for all teachers, beside the list, got it in an entry"
                )
        weights = None if self.blend is None else self.blend.weights
        if weights is not None and len(weights) != len(members):
            raise InputError(
                f"teacher_blend.weights: expected {len(members)}, one for every teacher, got {len(weights)}"
            )


def _member(entry: Any) -> Teacher:
    if isinstance(entry, Mapping):  # as a checkpoint keeps it
        entry = _group("teacher", entry, Teacher, "network")
    member = entry if isinstance(entry, Teacher) else Teacher(entry)
    if isinstance(member.network, list):
        raise InputError("teacher: expected teachers in the list, got a list within it")
    return member


def _group(name: str, value: Any, kind: type[_Group], *needed: str) -> _Group | None:
    """Return a group of arguments, also from the mapping as which a checkpoint keeps it."""
    if isinstance(value, Mapping):
        known = kind.__dataclass_fields__.keys()  # type: ignore[attr-defined]
        if not set(needed) <= value.keys() <= known:
            wanted = f"{' and '.join(needed)} and others of {sorted(known)}" if needed else f"some of {sorted(known)}"
            raise InputError(f"{name}: expected {wanted}, got {value}")
        return kind(**value)
    return None if value is None else is_a(name, value, kind)


def _check_choice(classes: Any) -> None:
    if classes is None or (isinstance(classes, str) and classes == "by_name"):
        return
    listed = isinstance(classes, (list, tuple)) and bool(classes)
    kinds = {type(entry) for entry in classes} if listed else set()
    if kinds not in ({int}, {str}) or (kinds == {int} and min(classes) < 0) or len(set(classes)) < len(classes):
        raise InputError(
            f"teacher_classes: expected different numbers >= 0 or names of its outputs, or by_name, got {classes!r}"
        )
