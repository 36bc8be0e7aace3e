"""Predictions for real: any images, from a checkpoint or an exported file alone."""

import csv

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from ida_lightning import InputError
from ida_lightning.__main__ import main
from ida_lightning.callbacks import ExportCallback, PredictionsCallback
from ida_lightning.data import ImageFolderDataModule, ImagesDataModule
from ida_lightning.models import ImageInput, build_model, load_network, load_student, load_weights, read_description
from ida_lightning.modules import ClassificationModule
from tests.helpers.data import BlobsDataModule
from tests.helpers.folder_files import COLOURS, write_folder
from tests.helpers.networks import TinyNet
from tests.helpers.trainers import trainer


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def folder_data(root, **options):
    return ImageFolderDataModule(str(root), **{"image_size": 16, "batch_size": 6, "num_workers": 0, **options})


@pytest.fixture
def fitted(tmp_path):
    """A network that was trained on folders, its exported file and its checkpoint."""
    data = folder_data(write_folder(tmp_path / "data"))
    module = ClassificationModule("test_resnet", 3, 3, 16, model_args={"stem": "small", "drop_rate": 0.1})
    run = trainer(tmp_path, callbacks=[ExportCallback(str(tmp_path / "net.safetensors"))], max_epochs=1)
    run.fit(module, data)
    run.save_checkpoint(tmp_path / "net.ckpt")
    return module.eval(), tmp_path


def pictures(folder):
    """Pictures of several sizes and kinds, two of them in a folder that is named after a class."""
    (folder / "dog").mkdir(parents=True)
    Image.new("RGB", (50, 20), COLOURS["cat"]).save(folder / "wide.png")
    Image.new("RGBA", (9, 40), (*COLOURS["eel"], 255)).save(folder / "=tall.png")
    Image.new("RGB", (16, 16), COLOURS["dog"]).save(folder / "dog" / "exact.jpg")
    Image.new("L", (300, 200), 90).save(folder / "dog" / "grey.png")
    return folder


@pytest.mark.parametrize("file", ["net.safetensors", "net.ckpt"])
def test_a_weight_file_alone_predicts(fitted, file, capsys):
    module, folder = fitted
    images = pictures(folder / "pictures")
    out = folder / "out.csv"
    main(["predict", "--weights", str(folder / file), "--images", str(images), "--out", str(out), "--accelerator=cpu"])
    assert f"predictions: {out}" in capsys.readouterr().out
    rows = rows_of(out)
    assert [row["file"] for row in rows] == [
        str(images / name) for name in ("=tall.png", "wide.png", "dog/exact.jpg", "dog/grey.png")
    ]
    assert [row["true_name"] for row in rows] == ["", "", "dog", "dog"]
    assert [row["true_class"] for row in rows] == ["", "", "1", "1"]

    data = folder_data(folder / "data", predict_folder=str(images))
    expected = torch.cat(trainer(folder).predict(module, data))
    probabilities, classes = expected.sort(1, descending=True)
    for row, probability, top in zip(rows, probabilities.tolist(), classes.tolist(), strict=True):
        columns = ("", "_2", "_3")
        assert [int(row[f"class{rank}"]) for rank in columns] == top
        assert [row[f"name{rank}"] for rank in columns] == [list(COLOURS)[c] for c in top]
        assert [float(row[f"probability{rank}"]) for rank in columns] == pytest.approx(probability, abs=2e-6)
    assert "class_4" not in rows[0]


@pytest.mark.parametrize("file", ["net.safetensors", "net.ckpt"])
def test_a_weight_file_says_how_its_network_is_built(fitted, file):
    module, folder = fitted
    said = read_description(folder / file)
    assert said[:3] == ("test_resnet", {"drop_rate": 0.1}, "small")
    assert (said.num_classes, said.in_channels, said.crop) == (3, 3, 0.875)
    assert said.class_names == list(COLOURS)
    assert (said.image_input.size, said.interpolation) == (16, "bilinear")
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(load_student(folder / file)(images), module(images)), "with the small stem"


@pytest.mark.parametrize("file", ["net.safetensors", "net.ckpt"])
def test_another_stem_or_size_is_refused(fitted, file):
    module, folder = fitted
    path = folder / file
    stock = timm.create_model("test_resnet", num_classes=3)
    assert {k: v.shape for k, v in stock.state_dict().items()} == {
        k: v.shape for k, v in module.model.state_dict().items()
    }
    with pytest.raises(InputError, match=r"expected the stride \[1, 1\] in \S+ \(stem 'small'\), .* got \[2, 2\]"):
        load_student(path, stock)
    with pytest.raises(InputError, match="expected the stem 'small', which .* was trained with.*, got 'standard'"):
        load_student(path, build_model("test_resnet", 3))
    with pytest.raises(InputError, match="expected the stem 'small', .*, got 'medium'"):
        load_network(path, stem="medium")
    with pytest.raises(InputError, match="stem: expected 'small', .*, got 'standard'"):
        load_student(path, stem="standard")
    with pytest.raises(InputError, match="image_size: expected 16 pixels, .* got 32"):
        load_student(path, image_size=32)
    right = load_student(path, build_model("test_resnet", 3, stem="small"), stem="small", image_size=16)
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(right(images), module(images))


