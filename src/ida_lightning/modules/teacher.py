"""A teacher that training cannot change."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from ida_lightning.errors import InputError
from ida_lightning.files import digest_of_file
from ida_lightning.inputs import Inputs, device_of, on_each, rows_in, take_rows
from ida_lightning.models import (
    ImageInput,
    Vocabulary,
    Weights,
    check_vocabulary,
    chosen_outputs,
    converted,
    failure,
    fingerprint,
    fitting_tensors,
    is_of_a_hub,
    known_outputs,
    logits_of,
    outputs_in,
    pretrained_input,
    run_network,
)
from ida_lightning.modules import adaptation, sharding
from ida_lightning.modules.layout import channels_last, convolves
from ida_lightning.modules.options import Teacher, built_for


class FrozenTeacher:
    """Holds a network outside the module tree of the module that uses it, and builds it when it is needed.

    What is not registered cannot be optimised, checkpointed, copied by weight averaging, broadcast by DDP or
    put in train mode by ``module.train()``. The module that holds it moves it along with :meth:`move`.

    Args:
        options: which network, with which weights and precision.
        num_classes: width its output must have.
        in_channels: channels of the images it will see, where the data module does not say it.
        image_size: pixels of the images it will see, likewise.
        compile_args: of ``torch.compile``; None for eager.

    Attributes:
        network: the teacher, once prepared.
        fingerprint: of its weights, once prepared; see :func:`ida_lightning.models.fingerprint`.
        file_sha256: of the weight file as it was when it was loaded, whatever lies there later.
        channels_last: whether its weights and images lie in memory with the channels last; see :meth:`lay_out`.
        class_names: of the student's classes, as far as the weight file says what its outputs are.
        mesh: the processes over which its weights are shared out; None where this one holds all of them.
    """

    def __init__(
        self,
        options: Teacher,
        num_classes: int,
        in_channels: int,
        image_size: int,
        compile_args: dict[str, Any] | None = None,
    ) -> None:
        self.source = cast("str | nn.Module", options.network)  # a list of teachers is FrozenTeachers
        self.num_classes = num_classes
        self.in_channels = in_channels
        self.image_size = image_size
        self.checkpoint = options.checkpoint
        self.args = options.args or {}
        if isinstance(self.source, str) and is_of_a_hub(self.source) and self.checkpoint is None:
            self.args = {"pretrained": True, **self.args}
        self.classes = options.classes
        self.image_input = options.trained_on()
        self.precision = options.precision
        self.strategy = options.strategy
        self.mesh: DeviceMesh | None = None
        self.compile_args = compile_args
        self.network: nn.Module | None = None
        self.fingerprint: str | None = None
        self.file_sha256: str | None = None
        self.channels_last = False
        self.class_names: list[str] | None = None
        self._first: Callable[[int], None] | None = None  # is told how many outputs it has by its first answer
        self._choice: Tensor | None = None  # of its outputs
        self._adapt: tuple[Tensor, Tensor, int] | None = None  # factor, shift, size

    def prepare(
        self,
        class_names: list[str] | None,
        image_input: ImageInput | None = None,
        example: Callable[[], Inputs | None] | None = None,
        vocabulary: Vocabulary | None = None,
        mesh: DeviceMesh | None = None,
    ) -> None:
        """Build the network, load its weights, freeze it, and try it.

        Args:
            class_names: what the student's outputs stand for, if known; compared with what the weight file says.
            image_input: what images the student sees, if known. If the teacher was trained on others (its weight file
                or timm says so), those are made from the student's, after mixing: the two see the same picture.
            example: gives inputs to try it on, or None, and then the first batch is the trial; without it there are
                blank images.
            vocabulary: of the tokenizer whose numbers it will be given, where there is one.
            mesh: the processes to share its weights out to, if it asks for it; all of them must call this.

        Raises:
            InputError: for a named network without weights, weights that are missing, damaged or do not fit, and
                a network made for other images or other classes.
        """
        if isinstance(self.source, str) and self.checkpoint is None:
            adaptation.check_pretrained(self.source, self.args, None if self.classes is not None else self.num_classes)
        self.mesh = mesh = mesh if self.strategy == "shard" else None
        weights: Weights | None = None
        if self.checkpoint is not None:
            self.file_sha256, weights = adaptation.read_finished(self.checkpoint, mapped=mesh is not None)
        width = self.num_classes if self.classes is None else outputs_in(weights, self.source)
        channels = self.in_channels if image_input is None else len(image_input.mean)
        from_file = weights is not None and not self.args.get("pretrained")
        with sharding.without_values(from_file and mesh is not None):
            network = built_for("teacher", self.source, width, channels, self.args)
        trained_on = pretrained_input(network) if self.args.get("pretrained") else None
        expects_ours = bool(self.args.get("pretrained")) and weights is None and self.classes is None
        if expects_ours:
            adaptation.check_head(network, self.source, self.num_classes)
        tensors: Mapping[str, Tensor] = {}
        if weights is not None and self.checkpoint is not None:
            if self.classes is None:
                adaptation.check_classes(weights.class_names, class_names)
                self.class_names = weights.class_names
            tensors = fitting_tensors(network, weights, self.checkpoint, "teacher_checkpoint")
            trained_on = weights.image_input
        if vocabulary is not None:
            check_vocabulary(network, vocabulary, "teacher")
        trained_on = self.image_input or trained_on
        for parameter in network.parameters():  # not requires_grad_, which a scripted network refuses
            parameter.requires_grad = False
        if mesh is not None:
            sharding.share_out(network, mesh, tensors)
        elif tensors:
            network.load_state_dict(tensors, strict=False)
        self.network = network.eval()
        self.fingerprint = fingerprint(network)
        self._adapt = adaptation.adaptation(trained_on, image_input, self._device)
        if self._adapt is not None:
            rank_zero_info(f"teacher: gets images of its own kind, {trained_on}, the student {image_input}")
        self._choice = None
        self.lay_out(self.channels_last)
        if self.compile_args is not None and isinstance(network, torch.jit.ScriptModule):
            raise InputError(
                "compile_args: expected none with a teacher that is TorchScript, which is compiled already"
            )
        said = weights and weights.class_names

        def first(width: int) -> None:
            """Take what the network gives: so many outputs."""
            if self.classes is not None:
                names = said or known_outputs(self.source, network, width)
                choice = chosen_outputs(self.classes, width, names, class_names, self.num_classes)
                self._choice = torch.tensor(choice, device=self._device)
            if self.compile_args is not None and mesh is not None:
                rank_zero_info("teacher: runs uncompiled, as its weights are gathered between its parts")
            elif self.compile_args is not None:
                network.compile(**self.compile_args)  # in place: names in the state dict stay

        self._first = first
        size = self.image_size
        inputs = torch.zeros(2, channels, size, size) if example is None else example()
        if inputs is not None:
            self._try(inputs)

    def lay_out(self, last: bool) -> None:
        """Lay the weights out in memory, now or once they are there; what a network without convolutions has stays."""
        before, self.channels_last = self.channels_last, last
        # What is gathered is contiguous; a teacher that is shared out gets its images laid out alone.
        if self.network is not None and self.mesh is None and (before or last) and convolves(self.network):
            self.network.to(memory_format=torch.channels_last if last else torch.contiguous_format)

    @property
    def members(self) -> list[FrozenTeacher]:
        """Itself: the teachers that answer."""
        return [self]

    @property
    def _device(self) -> torch.device:
        return next((p.device for p in (self.network or nn.Module()).parameters()), torch.device("cpu"))

    def agreed(self, mine: bool) -> bool:
        """Say whether something is so on every process that holds a share of the teacher; all of them must ask."""
        return mine if self.mesh is None else sharding.agreed(self.mesh, mine)

    def facts(self, precision: str) -> dict[str, Any]:
        """Return all that decides about the answers to given images, as plain values.

        Args:
            precision: of the Trainer, for a teacher without one of its own.

        Returns:
            None for what is only known of a teacher that was built.
        """
        source = self.source if isinstance(self.source, str) else type(self.source).__name__
        file = self.checkpoint if self.checkpoint is None else digest_of_file(self.checkpoint)
        network = self.network or (self.source if self.checkpoint is None else None)
        adapt = (
            None if self._adapt is None else [part.flatten().tolist() for part in self._adapt[:2]] + [self._adapt[2]]
        )
        choice = {} if self.classes is None else {"classes": list(self.classes)}
        return {
            **choice,
            "network": source,
            "arguments": {key: repr(value) for key, value in self.args.items()},
            "file": file,
            "fingerprint": fingerprint(network) if isinstance(network, nn.Module) else None,
            "images": None if self.network is None else repr(adapt),
            "precision": self.precision or precision,
            "compiled": self.compile_args is not None and self.mesh is None,
            **({"layout": "channels_last"} if self.channels_last else {}),  # older folders say nothing of it
        }

    def _try(self, inputs: Inputs) -> None:
        """Run the network on a few rows, and take what it gives."""
        first, self._first = self._first, None
        like = next((p for p in self.network.parameters()), torch.zeros(1))  # type: ignore[union-attr]
        if like.device.type == "meta":
            raise InputError("teacher: expected weights, got a network on the meta device, which has none")
        devices = [like.device] if like.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            try:
                logits = self(on_each(lambda tensor: tensor.to(like.device), inputs))
            except InputError:
                raise
            except Exception as error:
                raise failure("teacher", inputs, error) from error
        rows = rows_in(inputs)
        if logits.shape != (rows, self.num_classes if self.classes is None else logits.shape[-1]):
            raise InputError(
                f"teacher: expected logits of the student's {self.num_classes} classes, got output of shape "
                f"{tuple(logits.shape)} for {rows} rows"
            )
        if first is not None:
            first(int(logits.shape[1]))

    def move(self, fn: Callable[[Tensor], Tensor]) -> None:
        """Apply ``fn``, which ``nn.Module.to`` and its like apply to every tensor."""
        if self.network is None:
            return
        if self.mesh is not None:  # its shares stay where the mesh is
            sharding.refuse_conversion(fn, self._device, self.precision)
            return

        def moved(tensor: Tensor) -> Tensor:
            if self.precision is None:
                return fn(tensor)
            return tensor.to(fn(tensor.new_empty(0)).device)  # its own precision stays

        self.network._apply(moved)  # type: ignore[no-untyped-call]
        if self._adapt is not None:
            factor, shift, size = self._adapt
            self._adapt = moved(factor), moved(shift), size
        if self._choice is not None:
            self._choice = self._choice.to(moved(torch.empty(0, device=self._choice.device)).device)

    def __call__(self, inputs: Inputs) -> Tensor:
        """Logits ``(batch, classes)`` in float32 or better, without a graph.

        Raises:
            InputError: if the teacher was not prepared or something has put it in train mode.
        """
        if self.network is None or self.network.training:
            state = "not built yet" if self.network is None else "in train mode"
            raise InputError(f"teacher: expected a network in eval mode, it is {state}")
        if self._first is not None:  # the data could not be asked for an example
            self._try(take_rows(inputs, slice(2)))
        # What FSDP2 gathers into is kept, and a step of training cannot use what was made in inference mode.
        with torch.inference_mode(torch.is_inference_mode_enabled() and self.mesh is None), torch.no_grad():
            if self._adapt is not None and isinstance(inputs, Tensor):
                inputs = adaptation.adapted(inputs, *self._adapt)
            logits = self._forward(channels_last(inputs) if self.channels_last else inputs)
            if self._choice is not None:
                logits = logits.index_select(1, self._choice)
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def _forward(self, inputs: Inputs) -> Tensor:
        network, device = cast(nn.Module, self.network), device_of(inputs)
        if self.precision is None:
            weights = next((p.dtype for p in network.parameters() if p.is_floating_point()), None)
            if weights is not None and not torch.is_autocast_enabled(device.type):
                inputs = converted(inputs, device, weights)  # for a teacher in float16 that was given from Python, say
            return logits_of(run_network(network, inputs), "teacher")
        dtype = {"32": torch.float32, "bf16": torch.bfloat16, "16": torch.float16}[self.precision]
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            return logits_of(run_network(network, converted(inputs, device, torch.float32)), "teacher")

    def __deepcopy__(self, memo: dict[int, Any]) -> FrozenTeacher:
        """Return itself: copies of the student share the teacher."""
        return self
