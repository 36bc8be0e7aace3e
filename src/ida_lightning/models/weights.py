"""Weights from files that cannot run code, and what such a file says about its network."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from lightning.pytorch.utilities import rank_zero_info
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise
from torch import Tensor, nn

from ida_lightning.checks import path_or_address, text
from ida_lightning.errors import InputError, flag, is_a, kind_of
from ida_lightning.models.description import KEY, Description, ImageInput, check_description, description_in
from ida_lightning.models.reading import explain, load_values
from ida_lightning.models.vocabulary import note_vocabulary
from ida_lightning.remote import fetched, is_file

# The names under which checkpoints keep them; torchvision's and timm's among them.
_USUAL = ("state_dict", "model", "model_state_dict", "net", "network", "weights", "params")
# What wraps a network's own names in a checkpoint, outermost first.
_PREFIXES = ("module.", "_orig_mod.", "model.", "student.", "_orig_mod.")


class Weights(NamedTuple):
    """A network's tensors by name, and what the file says of the network; None where it says nothing."""

    tensors: dict[str, Tensor]
    description: Description | None = None

    @property
    def class_names(self) -> list[str] | None:
        """What the outputs stand for, if the file says so."""
        return None if self.description is None else self.description.class_names

    @property
    def image_input(self) -> ImageInput | None:
        """The images that the network was trained on, if the file says so."""
        return None if self.description is None else self.description.image_input


