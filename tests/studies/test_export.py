"""``ida-lightning export``: every format is loaded again and answers as the network did."""

import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import yaml
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file

from ida_lightning import load_student, read_description
from ida_lightning.__main__ import main
from ida_lightning.callbacks import ExportCallback
from ida_lightning.modules import ClassificationModule
from ida_lightning.studies.export import formats
from tests.helpers.data import BlobsDataModule
from tests.helpers.networks import TinyNet
from tests.helpers.trainers import trainer

DATA = {"class_path": "tests.helpers.data.BlobsDataModule", "init_args": {"batch_size": 16}}


def trained(folder, model, **options):
    """Train a network for an epoch; its export, its checkpoint and the config of its fit."""
    callbacks = [ExportCallback(str(folder / "net.safetensors"))]
    run = trainer(folder, callbacks=callbacks)
    run.fit(ClassificationModule(model, 4, 1, 8, **options), BlobsDataModule(batch_size=16))
    run.save_checkpoint(folder / "net.ckpt")
    name = model if isinstance(model, str) else f"{type(model).__module__}.{type(model).__name__}"
    module = {"class_path": "ClassificationModule", "init_args": {"model": name, **options}}
    (folder / "fit.yaml").write_text(yaml.safe_dump({"model": module, "data": DATA}))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("small"), "test_resnet", model_args={"stem": "small"})


def export(folder, to, *more, file="net.safetensors", config=True):
    given = [f"--config={folder / 'fit.yaml'}"] if config else []
    main(["export", f"--checkpoint={folder / file}", f"--to={to}", f"--out={folder / 'out'}", *given, *more])
    kind = formats.FORMATS[to]
    return folder / "out" / kind.file, json.loads((folder / "out" / kind.report).read_text())


def refused(capsys, *args, **options):
    with pytest.raises(SystemExit) as stop:
        export(*args, **options)
    assert stop.value.code == 2
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("ida-lightning: "))
    return line


def test_onnx_answers_with_pixels_inside_and_any_batch(folder, capsys):
    onnxruntime = pytest.importorskip("onnxruntime")
    path, report = export(folder, "onnx", "--preprocess=inside", "--images=100")
    parity = report["parity"]
    assert (parity["images"], parity["batches"]) == (16, [1, 7, 8])
    assert parity["origin"] == "test images of BlobsDataModule, as the config has them"
    assert parity["largest_difference"] < 1e-4
    assert parity["agreement"] == 1
    assert parity["accuracy"] == parity["exported_accuracy"] > 0
    assert report["preprocessing"]["inside"] == ["normalise"]
    assert "largest difference of logits" in capsys.readouterr().out
    session = onnxruntime.InferenceSession(path)
    assert json.loads(session.get_modelmeta().custom_metadata_map["ida_lightning"]) == report["description"]
    pixels = torch.rand(3, 1, 8, 8)
    (logits,) = session.run(None, {"images": pixels.numpy()})
    expected = load_student(folder / "net.safetensors")((pixels - 0.2) / 0.25)
    np.testing.assert_allclose(logits, expected.detach().numpy(), atol=1e-4)
    assert {file.name for file in (folder / "out").iterdir()} >= {"model.onnx", "model.onnx.json"}


def test_a_checkpoint_becomes_a_program_of_torch_export(folder):
    path, report = export(folder, "torch_export", file="net.ckpt", config=False)
    assert report["parity"]["origin"].startswith("made pictures of noise, as no config was given")
    assert report["parity"]["accuracy"] is None
    assert report["preprocessing"]["outside"][-1] == "subtract [0.2] and divide by [0.25], per channel"
    extra = {"ida_lightning.json": ""}
    program = torch.export.load(path, extra_files=extra).module()
    assert json.loads(extra["ida_lightning.json"])["network"]["stem"] == "small"
    images = torch.rand(5, 1, 8, 8)
    torch.testing.assert_close(program(images), load_student(folder / "net.ckpt")(images), atol=1e-4, rtol=0)


def test_a_checkpoint_becomes_described_safetensors(folder):
    path, report = export(folder, "safetensors", file="net.ckpt")
    said = read_description(path)
    assert said[:3] == ("test_resnet", {}, "small")
    assert said.metrics.keys() == {"model/val_acc", "model/val_nll"}
    assert report["parity"]["largest_difference"] == 0
    images = torch.rand(5, 1, 8, 8)
    assert torch.equal(load_student(path)(images), load_student(folder / "net.safetensors")(images))


