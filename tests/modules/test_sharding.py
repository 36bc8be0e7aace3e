"""A teacher whose weights are shared out, here over one process; two of them are in test_ddp.py."""

import logging

import pytest
import torch
from torch import distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule

from ida_lightning import InputError, Mixing
from ida_lightning.methods import DataSelectionCallback
from ida_lightning.models import build_model, fingerprint
from ida_lightning.modules import DistillationModule, Teacher, answers, sharding
from ida_lightning.modules.teacher import FrozenTeacher
from tests.helpers.data import BlobsDataModule
from tests.helpers.networks import TinyNet
from tests.helpers.trainers import trainer

_PARTS = ["", "patch_embed", *(f"blocks.{n}" for n in range(6)), "norm", "head"]


@pytest.fixture
def mesh():
    """One process, over which weights are shared out all the same."""
    # The first backward pass of a process, behind FSDP2, would start threads, with which later tests could not fork.
    torch.zeros(1, requires_grad=True).sum().backward()
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield init_device_mesh("cpu", (1,))
    dist.destroy_process_group()


class Scaled(nn.Module):
    """A network with a buffer that is in no state dict, and one that is."""

    def __init__(self, num_classes=4):
        super().__init__()
        self.norm = nn.BatchNorm2d(1)
        self.head = nn.Linear(64, num_classes)
        self.register_buffer("scale", torch.linspace(0.5, 2, 64), persistent=False)

    def forward(self, images):
        return self.head(self.norm(images).flatten(1) * self.scale)


def frozen(network, file=None, mesh=None, **options):
    size = 160 if network == "test_vit" else 8
    teacher = FrozenTeacher(Teacher(network, file, strategy="shard", **options), 4, 1, size)
    teacher.prepare(None, mesh=mesh)
    return teacher


@pytest.mark.parametrize("archive", [True, False])
@pytest.mark.parametrize("name", ["tests.modules.test_sharding.Scaled", "test_vit"])
def test_shares_of_a_file_are_the_whole(tmp_path, mesh, monkeypatch, name, archive):
    monkeypatch.setattr(sharding, "_LEAST", 64)
    monkeypatch.setattr(sharding, "_MOST", 0.5)
    network = build_model(name, 4, 1)
    for tensor in network.state_dict().values():
        torch.nn.init.uniform_(tensor) if tensor.is_floating_point() else tensor.fill_(3)
    file = tmp_path / "teacher.pt"
    torch.save(network.state_dict(), file, _use_new_zipfile_serialization=archive)
    whole, shared = frozen(name, file), frozen(name, file, mesh)
    assert whole.mesh is None
    assert shared.fingerprint == whole.fingerprint == fingerprint(network)
    assert isinstance(shared.network, FSDPModule)
    images = torch.rand(2, 1, whole.image_size, whole.image_size)
    for mode in (torch.inference_mode, torch.enable_grad, torch.inference_mode):
        with mode():
            assert torch.equal(shared(images), whole(images))
    parts = [part for part, module in shared.network.named_modules() if isinstance(module, FSDPModule)]
    assert parts == (_PARTS if name == "test_vit" else ["", "head"])


def test_a_module_is_shared_out_once(mesh):
    network = TinyNet().eval()
    before = network(torch.ones(1, 1, 8, 8))
    for _ in range(2):  # a fit, and another
        assert torch.equal(frozen(network, mesh=mesh)(torch.ones(1, 1, 8, 8)), before)


def test_one_process_holds_the_whole(caplog):
    caplog.set_level(logging.INFO, "lightning.pytorch")
    assert sharding.processes_of(None) is None
    assert "there is one process, which holds the whole teacher" in caplog.text


def test_layout_and_compilation_change_no_weights(mesh, caplog):
    caplog.set_level(logging.INFO, "lightning.pytorch")
    teacher = FrozenTeacher(Teacher(TinyNet(), strategy="shard"), 4, 1, 8, compile_args={})
    teacher.lay_out(True)
    teacher.prepare(None, mesh=mesh)
    assert "teacher: runs uncompiled" in caplog.text
    facts = teacher.facts("32-true")
    assert (facts["compiled"], facts["layout"]) == (False, "channels_last")
    teacher.move(lambda tensor: tensor.to("meta"))
    assert teacher(torch.ones(1, 1, 8, 8)).device.type == "cpu", "its shares stay"


class Twice(nn.Sequential):
    """Uses the weights of one layer again."""

    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(64, 64), nn.Linear(64, 64), nn.Linear(64, 4))
        self[2].weight = self[1].weight


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize("case", ["twice", "script", "scalar"])
def test_what_cannot_be_shared_out_is_refused(mesh, case):
    network = Twice() if case == "twice" else nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    if case == "scalar":
        network.scale = nn.Parameter(torch.tensor(1.0))
    network = torch.jit.script(network) if case == "script" else network
    with pytest.raises(InputError, match="teacher_strategy: expected replicate"):
        frozen(network, mesh=mesh)


def test_weights_of_another_precision_are_refused(mesh):
    with pytest.raises(InputError, match="teacher_strategy: .* become torch.bfloat16, got shard"):
        frozen(TinyNet(), mesh=mesh).move(lambda tensor: tensor.bfloat16())
    frozen(TinyNet(), mesh=mesh, precision="bf16").move(lambda tensor: tensor.bfloat16())


def test_features_are_caught_in_a_shared_teacher(mesh, monkeypatch):
    monkeypatch.setattr(sharding, "_LEAST", 8)
    network, caught = TinyNet(), []
    before = nn.Sequential(*list(network.eval())[:3])(torch.ones(1, 1, 8, 8))
    teacher = frozen(network, mesh=mesh)
    teacher.network.get_submodule("2").register_forward_hook(lambda part, args, output: caught.append(output))
    teacher(torch.ones(1, 1, 8, 8))
    assert torch.equal(caught[0], before)


def fit(tmp_path, *callbacks):
    module = DistillationModule([TinyNet(), Teacher(TinyNet(), strategy="shard")], TinyNet(), 4, 1, 8)
    data = BlobsDataModule(batch_size=32, mixing=Mixing("cutmix"), seed=3)
    trainer(tmp_path, callbacks=[*callbacks]).fit(module, data)


def test_what_one_process_would_ask_alone_is_refused(tmp_path, mesh, monkeypatch):
    monkeypatch.setattr(answers, "processes_of", lambda *given: mesh)
    monkeypatch.setattr(sharding, "agreed", lambda mesh, mine: False)
    with pytest.raises(InputError, match=r"teacher_strategy: .* got 2 training and \[1\] validation batches"):
        fit(tmp_path)
    monkeypatch.undo()
    monkeypatch.setattr(answers, "processes_of", lambda *given: mesh)
    with pytest.raises(InputError, match="teacher_strategy: expected replicate with score influence"):
        fit(tmp_path, DataSelectionCallback("influence", folder=str(tmp_path)))
