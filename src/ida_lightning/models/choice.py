"""Which outputs of a pretrained network stand for the classes of a data set that has only some of them."""

from __future__ import annotations

from collections.abc import Sequence

import timm
from timm.data import ImageNetInfo  # type: ignore[attr-defined]
from torch import nn
from torchvision import models as torchvision_models

from ida_lightning.errors import InputError
from ida_lightning.models.named import TORCHVISION_PREFIXES
from ida_lightning.models.weights import Weights

_IMAGENET = 1000


def outputs_in(weights: Weights | None, network: str | nn.Module) -> int | None:
    """Return how many outputs the network in a weight file has, None where neither file nor timm tells.

    Args:
        weights: that were read; None if there is no file.
        network: that they are for.
    """
    if weights is None:
        return None
    if weights.class_names is not None:
        return len(weights.class_names)
    config = timm.get_pretrained_cfg(network) if isinstance(network, str) and timm.is_model(network) else None
    head = weights.tensors.get(f"{config.classifier}.weight") if config is not None else None
    return None if head is None else len(head)


def known_outputs(name: str | nn.Module, network: nn.Module, outputs: int) -> list[str] | None:
    """Return what the outputs of a network stand for, where its weights do not say: by its hub, or of ImageNet-1k.

    Args:
        name: of the network; nothing is known of a module.
        network: that was built.
        outputs: how many it has.

    Returns:
        For timm ``"n01440764: tench, Tinca tinca"``; torchvision has words alone.
    """
    said = (vars(network).get("pretrained_cfg") or {}).get("label_names")
    if said is not None and len(said) == outputs:
        return list(map(str, said))
    if not isinstance(name, str) or outputs != _IMAGENET:
        return None
    prefix = next((prefix for prefix in TORCHVISION_PREFIXES if name.startswith(prefix)), None)
    if prefix is not None:
        weights = torchvision_models.get_model_weights(name.removeprefix(prefix))["DEFAULT"]
        return list(weights.meta["categories"])
    info = ImageNetInfo()
    return [f"{info.index_to_label_name(i)}: {info.index_to_description(i)}" for i in range(outputs)]


def chosen_outputs(
    classes: Sequence[int] | Sequence[str] | str,
    outputs: int,
    names: Sequence[str] | None,
    class_names: Sequence[str] | None,
    num_classes: int,
) -> list[int]:
    """Return which outputs of a network stand for the classes of a data set, one for each.

    Args:
        classes: numbers of outputs, or their names, in the order of the data set's classes; ``"by_name"`` for the data
            set's own names.
        outputs: how many there are.
        names: of the outputs, if known; ``"n01440764: tench, Tinca tinca"`` is found by any of its parts.
        class_names: of the data set, if known.
        num_classes: of the data set.

    Raises:
        InputError: for another number of classes, outputs that do not exist, and names that are unknown or of several
            outputs.

    Example:
        >>> chosen_outputs(["dog", "n1"], 3, ["n1: cat, tom", "n2: dog", "n3: eel"], None, 2)
        [1, 0]
    """
    wanted = class_names if classes == "by_name" else classes
    if wanted is None:
        raise InputError("teacher_classes: expected data with class names for by_name, they have none")
    if len(wanted) != num_classes:
        raise InputError(
            f"teacher_classes: expected {num_classes}, one output for every class of the data set, got {len(wanted)}"
        )
    if isinstance(wanted[0], int):
        if (highest := max(map(int, wanted))) >= outputs:
            raise InputError(f"teacher_classes: expected outputs 0 ... {outputs - 1} of the teacher, got {highest}")
        return [int(number) for number in wanted]
    if names is None:
        raise InputError(
            f"teacher_classes: expected numbers, the names of the teacher's {outputs} outputs are not known"
        )
    numbers: dict[str, list[int]] = {}
    for number, name in enumerate(names):
        synset, _, words = name.rpartition(": ")
        for part in {name, synset, words, *words.split(", ")} - {""}:
            numbers.setdefault(part.lower(), []).append(number)
    chosen = []
    for name in map(str, wanted):
        found = numbers.get(name.lower().replace("_", " ")) or numbers.get(name.lower(), [])
        if len(found) != 1:
            which = f"is the name of outputs {found}" if found else "is none of them"
            raise InputError(f"teacher_classes: expected names of the teacher's {outputs} outputs, {name!r} {which}")
        chosen += found
    return chosen
