"""Weights that came from nowhere, or are no numbers, are neither exported nor kept nor evaluated."""

import copy

import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from safetensors.torch import load_file
from torch import nn

from ida_lightning import InputError
from ida_lightning.callbacks import ExportCallback, PredictionsCallback
from ida_lightning.locks import OutputLock
from ida_lightning.modules import ClassificationModule, DistillationModule
from tests.helpers.networks import TinyNet
from tests.helpers.trainers import trainer

DRAWN = r"ckpt_path: expected a checkpoint, or a network that was trained or loaded before, got a (model|student) whose"


def named():
    return ClassificationModule("test_resnet", 4, 1, 8)


def evaluations(run):
    return run.validate, run.test, run.predict


@pytest.mark.parametrize("make", [named, lambda: DistillationModule(TinyNet(), "test_resnet", 4, 1, 8)])
def test_weights_from_nowhere_are_not_evaluated(make, tmp_path, blobs):
    for evaluate in evaluations(trainer(tmp_path)):
        with pytest.raises(InputError, match=DRAWN):
            evaluate(make(), blobs)
    module = make()
    module.allow_untrained = True
    assert trainer(tmp_path).test(module, blobs, verbose=False)


@pytest.mark.parametrize("source", ["fit", "load", "load network", "checkpoint", "own"])
def test_weights_from_somewhere_are_evaluated(source, tmp_path, blobs):
    module, trained = named(), named()
    ckpt_path = None
    if source in ("fit", "checkpoint"):
        run = trainer(tmp_path)
        run.fit(module, blobs)
        run.save_checkpoint(tmp_path / "a.ckpt")
    if source == "load":
        module.load_state_dict(trained.state_dict())
    if source == "load network":
        module.model.load_state_dict(trained.model.state_dict())
    if source == "checkpoint":
        module, ckpt_path = named(), tmp_path / "a.ckpt"
    if source == "own":
        module = ClassificationModule(TinyNet(), 4, 1, 8)
    assert trainer(tmp_path).test(module, blobs, ckpt_path=ckpt_path, verbose=False, weights_only=True)


@pytest.mark.filterwarnings("ignore:Encountered `nan` values in tensor")
@pytest.mark.parametrize("value", [torch.nan, torch.inf, 1e38])
def test_networks_without_answers_are_not_evaluated(value, tmp_path, blobs):
    module = ClassificationModule(TinyNet(), 4, 1, 8)
    with torch.no_grad():
        module.model[-1].weight.fill_(value)
    path = tmp_path / "predictions.csv"
    complaint = (
        "logits, got some that make no probabilities" if value == 1e38 else "weights, got NaN or infinity in 1 of"
    )
    for evaluate in evaluations(trainer(tmp_path, callbacks=[PredictionsCallback(str(path))])):
        with pytest.raises(InputError, match=f"model: expected finite {complaint}"):
            evaluate(module, blobs)
    assert not path.exists()


def test_a_mask_of_infinity_is_no_fault(tmp_path, blobs):
    network = TinyNet()
    network.register_buffer("mask", torch.full((2,), -torch.inf))
    assert trainer(tmp_path).test(ClassificationModule(network, 4, 1, 8), blobs, verbose=False)


class SpoilLastStep(Callback):
    """A finite loss whose gradient is NaN, in the last step."""

    def on_before_optimizer_step(self, trainer, pl_module, optimizer):
        if trainer.global_step == 7:
            pl_module.model[-1].weight.grad.fill_(torch.nan)


@pytest.mark.filterwarnings("ignore:Encountered `nan` values in tensor")
def test_a_network_spoilt_in_the_last_step_replaces_nothing(tmp_path, blobs):
    path, kept = tmp_path / "network.safetensors", tmp_path / "kept"
    path.write_bytes(b"older")
    callbacks = [ExportCallback(str(path)), SpoilLastStep(), ModelCheckpoint(kept, save_last=True, save_top_k=-1)]
    run = trainer(tmp_path, max_epochs=2, callbacks=callbacks, enable_checkpointing=True)
    with pytest.raises(
        InputError, match="model: expected finite weights, got NaN or infinity in 1 of .*, 6.weight first"
    ):
        run.fit(ClassificationModule(TinyNet(), 4, 1, 8), blobs)
    assert path.read_bytes() == b"older"
    assert torch.load(kept / "last.ckpt", weights_only=True)["global_step"] == 4
    bare = trainer(tmp_path, max_epochs=2, callbacks=[SpoilLastStep()])
    with pytest.raises(InputError, match="model: expected finite weights"):
        bare.fit(ClassificationModule(TinyNet(), 4, 1, 8), blobs)


@pytest.mark.filterwarnings("ignore:.*Trainer.fit.*stopped")
@pytest.mark.parametrize("options", [{"max_epochs": 0}, {"limit_train_batches": 0}])
def test_a_network_that_was_not_trained_replaces_nothing(options, tmp_path, blobs):
    path = tmp_path / "network.safetensors"
    path.write_bytes(b"older")
    with pytest.raises(InputError, match="got one after 0 steps; the older file is as it was"):
        trainer(tmp_path, callbacks=[ExportCallback(str(path))], **options).fit(named(), blobs)
    assert path.read_bytes() == b"older"
    trainer(tmp_path, callbacks=[ExportCallback(str(path))]).fit(named(), blobs)
    assert load_file(path)


def test_an_export_is_tried_and_kept_for_one_run(tmp_path, blobs):
    (tmp_path / "file").touch()
    run = trainer(tmp_path, callbacks=[ExportCallback(str(tmp_path / "file" / "a.safetensors"))])
    with pytest.raises(InputError, match="path: expected a place to write to, got .*file is no folder"):
        run.fit(named(), blobs)
    assert run.global_step == 0
    path = tmp_path / "a.safetensors"
    run = trainer(tmp_path, callbacks=[ExportCallback(str(path))])
    with OutputLock("path", path), pytest.raises(InputError, match="path: expected an output of one run"):
        run.fit(named(), blobs)
    assert {file.name for file in tmp_path.iterdir()} == {"file"}


def test_copies_are_taken_for_trained(tmp_path, blobs):
    """Nothing can be said of them; better no word than a wrong one."""
    module = ClassificationModule(nn.Sequential(TinyNet()), 4, 1, 8)
    assert trainer(tmp_path).test(copy.deepcopy(module), blobs, verbose=False)
