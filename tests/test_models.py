import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from ida_lightning import InputError
from ida_lightning.models import build_model, describe, load_weights, put_weights
from ida_lightning.models.description import KEY
from tests.helpers.networks import TinyNet


@pytest.mark.parametrize("name", ["test_resnet", "resnet18", "densenet121", "resnetv2_50", "efficientnet_b0"])
def test_small_stem_keeps_more_resolution(name):
    standard = build_model(name, 5, 3)
    small = build_model(name, 5, 3, stem="small")
    images = torch.zeros(1, 3, 32, 32)
    sizes = [network.eval().forward_features(images).shape[-1] for network in (standard, small)]
    assert sizes[1] >= 2 * sizes[0]
    assert small(images).shape == (1, 5)


@pytest.mark.parametrize(("stem", "stride"), [("small", 1), ("medium", 2)])
def test_resnet_stems_for_small_images_are_the_usual_ones(stem, stride):
    network = build_model("resnet18", 5, 1, stem=stem)
    assert (network.conv1.kernel_size, network.conv1.stride, network.conv1.in_channels) == ((3, 3), (stride, stride), 1)
    assert network.conv1(torch.zeros(1, 1, 64, 64)).shape[-1] == 64 // stride
    assert isinstance(network.maxpool, nn.Identity)


def test_timm_arguments_reach_timm():
    assert build_model("resnet18", 5, drop_rate=0.3).drop_rate == 0.3


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnet181", {}, "model: expected a timm name such as .*resnet18.*, got 'resnet181'"),
        ("test_vit", {"stem": "small"}, "stem: 'test_vit' has no convolution that could keep the resolution"),
        ("resnet18", {"stem": "tiny"}, "stem: expected one of standard, medium, small, got 'tiny'"),
        ("resnet18", {"colour": 1}, "model: 'resnet18' could not be built with {'colour': 1}"),
    ],
)
def test_what_cannot_be_built_is_named(name, options, message):
    with pytest.raises(InputError, match=message):
        build_model(name, 5, **options)


def save_plain(network, path):
    torch.save(network.state_dict(), path)


def save_wrapped(network, path):
    torch.save({"model": {f"module._orig_mod.{k}": v for k, v in network.state_dict().items()}}, path)


def described(network):
    return describe(network, 4)._replace(class_names=list("abcd"))


def save_lightning(network, path):
    state = {f"student.{k}": v for k, v in network.state_dict().items()}
    torch.save({"state_dict": state, KEY: described(network).content(), "epoch": 3}, path)


def save_safe(network, path):
    save_file(network.state_dict(), path, described(network).metadata())


@pytest.mark.parametrize(
    ("save", "name", "classes"),
    [
        (save_plain, "weights.pt", None),
        (save_wrapped, "weights.pth", None),
        (save_lightning, "run.ckpt", list("abcd")),
        (save_safe, "weights.safetensors", list("abcd")),
    ],
)
def test_weights_come_from_any_usual_file(save, name, classes, tmp_path):
    trained, network = TinyNet(), TinyNet()
    save(trained, tmp_path / name)
    weights = load_weights(tmp_path / name)
    put_weights(network, weights, tmp_path / name)
    assert weights.class_names == classes
    assert all(
        torch.equal(a, b) for a, b in zip(trained.state_dict().values(), network.state_dict().values(), strict=True)
    )


class Bomb:
    def __reduce__(self):
        return (open, ("exploded", "w"))


def test_a_file_cannot_run_code(tmp_path):
    torch.save({"state_dict": Bomb()}, tmp_path / "bomb.ckpt")
    with pytest.raises(InputError, match=r"path: .*bomb.ckpt holds code, _?io.open, which is never run") as caught:
        load_weights(tmp_path / "bomb.ckpt")
    assert not {"\n", "\x1b"} & set(str(caught.value))
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("name", ["cut.ckpt", "cut.safetensors"])
@pytest.mark.parametrize("keep", [0, 10, 0.5, 0.99])
def test_a_truncated_file_is_said_to_be_damaged(name, keep, tmp_path):
    path = tmp_path / name
    (save_safe if name.endswith("safetensors") else save_plain)(TinyNet(), path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(keep * len(whole)) if keep < 1 else keep])
    with pytest.raises(InputError, match="teacher_checkpoint: .* is damaged or no weight file"):
        load_weights(path, "teacher_checkpoint")


def test_missing_and_foreign_files_are_named(tmp_path):
    with pytest.raises(InputError, match="path: expected a weight file, found nothing at .*none.pt"):
        load_weights(tmp_path / "none.pt")
    torch.save({"state_dict": {"epoch": 3}}, tmp_path / "foreign.pt")
    with pytest.raises(InputError, match="holds no state dict of tensors"):
        load_weights(tmp_path / "foreign.pt")
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(InputError, match="path: .*list.pt"):
        load_weights(tmp_path / "list.pt")


def test_weights_that_do_not_fit_change_nothing(tmp_path):
    network = TinyNet(classes=4)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    save_plain(TinyNet(classes=7), tmp_path / "seven.pt")
    with pytest.raises(InputError, match=r"6.weight is \(7, 32\), the network has \(4, 32\) and 1 more"):
        put_weights(network, load_weights(tmp_path / "seven.pt"), "seven.pt")
    save_plain(nn.Linear(2, 2), tmp_path / "other.pt")
    with pytest.raises(InputError, match="other.pt does not fit the network: 0.weight is missing"):
        put_weights(network, load_weights(tmp_path / "other.pt"), "other.pt")
    assert all(torch.equal(before[k], v) for k, v in network.state_dict().items())


def test_weights_are_found_in_a_checkpoint_of_any_module(tmp_path):
    network, other = TinyNet(), TinyNet()
    held = {f"backbone.{key}": value for key, value in network.state_dict().items()}
    torch.save({"state_dict": {**held, "criterion.scale": torch.ones(1)}}, tmp_path / "theirs.ckpt")
    put_weights(other, load_weights(tmp_path / "theirs.ckpt"), tmp_path / "theirs.ckpt")
    assert all(
        torch.equal(a, b) for a, b in zip(network.state_dict().values(), other.state_dict().values(), strict=True)
    )
    both = {**held, **{f"ema.{key}": value for key, value in network.state_dict().items()}}
    torch.save({"state_dict": both}, tmp_path / "both.ckpt")
    with pytest.raises(InputError, match=r"both.ckpt holds 2 such networks: backbone\., ema\."):
        put_weights(other, load_weights(tmp_path / "both.ckpt"), tmp_path / "both.ckpt")