def test_a_hub_folder_is_one_that_timm_and_the_hub_read(tmp_path):
    folder = trained(tmp_path, "test_resnet", model_args={"drop_rate": 0.1})
    _, report = export(folder, "hub", "--license=apache-2.0")
    network = timm.create_model(f"local-dir:{folder / 'out'}", pretrained=True).eval()
    images = torch.rand(5, 1, 8, 8)
    assert torch.equal(network(images), load_student(folder / "net.safetensors")(images))
    data = timm.data.resolve_model_data_config(network)
    assert (data["input_size"], list(data["mean"]), list(data["std"])) == ((1, 8, 8), [0.2], [0.25])
    assert (data["interpolation"], data["crop_pct"]) == ("bilinear", 1.0)
    assert network.pretrained_cfg["label_names"] == BlobsDataModule.class_names
    card = ModelCard.load(folder / "out" / "README.md")
    assert (card.data.license, card.data.library_name) == ("apache-2.0", "timm")
    assert f"accuracy {report['parity']['accuracy']:.2%}" in card.text
    assert f"| model/val_acc | {read_description(folder / 'net.safetensors').metrics['model/val_acc']:.4f}" in card.text
    assert {file.name for file in (folder / "out").iterdir()} == {
        "config.json",
        "model.safetensors",
        "README.md",
        "parity.json",
    }


def test_a_network_of_ones_own_is_built_by_the_config(tmp_path, capsys):
    folder = trained(tmp_path, TinyNet())
    path, _ = export(folder, "safetensors")
    assert load_file(path).keys() == TinyNet().state_dict().keys()
    assert read_description(path).network == "tests.helpers.networks.TinyNet"  # which is not called
    assert "network of your own class" in refused(capsys, folder, "onnx", config=False)
    assert "expected a network of timm by its name for hub" in refused(capsys, folder, "hub")


def test_a_small_stem_is_no_hub_folder(folder, capsys):
    line = refused(capsys, folder, "hub")
    assert "expected the stem 'standard' for hub" in line
    assert "has 'small', which timm cannot build" in line


def test_answers_that_differ_fail_and_leave_nothing(folder, capsys, monkeypatch):
    older = folder / "out" / "model.safetensors"
    export(folder, "safetensors")
    before = older.read_bytes()
    monkeypatch.setattr(formats, "load_student", lambda *_: lambda images: torch.full((len(images), 4), float("nan")))
    line = refused(capsys, folder, "safetensors", "--tolerance=0.01")
    assert "expected logits that differ by at most 0.01, got largest difference of logits inf" in line
    assert "accuracy" in line
    assert older.read_bytes() == before


def changed(folder, tmp_path, **metadata):
    described = read_description(folder / "net.safetensors")._replace(**metadata)
    save_file(load_file(folder / "net.safetensors"), tmp_path / "net.safetensors", described.metadata())
    (tmp_path / "fit.yaml").write_text((folder / "fit.yaml").read_text())
    return tmp_path


@pytest.mark.parametrize(
    ("metadata", "complaint"),
    [
        ({"class_names": list("abcd")}, "config: expected the classes ['a', 'b', 'c', 'd'] of "),
        ({"image_input": ((0.2,), (0.25,), 16)}, "config: expected images of size 16, as "),
        ({"image_input": ((0.5,), (0.25,), 8)}, "config: expected images of mean (0.5,), as "),
        ({"stem": "standard"}, "checkpoint: expected the stride [1, 1] in "),
    ],
    ids=["classes", "size", "mean", "stem"],
)
def test_a_config_of_something_else_is_refused(metadata, complaint, folder, tmp_path, capsys):
    from ida_lightning.models import ImageInput

    if "image_input" in metadata:
        metadata = {"image_input": ImageInput(*metadata["image_input"])}
    if "stem" in metadata:
        metadata = {"stem": "standard", "strides": {}}
    assert complaint in refused(capsys, changed(folder, tmp_path, **metadata), "safetensors")


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (["--preprocess=inside"], "preprocess: expected outside for safetensors"),
        (["--images=0"], "images: expected at least 1, got 0"),
        (["--tolerance=-1"], "tolerance: expected a number >= 0"),
        (["--checkpoint=nothing.ckpt"], "checkpoint: expected a weight file, found nothing at nothing.ckpt"),
        (["--to=tflite"], "to"),
    ],
)
def test_what_cannot_be_exported_is_one_line(more, complaint, folder, capsys):
    assert complaint in refused(capsys, folder, "safetensors", *more, config=False)


def test_a_missing_package_is_named(folder, capsys, monkeypatch):
    monkeypatch.setattr("ida_lightning.checks.find_spec", lambda name: None)
    line = refused(capsys, folder, "onnx")
    assert "onnx needs onnx, onnxscript, onnxruntime: pip install 'ida-lightning[export]'" in line
    assert not Path("out").exists()
