"""Weight files of other people's making: the right tensors, or one line that says what the file holds."""

import argparse
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from ida_lightning import InputError
from ida_lightning.callbacks import ExportCallback
from ida_lightning.models import (
    Description,
    ImageInput,
    description,
    exportable,
    fingerprint,
    load_weights,
    put_weights,
    read_description,
    weights,
)
from ida_lightning.modules import ClassificationModule
from tests.helpers.data import BlobsDataModule
from tests.helpers.networks import TinyNet
from tests.helpers.trainers import trainer


@pytest.fixture
def lines(monkeypatch):
    """What is said about files."""
    said = []
    monkeypatch.setattr(weights, "rank_zero_info", said.append)
    return said


PLAIN, EMA = TinyNet().state_dict(), TinyNet().state_dict()


def loaded(path):
    network = TinyNet()
    put_weights(network, load_weights(path), path)
    return network.state_dict()


@pytest.mark.parametrize(
    ("content", "chosen"),
    [
        ({"state_dict": PLAIN, "state_dict_ema": EMA}, EMA),
        (
            {"model": PLAIN, "model_ema": {f"module.{k}": v for k, v in EMA.items()} | {"n_averaged": torch.ones(1)}},
            EMA,
        ),
        ({"state_dict": PLAIN, "optimizer": {"state": {0: {"step": torch.ones(1)}}, "param_groups": []}}, PLAIN),
        ({"net": PLAIN, "acc": 71.0}, PLAIN),
        ({"model_state_dict": PLAIN}, PLAIN),
        ({"whatever": PLAIN}, PLAIN),
        ({**PLAIN, "remark": "trained by me"}, PLAIN),
        ({k: v for k, v in PLAIN.items() if "num_batches" not in k}, PLAIN),
    ],
    ids=["timm", "torchvision", "optimiser", "net", "model_state_dict", "one", "remark", "old torch"],
)
def test_right_tensors_are_taken_from_a_checkpoint(content, chosen, tmp_path):
    torch.save(content, tmp_path / "w.pth")
    assert all(torch.equal(value, chosen[key]) for key, value in loaded(tmp_path / "w.pth").items())


def test_a_choice_of_weights_is_said(tmp_path, lines):
    torch.save({"state_dict": PLAIN, "state_dict_ema": EMA}, tmp_path / "w.pth")
    load_weights(tmp_path / "w.pth", "teacher_checkpoint")
    (line,) = lines
    assert line.endswith("w.pth: took the averaged weights, state_dict_ema, not state_dict")


def test_several_unknown_state_dicts_are_refused_by_name(tmp_path):
    torch.save({"a": PLAIN, "b": EMA}, tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"w.pth holds several state dict of tensors: a, b"):
        load_weights(tmp_path / "w.pth")


def test_arguments_and_numbers_of_training_scripts_are_read(tmp_path):
    args = argparse.Namespace(lr=0.1, out=Path("runs"), classes=np.arange(3))
    extras = {"args": args, "best": np.float64(0.7), "step": np.int64(3), "name": np.str_("r18"), "on": np.bool_(True)}
    torch.save({"state_dict": PLAIN, **extras}, tmp_path / "w.pth")
    assert torch.equal(loaded(tmp_path / "w.pth")["0.weight"], PLAIN["0.weight"])


class Custom:
    pass


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_what_a_file_holds_is_named(tmp_path):
    for content, name in (
        ({"state_dict": PLAIN, "args": Custom()}, r"tests.test_foreign_weights.Custom"),
        (TinyNet(), r"tests.helpers.networks.TinyNet"),
    ):
        torch.save(content, tmp_path / "w.pth")
        with pytest.raises(InputError, match=f"w.pth holds code, .*{name}.*, which is never run") as caught:
            load_weights(tmp_path / "w.pth")
        assert not {"\n", "\x1b"} & set(str(caught.value))
        assert "weights_only" not in str(caught.value)
    torch.jit.script(nn.Linear(2, 2)).save(tmp_path / "script.pt")
    with pytest.raises(InputError, match=r"script.pt is a TorchScript program"):
        load_weights(tmp_path / "script.pt")


@pytest.mark.parametrize(
    "metadata",
    [
        {"class_names": "cat,dog"},
        {"class_names": '{"0": "cat", "1": "dog"}'},
        {"class_names": '["cat", "dog"]'},
        {"image_input": '{"mean": [0.5]}'},
        {"format": "pt"},
        {"ida_lightning": "5"},
        {},
    ],
    ids=str,
)
def test_foreign_metadata_means_nothing_here(metadata, tmp_path, lines, monkeypatch):
    monkeypatch.setattr(description, "rank_zero_info", lines.append)
    save_file(PLAIN, tmp_path / "w.safetensors", metadata)
    read = load_weights(tmp_path / "w.safetensors")
    assert (read.description, read.class_names, read.image_input) == (None, None, None)
    assert lines == []
    put_weights(TinyNet(), read, "w.safetensors", "teacher_checkpoint")
    (line,) = lines
    assert line.startswith("teacher_checkpoint: w.safetensors does not describe its network: stem, classes and images")