def fingerprint(network: nn.Module) -> str:
    """Compute the SHA-256 of every parameter and buffer, by name: equal for equal weights, whatever their file."""
    digest = hashlib.sha256()
    is_a("network", network, nn.Module)
    for name, tensor in sorted(_tensors_of(network).items()):
        plain = _whole(tensor).detach().cpu().contiguous()
        digest.update(f"{name} {plain.dtype} {tuple(plain.shape)};".encode())
        digest.update(plain.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _whole(tensor: Tensor) -> Tensor:
    """Return a tensor of which processes hold shares; all of them must ask."""
    gather = vars(type(tensor)).get("full_tensor")  # of a DTensor, whose import takes a second
    return tensor if gather is None else cast(Tensor, gather(tensor))


def load_weights(path: str | Path, what: str = "path", mapped: bool = False) -> Weights:
    """Read weights without running code: safetensors, a plain state dict, or a Lightning checkpoint.

    Args:
        path: the file, or its address (``s3://bucket/teacher.safetensors``). Anything not named ``*.safetensors`` is
            read with ``torch.load(weights_only=True)``. Where it holds averaged weights (``state_dict_ema``) beside
            others, those are taken, as timm does, and a line in the log says so.
        what: the argument that gave the path, for messages.
        mapped: whether tensors may lie in the file, of which is read what is used, for as long as they are kept.

    Returns:
        Tensors named as the network names them: wrappers of DDP, ``torch.compile`` and this package's modules
        are taken off.

    Raises:
        InputError: if there is no such file, or it is damaged, holds code, or is something else.
    """
    flag("mapped", mapped)
    given = path_or_address(str(text("what", what)), path)
    if not is_file(given, what):
        raise InputError(f"{what}: expected a weight file, found nothing at {given}")
    path = fetched(what, given)
    tensors: Mapping[Any, Any]
    facts: Mapping[Any, Any]
    if path.suffix == ".safetensors":
        tensors, facts = _read_safetensors(path, what)
    else:
        # What torch.save wrote before it made archives cannot be mapped.
        load = partial(torch.load, mmap=True) if mapped and zipfile.is_zipfile(path) else torch.load
        content = load_values(path, what, load)
        tensors = _state_dict(content, path, what)
        facts = content
    return Weights(
        _without_prefixes(_plain_tensors(tensors, path, what)),
        description_in(facts, path) if isinstance(facts, Mapping) else None,
    )


def _read_safetensors(path: Path, what: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (no mapping)
            metadata = file.metadata() or {}
    except (SafetensorError, RuntimeError, OSError, ValueError, TypeError, LookupError) as error:
        raise InputError(f"{what}: {explain(path, error)}") from error
    return tensors, decoded_metadata(metadata)


def decoded_metadata(metadata: Mapping[str, str]) -> dict[str, Any]:
    """Decode the entries of a safetensors file's metadata that may be this package's; what is no JSON stays text."""
    decoded: dict[str, Any] = {}
    for key in (KEY, "class_names", "image_input"):
        if key in metadata:
            try:
                decoded[key] = json.loads(metadata[key])
            except (ValueError, RecursionError):
                decoded[key] = metadata[key]
    return decoded


def _state_dict(content: Any, path: Path, what: str) -> Mapping[Any, Any]:
    """Return the network's tensors out of a checkpoint, averaged ones rather than others, as timm does."""
    if not isinstance(content, Mapping):
        raise InputError(f"{what}: {path} holds no state dict of tensors, but {kind_of(content)[:80]}")
    if _holds_tensors(content):
        return content
    found = [key for key, value in content.items() if isinstance(key, str) and _holds_tensors(value)]
    averaged = [key for key in found if "ema" in key.lower().split("_")]
    usual = [key for key in _USUAL if key in found]
    chosen = averaged or usual or found
    if not chosen or (len(chosen) > 1 and chosen is not usual):
        held = ", ".join(map(str, chosen or content)) or "nothing"
        raise InputError(f"{what}: {path} holds {'several' if chosen else 'no'} state dict of tensors: {held[:200]}")
    if len(found) > 1:
        others = ", ".join(key for key in found if key != chosen[0])
        kind = "the averaged weights, " if averaged else ""
        rank_zero_info(f"{what}: {path}: took {kind}{chosen[0]}, not {others}")
    return cast("Mapping[Any, Any]", content[chosen[0]])


def _holds_tensors(value: object) -> bool:
    """Tell whether a value is a state dict: tensors by name, but for a network's extra state and stray remarks."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        return False
    tensors = sum(isinstance(entry, Tensor) for entry in value.values())
    return tensors > 0 and not any(isinstance(entry, Mapping) for key, entry in value.items() if not _is_extra(key))


def _is_extra(key: str) -> bool:
    """Tell whether a state dict's entry is what ``Module.get_extra_state`` returned."""
    return key.rpartition(".")[2] == "_extra_state"


def _plain_tensors(tensors: Mapping[Any, Any], path: Path, what: str) -> dict[str, Tensor]:
    """Return the tensors of a state dict alone; a line says what else was there."""
    left_out = [key for key, value in tensors.items() if not isinstance(value, Tensor)]
    if left_out:
        rank_zero_info(f"{what}: {path}: left out what is no tensor: {', '.join(left_out)[:200]}")
    plain = {key: value for key, value in tensors.items() if isinstance(value, Tensor)}
    for key, value in plain.items():
        if value.layout != torch.strided or value.is_quantized or value.device.type == "meta":
            kind = "quantized" if value.is_quantized else str(value.layout).removeprefix("torch.")
            kind = "without values" if value.device.type == "meta" else kind
            raise InputError(f"{what}: {path}: expected dense tensors, {key} is {kind}")
    return plain


def _without_prefixes(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in _PREFIXES:
        if tensors and all(key.startswith(prefix) for key in tensors):
            tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
    return tensors


def put_weights(network: nn.Module, weights: Weights, path: str | Path, what: str = "path") -> None:
    """Load ``weights`` into ``network``, every tensor or none; see :func:`fitting_tensors`."""
    tensors = fitting_tensors(network, weights, path, what)
    network.load_state_dict(tensors, strict=False)  # compared there; a network's extra state stays its own


def fitting_tensors(network: nn.Module, weights: Weights, path: str | Path, what: str = "path") -> Mapping[str, Tensor]:
    """Return the tensors of ``weights`` by the names of ``network``, whose shapes they have; its values are not asked.

    A checkpoint of any LightningModule will do: if exactly one of its attributes holds all of the network's tensors,
    that one is taken.

    Raises:
        InputError: naming the first tensor that is missing, left over or of another shape, and the stem where it is
            another one than the file's.
    """
    text("what", what)
    path = path_or_address("path", path)
    state = _tensors_of(is_a("network", network, nn.Module))
    is_a("weights", weights, Weights)
    if weights.tensors.keys() != state.keys():
        first = next(iter(state), "")
        prefixes = [key.removesuffix(first) for key in weights.tensors if key.endswith(f".{first}")]
        holders = [prefix for prefix in prefixes if all(f"{prefix}{key}" in weights.tensors for key in state)]
        if len(holders) > 1:
            raise InputError(f"{what}: {path} holds {len(holders)} such networks: {', '.join(sorted(holders))}")
        if holders:
            weights = weights._replace(tensors={key: weights.tensors[f"{holders[0]}{key}"] for key in state})
    wrong = [
        f"{key} is {tuple(weights.tensors[key].shape)}, the network has {tuple(state[key].shape)}"
        for key in state
        if key in weights.tensors and state[key].shape != weights.tensors[key].shape
    ]
    # Old files lack this counter, and torch begins it at 0.
    needed = [key for key in state if key.rpartition(".")[2] != "num_batches_tracked"]
    wrong += [f"{key} is missing" for key in needed if key not in weights.tensors]
    wrong += [f"{key} is not in the network" for key in weights.tensors if key not in state]
    wrong += [
        f"{key} is {kind_of(weights.tensors[key])}, the network has {kind_of(state[key])}"
        for key in state
        if key in weights.tensors and not _keeps_values(weights.tensors[key], state[key])
    ]
    if wrong:
        more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
        raise InputError(f"{what}: {path} does not fit the network: {wrong[0]}{more}")
    check_description(network, weights.description, path, what)
    note_vocabulary(network, None if weights.description is None else weights.description.vocabulary)
    return weights.tensors


def exportable(network: nn.Module) -> dict[str, Tensor]:
    """Return copies of a network's tensors that safetensors can hold, whatever their layout in memory.

    Copies are on the CPU and contiguous, so ``channels_last``, transposed and shared weights are there too. Extra state
    (``Module.get_extra_state``) that is no tensor is left out, with a line in the log.

    Args:
        network: with its weights.

    Raises:
        InputError: for tensors that such a file cannot hold, by name.

    Example:
        >>> network = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
        >>> exportable(network)["weight"].is_contiguous()
        True
    """
    state = is_a("network", network, nn.Module).state_dict()
    if left_out := [name for name, value in state.items() if not isinstance(value, Tensor)]:
        rank_zero_info(f"export: left out what is no tensor: {', '.join(left_out)}")
    copies = {}
    for name, tensor in _tensors_of(network).items():
        try:
            plain = tensor.detach().resolve_conj().resolve_neg().cpu().clone(memory_format=torch.contiguous_format)
            serialise({name: plain.flatten()[:1].clone()})  # a tensor of one value: what fails is the kind
        except Exception as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise InputError(f"network: {name} cannot be exported, {_described(tensor)}: {reason[:160]}") from error
        copies[name] = plain
    return copies


def _described(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {str(tensor.layout).removeprefix('torch.')}"


def _tensors_of(network: nn.Module) -> dict[str, Tensor]:
    return {name: value for name, value in network.state_dict().items() if isinstance(value, Tensor)}


def _keeps_values(given: Tensor, own: Tensor) -> bool:
    """Tell whether loading converts a tensor without losing what it says."""
    if given.is_complex() != own.is_complex() or own.dtype == torch.bool != given.dtype:
        return False
    if own.is_floating_point():
        return given.is_floating_point()
    return not given.is_floating_point() or bool((given == given.round()).all())
