"""What is exported: the network of a weight file with what is known of it, and pictures to check the result with."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import lightning as L
import torch
from torch import Tensor, nn

from ida_lightning.cli import IDACLI
from ida_lightning.data.streaming.loader import StreamSplit
from ida_lightning.data_facts import INTERPOLATION, DataFacts, DescribedData, facts_from
from ida_lightning.errors import InputError
from ida_lightning.models import (
    Description,
    describe,
    load_network,
    load_weights,
    put_weights,
    read_description,
)
from ida_lightning.models.named import is_registered
from ida_lightning.modules.base import ClassifierBase
from ida_lightning.studies.network_file import image_input_of

_MADE = 64  # pictures, where no config gives real ones


class Source(NamedTuple):
    """A network and all that is known of it.

    Attributes:
        network: in eval mode, on the CPU.
        description: with image input and number of classes, whatever the file says.
        path: of the weight file.
    """

    network: nn.Module
    description: Description
    path: str


class Pictures(NamedTuple):
    """Pictures to compare the answers to.

    Attributes:
        pixels: ``(images, channels, size, size)``, from 0 to 1.
        labels: of them; None for made pictures.
        origin: where they come from, in words.
    """

    pixels: Tensor
    labels: Tensor | None
    origin: str


class _Reader(IDACLI):
    """Builds the data module and the module of a fit config, and a Trainer that is not used."""

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """Build one that needs no accelerator and writes nothing."""
        return L.Trainer(accelerator="cpu", devices=1, logger=False, enable_checkpointing=False, barebones=True)


def read_run(config: str | None) -> _Reader | None:
    """Build the data module and the module of a fit config, without its teacher; None for no config."""
    return None if config is None else _Reader(["validate", "--config", config])


def read_source(options: Mapping[str, Any], run: _Reader | None) -> Source:
    """Build the network of a weight file, as the file, the options or the config say.

    Args:
        options: of the command line.
        run: of the config.

    Raises:
        InputError: for a file that cannot be used, and a config of other images or classes, with both values.
    """
    path = str(options["checkpoint"])
    facts = facts_from(None if run is None else run.datamodule)
    with _named_checkpoint():
        said = read_description(path)
        if said.vocabulary is not None:
            raise InputError(f"to: expected transformers for a network that reads texts, got {options['to']}")
        own = said.network is None or not is_registered(said.network)
        if run is not None and own and options["network"] is None:
            network = read_own_network(path, run)
            classes = cast(ClassifierBase, run.model).num_classes
        else:
            network, said = load_network(path, options["network"], **(options["network_args"] or {}))
            classes = int(said.num_classes or 0)
    seen = image_input_of(options, said.image_input or facts.image_input)
    if seen is None:
        raise InputError(
            f"checkpoint: expected a file that says which images its network has seen, {path} does not; give config: "
            "of its fit, or image_input: '[[mean, ...], [std, ...], size]'"
        )
    if run is not None:
        _check_config(facts, said._replace(image_input=seen), path)
    built = describe(network, classes)
    known: dict[str, Any] = {
        **{"network": built.network, "network_args": built.network_args, "stem": built.stem, "strides": built.strides},
        **{"class_path": built.class_path, "num_classes": classes, "in_channels": len(seen.mean), "image_input": seen},
        **{"class_names": said.class_names or facts.class_names, "crop": said.crop or facts.crop},
        "interpolation": said.interpolation or INTERPOLATION,
    }
    return Source(network.eval(), said._replace(**known), path)


def read_own_network(path: str, run: IDACLI) -> nn.Module:
    """Return the network of a config with the weights of a file.

    Raises:
        InputError: for a module without one network, and weights that do not fit.
    """
    if not isinstance(run.model, ClassifierBase):
        raise InputError(f"config: expected a module of one network, got {type(run.model).__name__}")
    with _named_checkpoint():
        put_weights(run.model.network, load_weights(path), path)
    return run.model.network


def pictures_for(source: Source, run: _Reader | None, count: int) -> Pictures:
    """Return images of the config's test split, or its validation split; without a config made ones.

    Args:
        source: whose image input they have.
        run: of the config.
        count: of images, spread over the split.
    """
    seen = source.description.image_input
    assert seen is not None
    if run is None:
        shape = (min(count, _MADE), len(seen.mean), seen.size, seen.size)
        made = torch.rand(shape, generator=torch.Generator().manual_seed(0))
        return Pictures(made, None, "made pictures of noise, as no config was given: this checks no accuracy")
    data = run.datamodule
    if not isinstance(data, L.LightningDataModule) or not isinstance(data, DescribedData):
        raise InputError(f"config: expected a data module of this package, got {type(data).__name__}")
    data.prepare_data()
    data.setup("validate")
    name = next((name for name in ("test", "val") if name in data.splits), None)
    if name is None:
        raise InputError(f"config: expected test or validation images, {type(data).__name__} has {list(data.splits)}")
    split = data.splits[name]
    if not isinstance(split, StreamSplit):
        count = min(count, len(split))
        batch = split.__getitems__([index * len(split) // count for index in range(count)])
    else:  # the first of a stream
        batch = next(iter(data.test_dataloader() if name == "test" else data.val_dataloader()))
    inputs, labels = batch.inputs[:count], batch.label_mix.labels[:count, 0]
    return Pictures(inputs.float() / 255, labels, f"{name} images of {type(data).__name__}, as the config has them")


def _check_config(facts: DataFacts, said: Description, path: str) -> None:
    """Compare the images and classes of a config with those of a file."""
    own, theirs = facts.image_input, said.image_input
    for name in ("size", "mean", "std") if None not in (own, theirs) else ():
        expected, got = (one._asdict()[name] for one in (theirs, own))  # type: ignore[union-attr]
        if not torch.allclose(torch.tensor(expected, dtype=torch.double), torch.tensor(got, dtype=torch.double)):
            raise InputError(f"config: expected images of {name} {expected}, as {path} was trained on, got {got}")
    if None not in (said.class_names, facts.class_names) and said.class_names != facts.class_names:
        raise InputError(f"config: expected the classes {said.class_names} of {path}, got {facts.class_names}")


@contextmanager
def _named_checkpoint() -> Iterator[None]:
    """Name the option in messages about the weight file."""
    try:
        yield
    except InputError as error:
        raise InputError(re.sub(r"^path:", "checkpoint:", str(error))) from error