@pytest.mark.parametrize(
    ("change", "key"),
    [
        ({"classes": "cat"}, "class_names"),
        ({"images": {"mean": [0.5], "std": [0.0], "size": 8}}, "image_input"),
        ({"images": {"mean": ["a"], "std": [1.0], "size": 8}}, "image_input"),
        ({"network": {"name": 5}}, "network"),
        ({"network": {"stem": "huge"}}, "stem"),
        ({"network": {"strides": {"0": 2}}}, "strides"),
        ({"network": {"num_classes": -1}}, "num_classes"),
        ({"metrics": {"val": "good"}}, "metrics"),
        ({"recipe": []}, "recipe"),
    ],
    ids=str,
)
def test_what_is_malformed_in_a_description_is_said(change, key, tmp_path, lines, monkeypatch):
    monkeypatch.setattr(description, "rank_zero_info", lines.append)
    save_file(PLAIN, tmp_path / "w.safetensors", {"ida_lightning": json.dumps({"format": 1, **change})})
    assert load_weights(tmp_path / "w.safetensors").description == Description()
    (line,) = lines
    assert f"{key} is not in this package's form and was ignored" in line


def test_a_description_comes_back_as_it_was(tmp_path):
    said = Description(
        **{"network": "resnet18", "network_args": {"drop_rate": 0.1}, "stem": "small", "class_path": "a.B"},
        **{"strides": {"conv1": [2, 2]}, "num_classes": 2, "in_channels": 1, "class_names": ["a", "b"]},
        **{"image_input": ImageInput((0.5,), (0.2,), 32), "interpolation": "bilinear", "crop": 0.875},
        **{"vocabulary": "4c1f"},
        **{"recipe": {"methods": []}, "metrics": {"val_acc": 0.5}, "versions": {"torch": "2"}},
    )
    assert None not in said
    save_file(PLAIN, tmp_path / "w.safetensors", said.metadata())
    assert load_weights(tmp_path / "w.safetensors").description == said
    assert read_description(tmp_path / "w.safetensors") == said
    torch.save({"state_dict": PLAIN, "ida_lightning": said.content()}, tmp_path / "w.ckpt")
    assert read_description(tmp_path / "w.ckpt") == load_weights(tmp_path / "w.ckpt").description == said


@pytest.mark.parametrize(
    "value", [torch.ones(8, 1, 3, 3, dtype=torch.int64), torch.ones(8, 1, 3, 3, dtype=torch.complex64)], ids=str
)
def test_tensors_that_would_be_truncated_are_refused(value, tmp_path):
    torch.save({**PLAIN, "0.weight": value}, tmp_path / "w.pth")
    with pytest.raises(InputError, match="does not fit the network: 0.weight is .*, the network has float32"):
        loaded(tmp_path / "w.pth")


@pytest.mark.filterwarnings("ignore:Validating sparse")
def test_sparse_and_empty_tensors_are_refused(tmp_path):
    for value, kind in ((torch.eye(3).to_sparse(), "sparse_coo"), (torch.ones(3, device="meta"), "without values")):
        torch.save({**PLAIN, "0.bias": value}, tmp_path / "w.pth")
        with pytest.raises(InputError, match=f"expected dense tensors, 0.bias is {kind}"):
            load_weights(tmp_path / "w.pth")


class Odd(nn.Module):
    """Weights in channels_last, transposed, and shared, and extra state that is no tensor."""

    def __init__(self):
        super().__init__()
        self.net = TinyNet(channels=3).to(memory_format=torch.channels_last)
        self.turned = nn.Parameter(torch.randn(3, 4).t())
        self.again = self.net[0]

    def forward(self, images):
        return self.net(images) + 0 * self.turned.sum()

    def get_extra_state(self):
        return {"steps": 3}

    def set_extra_state(self, state):
        self.steps = state["steps"]


class RGB(BlobsDataModule):
    channels, mean, std = 3, (0.2,) * 3, (0.25,) * 3

    def load(self):
        splits = super().load()
        for split in splits.values():
            split.images = split.images.expand(-1, 3, -1, -1)
        return splits


def test_weights_of_any_layout_are_exported(tmp_path):
    network, path = Odd(), tmp_path / "odd.safetensors"
    module = ClassificationModule(network, 4, 3, 8)
    trainer(tmp_path, callbacks=[ExportCallback(str(path))]).fit(module, datamodule=RGB(16))
    kept = load_file(path)
    assert all(torch.equal(kept[name], tensor) for name, tensor in exportable(network).items())
    again = Odd()
    put_weights(again, load_weights(path), path)
    assert fingerprint(again) == fingerprint(network)


def test_export_is_tried_before_training(tmp_path, monkeypatch):
    network = TinyNet()
    network.register_buffer("table", torch.eye(3).to_sparse())
    module = ClassificationModule(network, 4, 1, 8)
    monkeypatch.setattr(module, "training_step", lambda *batch: pytest.fail("trained"))
    with pytest.raises(InputError, match="network: table cannot be exported, float32 sparse_coo"):
        trainer(tmp_path, callbacks=[ExportCallback(str(tmp_path / "w.safetensors"))]).fit(module, BlobsDataModule(16))
