"""Networks by the names that people give them."""

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision import models as torchvision_models

from ida_lightning import InputError
from ida_lightning.models import ImageInput, build_model, describe, load_network, load_student, pretrained_input
from ida_lightning.modules.options import Teacher
from ida_lightning.modules.teacher import FrozenTeacher
from tests.helpers.networks import TinyNet

SMALL = "torchvision:mobilenet_v3_small"


@pytest.fixture
def fetched(monkeypatch):
    """Torchvision's weights without a network: those of another random start."""
    state = torchvision_models.mobilenet_v3_small().state_dict()
    weights = torchvision_models.MobileNet_V3_Small_Weights
    monkeypatch.setattr(weights, "get_state_dict", lambda self, **options: dict(state))
    return state


@pytest.mark.parametrize("name", [SMALL, "torchvision.models.mobilenet_v3_small"])
def test_torchvision_networks_come_by_name(name):
    network = build_model(name, num_classes=7)
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 7)
    assert isinstance(network, torchvision_models.MobileNetV3)
    assert describe(network, 7).network == name


def test_torchvision_stems_keep_the_resolution():
    network = build_model("torchvision:resnet18", num_classes=3, stem="small")
    assert network.conv1.kernel_size == (3, 3)
    assert network.conv1.stride == (1, 1)
    assert isinstance(network.maxpool, nn.Identity)


def test_torchvision_weights_are_loaded(fetched):
    network = build_model(SMALL, num_classes=1000, pretrained=True)
    assert all(torch.equal(value, fetched[key]) for key, value in network.state_dict().items())
    assert pretrained_input(network) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225), 224)
    other = build_model(SMALL, num_classes=5, pretrained="IMAGENET1K_V1")
    differing = {key for key, value in other.state_dict().items() if not torch.equal(value, fetched.get(key))}
    assert differing == {"classifier.3.weight", "classifier.3.bias"}, "the head is new, the rest is not"


def test_a_pretrained_teacher_of_other_classes_is_refused(fetched):
    teacher = FrozenTeacher(Teacher(SMALL, args={"pretrained": True}), 5, 3, 32)
    with pytest.raises(InputError, match="teacher: expected the student's 5 classes, the pretrained .* has others"):
        teacher.prepare(None)
    seen = ImageInput((0.5,) * 3, (0.25,) * 3, 32)
    FrozenTeacher(Teacher(SMALL, args={"pretrained": True}), 1000, 3, 32).prepare(None, seen)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("torchvision:resnet5", {}, "model: expected a network of torchvision, such as .*resnet50.*, got 'resnet5'"),
        (SMALL, {"in_channels": 1}, "model: expected images of 3 channels for torchvision:mobilenet_v3_small, got 1"),
        (SMALL, {"pretrained": "BEST"}, "pretrained: expected one of true, IMAGENET1K_V1, DEFAULT, got 'BEST'"),
        ("torchvision:resnet18", {"depth": 3}, "model: 'torchvision:resnet18' could not be built with .'depth': 3.: "),
        ("resnet_18", {}, "model: expected a timm name such as resnet18.*, got 'resnet_18'"),
        ("my_nets.nothing", {}, "model: expected a timm name .*, got 'my_nets.nothing'"),
        ("nowhere.at_all.make", {}, "model: expected a timm name .*, got 'nowhere.at_all.make'"),
        ("my_nets.three", {}, "model: expected my_nets.three to return a torch.nn.Module, got int"),
        ("lacking.make", {}, "model: lacking cannot be imported, it needs absent_package, which is not there"),
    ],
)
def test_names_that_cannot_be_built(name, options, message, own_modules):
    with pytest.raises(InputError, match=message):
        build_model(name, **{"num_classes": 3, **options})