def test_older_files_load_and_need_the_name(fitted):
    module, folder = fitted
    older = folder / "older.safetensors"
    facts = {"class_names": '["cat", "dog", "eel"]', "image_input": "[[0.5, 0.5, 0.5], [0.2, 0.2, 0.2], 16]"}
    save_file(module.model.state_dict(), older, facts)
    assert load_weights(older)[1].class_names == list(COLOURS)
    assert load_weights(older).image_input == ImageInput((0.5,) * 3, (0.2,) * 3, 16)
    save_file(
        module.model.state_dict(), older, {**facts, "ida_lightning": '{"network": "test_resnet", "stem": "small"}'}
    )
    assert load_network(older).description[:3] == ("test_resnet", None, "small")
    save_file(module.model.state_dict(), older, {"class_names": "[1]"})  # somebody else's
    with pytest.raises(InputError, match=r"path: expected a file that says how its network is built, .* give network"):
        load_network(older)
    loaded = load_network(older, "test_resnet", stem="small", num_classes=3)
    assert loaded.network.state_dict().keys() == module.model.state_dict().keys()
    command = ["--weights", str(older), "--images", str(folder / "data" / "val"), "--out", str(folder / "o.csv")]
    named = ["--network=test_resnet", "--network_args={stem: small, num_classes: 3}", "--accelerator=cpu"]
    with pytest.raises(SystemExit):
        main(["predict", *command, *named])  # no image_input
    main(["predict", *command, *named, "--image_input=[[0.5, 0.5, 0.5], [0.2, 0.2, 0.2], 16]", "--top_k=1"])
    rows = rows_of(folder / "o.csv")
    assert [row["true_class"] for row in rows] == [""] * 9, "it does not say its classes"
    assert "class_2" not in rows[0]


def test_a_network_of_ones_own_class_is_said_to_be_one(tmp_path, blobs):
    path = tmp_path / "own.safetensors"
    trainer(tmp_path, callbacks=[ExportCallback(str(path))]).fit(ClassificationModule(TinyNet(), 4, 1, 8), blobs)
    assert read_description(path).network is None
    with pytest.raises(InputError, match="network of your own class"):
        load_network(path)


def test_pretrained_weights_are_not_fetched_again(tmp_path, blobs, monkeypatch):
    monkeypatch.setattr("timm.create_model", lambda name, pretrained=False, **options: TinyNet())
    module = ClassificationModule("test_resnet", 4, 1, 8, model_args={"pretrained": True})
    trainer(tmp_path, callbacks=[ExportCallback(str(tmp_path / "net.safetensors"))]).fit(module, blobs)
    assert read_description(tmp_path / "net.safetensors").network_args == {}


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (["--weights", "nothing.safetensors"], "weights: expected a weight file, found nothing at nothing.safetensors"),
        (["--images", "nowhere"], "images: expected a folder of images at"),
        (["--top_k=0"], "top_k: expected at least 1, got 0"),
        (["--tops=1"], "unrecognized arguments"),
    ],
)
def test_what_cannot_be_used_is_one_line(fitted, more, complaint, capsys):
    _, folder = fitted
    command = ["--weights", str(folder / "net.safetensors"), "--images", str(folder / "data"), "--accelerator=cpu"]
    with pytest.raises(SystemExit) as stop:
        main(["predict", *command, *more])
    assert stop.value.code == 2
    (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("ida-lightning: "))
    assert complaint in line


def test_grey_networks_see_grey_images(tmp_path):
    data = ImagesDataModule(str(pictures(tmp_path / "p")), ["a", "b"], 8, (0.5,), (0.2,))
    data.setup("predict")
    assert next(iter(data.predict_dataloader())).inputs.shape == (4, 1, 8, 8)


def test_batches_of_other_loaders_are_numbered(tmp_path):
    images = torch.rand(10, 1, 8, 8)
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images, torch.arange(10) % 4), 4)
    writer = PredictionsCallback(str(tmp_path / "p.csv"), top_k=2)
    module = ClassificationModule(TinyNet(), 4, 1, 8)
    probs = torch.cat(trainer(tmp_path, callbacks=[writer]).predict(module, loader))
    rows = rows_of(tmp_path / "p.csv")
    assert [int(row["index"]) for row in rows] == list(range(10))
    assert [int(row["class"]) for row in rows] == probs.argmax(1).tolist()
    assert [int(row["true_class"]) for row in rows] == [row % 4 for row in range(10)]


def test_names_are_no_formulas(tmp_path):
    class Named(BlobsDataModule):
        class_names = ["=1+1", "@b", "c", "-d"]  # noqa: RUF012

    run = trainer(tmp_path, callbacks=[PredictionsCallback(str(tmp_path / "p.csv"))])
    run.predict(ClassificationModule(TinyNet(), 4, 1, 8), Named(batch_size=16))
    names = {row[f"name{rank}"] for row in rows_of(tmp_path / "p.csv") for rank in ("", "_2", "_3", "_4")}
    assert names == {"'=1+1", "'@b", "c", "'-d"}
