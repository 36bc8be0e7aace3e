"""A teacher that training cannot touch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import timm
import torch
from torch import Tensor, nn

from ida_lightning.errors import InputError
from ida_lightning.models import build_model, load_weights, put_weights


class FrozenTeacher:
    """Holds a network outside the module tree of the module that uses it, and builds it when it is needed.

    What is not registered cannot be optimised, checkpointed, copied by weight averaging, broadcast by DDP or
    put in train mode by ``module.train()``. The module that holds it moves it along with :meth:`move`.

    Args:
        teacher: a timm name, or a module.
        num_classes: width its output must have.
        in_channels: channels of the images it will see.
        image_size: pixels of the images it will see.
        checkpoint: its weights; None if ``teacher`` has them already.
        args: further arguments of :func:`ida_lightning.models.build_model`.
    """

    def __init__(
        self,
        teacher: str | nn.Module,
        num_classes: int,
        in_channels: int,
        image_size: int,
        checkpoint: str | None,
        args: dict[str, Any],
    ) -> None:
        self.source = teacher
        self.num_classes = num_classes
        self.input_shape = (in_channels, image_size, image_size)
        self.checkpoint = checkpoint
        self.args = args
        self.network: nn.Module | None = None

    def prepare(self, class_names: list[str] | None) -> None:
        """Build it, load its weights, freeze it, and try it on a blank image.

        Args:
            class_names: what the student's outputs stand for, if known; compared with what the weight file says.

        Raises:
            InputError: for a named network without weights, weights that are missing, damaged or do not fit, and
                a network made for other images or other classes.
        """
        if isinstance(self.source, str) and self.checkpoint is None:
            self._check_pretrained(self.source)
        network = build_model(self.source, self.num_classes, self.input_shape[0], **self.args)
        if self.checkpoint is not None:
            weights = load_weights(self.checkpoint, "teacher_checkpoint")
            _check_classes(weights.class_names, class_names)
            put_weights(network, weights, self.checkpoint, "teacher_checkpoint")
        self.network = network.requires_grad_(False).eval()
        self._try()

    def _check_pretrained(self, name: str) -> None:
        if not self.args.get("pretrained"):
            raise InputError(
                f"teacher_checkpoint: expected a weight file (or pretrained: true in teacher_args) for {name!r}, got "
                "none; an untrained teacher teaches nothing"
            )
        # timm would replace a head of another width by a random one, with a line in the log.
        config = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
        if config is not None and config.num_classes != self.num_classes:
            raise InputError(
                f"teacher: expected the student's {self.num_classes} classes, the pretrained {name!r} has "
                f"{config.num_classes}; give a teacher_checkpoint that was trained on these classes"
            )

    def _try(self) -> None:
        like = next((tensor for tensor in self.network.parameters()), torch.zeros(1))  # type: ignore[union-attr]
        try:
            shape = tuple(self(like.new_zeros(1, *self.input_shape)).shape)
        except (RuntimeError, AssertionError) as error:
            raise InputError(
                f"teacher: expected a network for images {self.input_shape}, it fails on one: {error}"
            ) from error
        if shape != (1, self.num_classes):
            raise InputError(
                f"teacher: expected logits of the student's {self.num_classes} classes, got output of shape "
                f"{shape} for one image"
            )

    def move(self, fn: Callable[[Tensor], Tensor]) -> None:
        """Apply what ``nn.Module.to`` and its like apply to every tensor."""
        if self.network is not None:
            self.network._apply(fn)  # type: ignore[no-untyped-call]

    def __call__(self, images: Tensor) -> Tensor:
        """Logits ``(batch, classes)`` in float32 or better, without a graph.

        Raises:
            InputError: if the teacher was not prepared or something has put it in train mode.
        """
        if self.network is None or self.network.training:
            state = "not built yet" if self.network is None else "in train mode"
            raise InputError(f"teacher: expected a network in eval mode, it is {state}")
        with torch.no_grad():
            logits: Tensor = self.network(images)
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def __deepcopy__(self, memo: dict[int, Any]) -> FrozenTeacher:
        """Itself: nobody who copies the student wants a second teacher."""
        return self


def _check_classes(theirs: list[str] | None, ours: list[str] | None) -> None:
    if theirs is None or ours is None or theirs == ours:
        return
    if len(theirs) != len(ours):
        detail = f"it has {len(theirs)} classes, the data set {len(ours)}"
    else:
        i = next(i for i, (a, b) in enumerate(zip(theirs, ours, strict=True)) if a != b)
        detail = f"class {i} is {theirs[i]!r} in the file and {ours[i]!r} in the data set"
    raise InputError(f"teacher_checkpoint: expected the classes of the data set, got others: {detail}")