@pytest.fixture
def own_modules(monkeypatch):
    Path("my_nets.py").write_text(
        "from torch import nn\n"
        "def make(num_classes, in_channels, width=4):\n"
        "    return nn.Sequential(nn.Conv2d(in_channels, width, 3), nn.Flatten(), nn.Linear(36 * width, num_classes))\n"
        "def three():\n"
        "    return 3\n"
    )
    Path("lacking.py").write_text("import absent_package\n")
    monkeypatch.syspath_prepend(".")
    yield
    for name in ("my_nets", "lacking"):
        sys.modules.pop(name, None)


def test_functions_of_ones_own_build_networks(own_modules):
    network = build_model("my_nets.make", num_classes=3, in_channels=1, width=2)
    assert network(torch.zeros(1, 1, 8, 8)).shape == (1, 3)
    assert describe(network, 3).network_args == {"width": 2}


@pytest.mark.parametrize("name", ["hf-hub:timm/resnet18.a1_in1k", "timm/resnet18.a1_in1k", "resnet18.a1_in1k"])
def test_weights_that_cannot_be_reached_are_one_line(name, monkeypatch):
    def offline(name, **options):
        try:
            raise ConnectionError("name not known")
        except ConnectionError as error:
            raise FileNotFoundError("a long story\nof many lines") from error

    monkeypatch.setattr("timm.create_model", offline)
    with pytest.raises(InputError) as caught:
        build_model(name, num_classes=1000, pretrained=True)
    assert str(caught.value) == (
        f"model: the pretrained weights of {name!r} could not be fetched from "
        "https://huggingface.co/timm/resnet18.a1_in1k, and are not in the cache (ConnectionError: name not known)"
    )


def test_torchvision_weights_out_of_reach_are_one_line(monkeypatch):
    def offline(self, **options):
        raise OSError("name not known")

    monkeypatch.setattr(torchvision_models.MobileNet_V3_Small_Weights, "get_state_dict", offline)
    with pytest.raises(InputError, match=r"model: the pretrained weights .* from https://download.pytorch.org, and"):
        build_model(SMALL, num_classes=1000, pretrained=True)


def test_hub_names_reach_timm(monkeypatch):
    asked = []
    monkeypatch.setattr("timm.create_model", lambda name, **options: asked.append((name, options)) or TinyNet())
    build_model("hf-hub:somebody/net", num_classes=4, in_channels=1, pretrained=True)
    assert asked == [("hf-hub:somebody/net", {"num_classes": 4, "in_chans": 1, "pretrained": True})]


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("os.system", {"command": "touch ran"}),
        ("subprocess.call", {"args": ["touch", "ran"]}),
        ("builtins.eval", {"source": "open('ran', 'w')"}),
        ("torch.load", {"f": "x", "weights_only": False}),
        ("tests.test_named_models.runs", {"what": "ran"}),
        ("subprocess.Popen", {"args": ["touch", "ran"]}),
    ],
)
def test_only_what_can_build_a_network_is_called(name, args, tmp_path):
    with pytest.raises(InputError, match="model: expected a timm name"):
        build_model(name, 4, **args)
    assert not Path("ran").exists()


def runs(what):
    Path(what).touch()


def makes(num_classes, what="ran"):
    Path(what).touch()
    return TinyNet(num_classes)


def test_a_files_own_function_is_never_called(tmp_path):
    recipe = {"network": "tests.test_named_models.makes", "num_classes": 4, "in_channels": 1}
    save_file(TinyNet().state_dict(), tmp_path / "w.safetensors", {"ida_lightning": json.dumps(recipe)})
    with pytest.raises(InputError, match=r"names a function, .*makes', to build its network with; a file's is never"):
        load_network(tmp_path / "w.safetensors")
    assert not Path("ran").exists()
    described = describe(TinyNet(), 4)._replace(network="tests.test_named_models.makes")
    save_file(TinyNet().state_dict(), tmp_path / "v.safetensors", described.metadata())
    with pytest.raises(InputError, match="a file's is never called"):
        load_student(tmp_path / "v.safetensors")
    assert not Path("ran").exists()
    load_network(tmp_path / "w.safetensors", "tests.test_named_models.makes")
    assert Path("ran").exists()
