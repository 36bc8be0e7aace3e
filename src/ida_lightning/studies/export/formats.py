"""The files that an export can be, and how each is run again."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ida_lightning.checks import require_extra
from ida_lightning.errors import InputError
from ida_lightning.models import exportable, load_student, logits_of
from ida_lightning.models.description import KEY
from ida_lightning.models.named import HUB_PREFIXES, is_registered
from ida_lightning.studies.export.source import Source

Runner = Callable[[Tensor], Tensor]
"""Answers a batch of images by an exported file."""


class Format(NamedTuple):
    """A kind of export.

    Attributes:
        write: writes the files into a folder and returns what runs them, on what ``Network`` takes.
        file: the main one.
        report: the name of the report beside it.
        others: further files.
        takes_pixels: whether normalising can be a part of the file.
        needs: packages beside the package's own.
    """

    write: Callable[[Network, Source, Path], Runner]
    file: str
    report: str
    others: tuple[str, ...] = ()
    takes_pixels: bool = False
    needs: tuple[str, ...] = ()


class Network(nn.Module):
    """The network as it is exported: from images to logits alone.

    Args:
        source: with the network.
        pixels: whether images are pixel values from 0 to 1, which are normalised here, or normalised already.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, source: Source, pixels: bool) -> None:
        super().__init__()
        seen = source.description.image_input
        assert seen is not None
        self.network = source.network
        self.pixels = pixels
        self.register_buffer("mean", torch.tensor(seen.mean)[:, None, None], persistent=False)
        self.register_buffer("std", torch.tensor(seen.std)[:, None, None], persistent=False)

    def normalise(self, pixels: Tensor) -> Tensor:
        """Return what the network has seen in training, from pixel values between 0 and 1."""
        return (pixels - self.mean) / self.std

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``(batch, classes)``."""
        return logits_of(self.network(self.normalise(images) if self.pixels else images), "network")


def _safetensors(network: Network, source: Source, folder: Path) -> Runner:
    path = folder / "model.safetensors"
    save_file(exportable(source.network), path, source.description.metadata())
    name = source.description.network
    built_by_file = name is not None and is_registered(name)
    return _answers(load_student(path, None if built_by_file else deepcopy(source.network)))


def _torch_export(network: Network, source: Source, folder: Path) -> Runner:
    path = folder / "model.pt2"
    with _silent():
        program = torch.export.export(network, (_example(source),), dynamic_shapes=_DYNAMIC)
        torch.export.save(program, path, extra_files={f"{KEY}.json": source.description.metadata()[KEY]})
        return _answers(torch.export.load(path).module())


def _onnx(network: Network, source: Source, folder: Path) -> Runner:
    import onnxruntime

    path = folder / "model.onnx"
    with _silent():
        program = torch.onnx.export(
            network,
            (_example(source),),
            input_names=["images"],
            output_names=["logits"],
            dynamic_shapes=_DYNAMIC,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    program.model.metadata_props.update(source.description.metadata())
    program.save(path, external_data=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return lambda images: torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])


def _hub(network: Network, source: Source, folder: Path) -> Runner:
    """Write a folder that timm and huggingface_hub take; the card comes with the figures."""
    said = source.description
    if (
        said.network is None
        or said.network.startswith((*HUB_PREFIXES, "torchvision"))
        or not timm.is_model(said.network)
    ):
        raise InputError(f"to: expected a network of timm by its name for hub, got {said.network or said.class_path}")
    if said.stem not in (None, "standard"):
        raise InputError(
            f"to: expected the stem 'standard' for hub, {source.path} has {said.stem!r}, which timm cannot build: "
            "timm.create_model would load its weights into the standard network without a word, and answer otherwise; "
            "take safetensors (ida_lightning.load_student), onnx or torch_export"
        )
    (folder / "config.json").write_text(json.dumps(_timm_config(source), indent=2) + "\n")
    _safetensors(network, source, folder)
    return _answers(timm.create_model(f"local-dir:{folder}", pretrained=True))


def _timm_config(source: Source) -> dict[str, Any]:
    said, known = source.description, vars(source.network).get("pretrained_cfg") or {}
    seen = said.image_input
    assert seen is not None
    config = {
        **{"input_size": [len(seen.mean), seen.size, seen.size], "mean": list(seen.mean), "std": list(seen.std)},
        **{"interpolation": said.interpolation, "crop_pct": said.crop or 1.0, "crop_mode": "center"},
        **{"num_classes": said.num_classes, "fixed_input_size": bool(known.get("fixed_input_size", False))},
        **{key: known[key] for key in ("first_conv", "classifier") if key in known},
    }
    return {
        **{"architecture": said.network, "num_classes": said.num_classes, "label_names": said.class_names},
        **{"num_features": vars(source.network).get("num_features")},
        "model_args": {**(said.network_args or {}), "in_chans": said.in_channels},
        "pretrained_cfg": config,
    }


FORMATS: Mapping[str, Format] = {
    "safetensors": Format(_safetensors, "model.safetensors", "model.safetensors.json"),
    "onnx": Format(
        _onnx, "model.onnx", "model.onnx.json", takes_pixels=True, needs=("onnx", "onnxscript", "onnxruntime")
    ),
    "torch_export": Format(_torch_export, "model.pt2", "model.pt2.json", takes_pixels=True),
    "hub": Format(_hub, "config.json", "parity.json", ("model.safetensors", "README.md")),
}
_DYNAMIC = {"images": {0: torch.export.Dim("batch")}}


def require_packages(to: str) -> None:
    """Check that what a format needs is installed.

    Raises:
        InputError: naming what is not.
    """
    require_extra("to", "export", to, *FORMATS[to].needs)


def _example(source: Source) -> Tensor:
    """Return a batch of two: of one, the size would be taken for a constant."""
    seen = source.description.image_input
    assert seen is not None
    return torch.zeros(2, len(seen.mean), seen.size, seen.size)


def _answers(network: Callable[[Tensor], Any]) -> Runner:
    if isinstance(network, nn.Module) and not isinstance(network, torch.fx.GraphModule):
        network.eval()
    return lambda images: logits_of(network(images), "network")


@contextmanager
def _silent() -> Iterator[None]:
    """Leave out what torch's exporters say about their own insides."""
    with warnings.catch_warnings():
        for category in (DeprecationWarning, FutureWarning, UserWarning):
            warnings.simplefilter("ignore", category)
        yield
