"""Several teachers that answer as one, each as training cannot change it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from ida_lightning.blending import blend_answers, finite_or_zero, in_order, trust_by_order
from ida_lightning.errors import InputError
from ida_lightning.files import joint_digest
from ida_lightning.inputs import Inputs
from ida_lightning.label_mix import LabelMix
from ida_lightning.metrics import violated_rows
from ida_lightning.models import ImageInput, Vocabulary
from ida_lightning.modules.options import Teacher, TeacherBlend
from ida_lightning.modules.sharding import agreed
from ida_lightning.modules.teacher import FrozenTeacher


class FrozenTeachers:
    """Holds several teachers outside the module tree; to others it is a :class:`FrozenTeacher` that answers for all.

    They are asked one after the other, so memory holds the activations of one at a time.

    Args:
        options: a list of teachers, and how they answer as one.
        num_classes: width that every output must have.
        in_channels: channels of the images they will see.
        image_size: pixels of the images they will see.
        compile_args: of ``torch.compile``; None for eager.
        temperature: at which they are averaged.
    """

    def __init__(
        self,
        options: Teacher,
        num_classes: int,
        in_channels: int,
        image_size: int,
        compile_args: dict[str, Any] | None = None,
        temperature: float = 4.5,
    ) -> None:
        self.names = options.names()
        self.options = options.blend or TeacherBlend()
        self.temperature = temperature
        self.num_classes = num_classes
        self.members = [
            FrozenTeacher(member, num_classes, in_channels, image_size, compile_args) for member in options.members
        ]
        self.checkpoint = ", ".join(member.checkpoint or "" for member in self.members).strip(", ") or None
        self.source = ", ".join(self.names)

    def prepare(
        self,
        class_names: list[str] | None,
        image_input: ImageInput | None = None,
        example: Callable[[], Inputs | None] | None = None,
        vocabulary: Vocabulary | None = None,
        mesh: DeviceMesh | None = None,
    ) -> None:
        """Build them one after the other; see :meth:`FrozenTeacher.prepare`.

        Raises:
            InputError: naming the teacher, also where two say that they have different classes.
        """
        known: tuple[str, list[str]] | None = None
        for name, member in zip(self.names, self.members, strict=True):
            try:
                member.prepare(class_names, image_input, example, vocabulary, mesh)
            except InputError as error:
                raise InputError(f"teacher {name}: {error}") from error
            if known is not None and member.class_names not in (None, known[1]):
                raise InputError(
                    f"teacher {name}: expected the classes of {known[0]}, {_shown(known[1])}, got "
                    f"{_shown(member.class_names or [])}"
                )
            if member.class_names is not None:
                known = name, member.class_names

    def __call__(self, inputs: Inputs) -> Tensor:
        """Logits ``(batch, classes)`` of all together, of inputs whose labels nobody asks about: no order, no trust."""
        return self._blended([member(inputs) for member in self.members])

    def blend(self, answers: Sequence[Tensor], mix: LabelMix) -> tuple[Tensor, Tensor | None]:
        """Return logits that stand for the answers of all, and each one's weight on every row where trust decides.

        Args:
            answers: ``(batch, classes)`` of every teacher.
            mix: the labels of the rows.
        """
        answers, weights = list(answers), None
        if self.options.trust is not None:
            weights = trust_by_order(answers, mix, self.temperature)
        if self.options.correct == "before":
            answers = [in_order(answer, mix, self.temperature) for answer in answers]
        return self._blended(answers, weights), weights

    def rows_of_each(self, answers: Sequence[Tensor], trust: Tensor | None, mix: LabelMix) -> dict[str, Tensor]:
        """Return what is logged of every teacher, by name, ``(batch,)``: whether it breaks the order, and its trust.

        Args:
            answers: ``(batch, classes)`` of every teacher.
            trust: ``(teachers, batch)``, where trust decides.
            mix: the labels of the rows.
        """
        rows = {}
        for number, (name, answer) in enumerate(zip(self.names, answers, strict=True)):
            soft = finite_or_zero(answer).div(self.temperature).softmax(1)
            rows[f"{name}/violation_rate"] = violated_rows(soft, mix)
            if trust is not None:
                rows[f"{name}/trust"] = trust[number]
        return rows

    def _blended(self, answers: list[Tensor], trust: Tensor | None = None) -> Tensor:
        weights: Any = self.options.weights
        if trust is not None:
            weights = trust if weights is None else trust * trust.new_tensor(weights)[:, None]
        if len(answers) == 1:
            return answers[0]
        return blend_answers(answers, weights, self.temperature, self.options.average)

    @property
    def network(self) -> nn.Module | None:
        """A list of their networks; None while one is not built."""
        networks = [member.network for member in self.members]
        return None if None in networks else nn.ModuleList(networks)  # type: ignore[arg-type]

    @property
    def fingerprint(self) -> str | None:
        """Of all of their weights; None while one is not known."""
        known = [member.fingerprint for member in self.members]
        return None if None in known else hashlib.sha256(" ".join(map(str, known)).encode()).hexdigest()

    @property
    def file_sha256(self) -> str | None:
        """Of all weight files as they were when they were loaded; None if there are none."""
        return joint_digest([member.file_sha256 for member in self.members])

    @property
    def compile_args(self) -> dict[str, Any] | None:
        """Arguments of ``torch.compile``; None for eager."""
        return self.members[0].compile_args

    @compile_args.setter
    def compile_args(self, compile_args: dict[str, Any] | None) -> None:
        for member in self.members:
            member.compile_args = compile_args

    @property
    def mesh(self) -> DeviceMesh | None:
        """The processes that hold shares of those that are shared out; None if there are none."""
        return next((member.mesh for member in self.members if member.mesh is not None), None)

    def agreed(self, mine: bool) -> bool:
        """Say whether something is so on every process that must ask together; see :meth:`FrozenTeacher.agreed`."""
        return mine if self.mesh is None else agreed(self.mesh, mine)

    def lay_out(self, last: bool) -> None:
        """Lay the weights of all of them out in memory; see :meth:`FrozenTeacher.lay_out`."""
        for member in self.members:
            member.lay_out(last)

    def move(self, fn: Callable[[Tensor], Tensor]) -> None:
        """Apply ``fn``, which ``nn.Module.to`` and its like apply to every tensor."""
        for member in self.members:
            member.move(fn)

    def __deepcopy__(self, memo: dict[int, Any]) -> FrozenTeachers:
        """Return itself: copies of the student share the teachers."""
        return self


def frozen(
    options: Teacher,
    num_classes: int,
    in_channels: int,
    image_size: int,
    compile_args: dict[str, Any] | None,
    temperature: float,
) -> FrozenTeacher | FrozenTeachers:
    """Return the teacher of these options, or the teachers; not built yet."""
    if isinstance(options.network, list):
        return FrozenTeachers(options, num_classes, in_channels, image_size, compile_args, temperature)
    return FrozenTeacher(options, num_classes, in_channels, image_size, compile_args)


def _shown(names: list[str]) -> str:
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
