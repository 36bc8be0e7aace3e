"""How images and weights lie in memory: chosen once, for student and teacher alike, and kept."""

from contextlib import nullcontext

import pytest
import torch
from torch import nn

import ida_lightning.modules.layout as layout_module
from ida_lightning import InputError
from ida_lightning.models import exportable
from ida_lightning.modules import DistillationModule, Teacher, TeacherOutputs
from ida_lightning.modules.layout import convolves, wants_channels_last
from tests.helpers.data import BlobsDataModule
from tests.helpers.trainers import trainer

LAST = torch.channels_last


def convolutions():
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(1, 8, 3),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(32, 4),
    ]
    return nn.Sequential(*layers)


def fitted(tmp_path, layout="auto", outputs=None, epochs=1, ckpt_path=None):
    torch.manual_seed(1)
    teacher = Teacher(convolutions(), outputs=outputs)
    module = DistillationModule(teacher, convolutions(), 4, 1, 8, layout=layout)
    run = trainer(tmp_path, max_epochs=epochs, limit_train_batches=2)
    run.fit(module, datamodule=BlobsDataModule(batch_size=8, seed=0), ckpt_path=ckpt_path)
    run.save_checkpoint(tmp_path / f"{layout}.ckpt")
    return module


def laid_out(network):
    return network[2].weight.is_contiguous(memory_format=LAST)


def decided(monkeypatch, last):
    """Let a trial come out as it is told; None if there must be none."""
    times = None if last is None else lambda *_: (1.0, 0.5 if last else 1.0)
    monkeypatch.setattr(layout_module, "_trial", times)


def test_a_cpu_keeps_what_it_had(tmp_path):
    plain, wished = fitted(tmp_path), fitted(tmp_path, "channels_last")
    assert not laid_out(plain.student)
    assert not laid_out(plain.teacher.network)
    assert laid_out(wished.student)
    assert laid_out(wished.teacher.network)
    for one, other in zip(plain.student.parameters(), wished.student.parameters(), strict=True):
        torch.testing.assert_close(one, other)
    assert all(tensor.is_contiguous() for tensor in exportable(wished.student).values())
    assert [torch.load(tmp_path / f"{name}.ckpt")["channels_last"] for name in ("auto", "channels_last")] == [
        False,
        True,
    ]


def test_images_are_laid_out_once_for_both():
    seen = []
    module = DistillationModule(convolutions(), convolutions(), 4, 3, 8, layout="channels_last")
    module._channels_last = True
    batch = module.take_batch((torch.randn(4, 3, 8, 8), torch.arange(4)))
    assert batch.inputs.is_contiguous(memory_format=LAST)
    module.teacher.network = nn.Sequential(nn.Conv2d(3, 4, 8), nn.Flatten()).eval()
    module.teacher.network[0].register_forward_pre_hook(lambda _, args: seen.append(args[0].data_ptr()))
    module.teacher.lay_out(True)
    module.teacher(batch.inputs)
    assert seen == [batch.inputs.data_ptr()]


def test_a_choice_by_trial_is_kept_in_the_checkpoint(tmp_path, monkeypatch):
    decided(monkeypatch, True)
    assert laid_out(fitted(tmp_path, "trial").student)
    decided(monkeypatch, False)  # another machine, or a busy one
    resumed = fitted(tmp_path, "trial", epochs=2, ckpt_path=tmp_path / "trial.ckpt")
    assert laid_out(resumed.student)
    assert laid_out(resumed.teacher.network)


def test_a_choice_by_trial_is_kept_with_stored_answers(tmp_path, monkeypatch):
    outputs = TeacherOutputs(tmp_path / "answers")
    decided(monkeypatch, True)
    first = fitted(tmp_path, "trial", outputs)
    decided(monkeypatch, False)
    second = fitted(tmp_path, "trial", outputs, epochs=2)
    assert (first.answers.live, second.answers.live) == (2, 2)
    assert laid_out(second.teacher.network)
    assert not laid_out(second.student)
    with pytest.raises(InputError, match=r"expected teacher.layout 'channels_last', .*, got None"):
        fitted(tmp_path, "contiguous", outputs)


def test_who_chooses_what():
    shape, cpu, cuda = (1, 8, 8), torch.device("cpu"), torch.device("cuda")
    assert convolves(convolutions())
    assert wants_channels_last("auto", convolutions(), shape, cuda, None)
    assert not wants_channels_last("auto", convolutions(), shape, cpu, None)
    for layout in ("auto", "trial"):
        assert not wants_channels_last(layout, nn.Linear(2, 2), shape, cuda, None)
    network = convolutions()
    before = [parameter.clone() for parameter in network.parameters()]
    state = torch.get_rng_state()
    assert wants_channels_last("trial", network, shape, cpu, nullcontext) in (True, False)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(map(torch.equal, before, network.parameters()))
    assert all(parameter.grad is None for parameter in network.parameters())
    with pytest.raises(InputError, match="layout: expected one of auto, trial, contiguous, channels_last, got 'nhwc'"):
        DistillationModule(convolutions(), convolutions(), 4, layout="nhwc")
