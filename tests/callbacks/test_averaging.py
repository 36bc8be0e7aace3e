"""The average of a short run is close to the trained network, and is what comes out."""

import pytest
import torch
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging
from safetensors.torch import load_file

from ida_lightning import InputError, Mixing
from ida_lightning.callbacks import CheckpointCallback, EMACallback, ExportCallback, averaging
from ida_lightning.modules import ClassificationModule
from tests.helpers.data import BlobsDataModule
from tests.helpers.networks import TinyNet
from tests.helpers.trainers import trainer


class Trained(Callback):
    """Keeps the weights that training began and ended with, before an average takes their place."""

    def on_fit_start(self, trainer, pl_module):
        self.begin = {name: value.clone() for name, value in pl_module.model.state_dict().items()}

    def on_train_epoch_end(self, trainer, pl_module):
        self.end = {name: value.clone() for name, value in pl_module.model.state_dict().items()}


def fit(tmp_path, *callbacks, epochs=3, resume=None):
    torch.manual_seed(0)
    module = ClassificationModule(TinyNet(), 4, 1, 8)
    trained = Trained()
    kept = [trained, *callbacks, CheckpointCallback(tmp_path / "kept", "model/val_acc")]
    kept.append(ExportCallback(str(tmp_path / "out.safetensors")))
    run = trainer(tmp_path, max_epochs=epochs, callbacks=kept, enable_checkpointing=True)
    run.fit(module, BlobsDataModule(batch_size=16, mixing=Mixing("none")), ckpt_path=resume, weights_only=True)
    return run, module, trained


def distance(ours, theirs):
    return sum(float((ours[name] - theirs[name]).detach().square().sum()) for name in ours) ** 0.5


def left_to_go(module, trained):
    """How far the result is from the trained network, as a share of the way that training went."""
    weights = dict(module.model.named_parameters())
    begin, end = ({name: state[name] for name in weights} for state in (trained.begin, trained.end))
    return distance(weights, end) / distance(begin, end)


def test_a_short_run_ends_near_the_trained_network(tmp_path):
    run, module, trained = fit(tmp_path / "ours", EMACallback())
    assert 0 < left_to_go(module, trained) < 0.3
    ours = float(run.callback_metrics["model/val_nll"])
    plain, _, _ = fit(tmp_path / "plain")
    assert ours < float(plain.callback_metrics["model/val_nll"]) + 0.2
    _, module, trained = fit(tmp_path / "theirs", EMAWeightAveraging())
    assert left_to_go(module, trained) > 0.8, "a constant decay of 0.999 has not moved"


def test_the_average_is_exported_kept_and_said(tmp_path, monkeypatch):
    lines = []
    monkeypatch.setattr(averaging, "rank_zero_info", lines.append)
    _, module, trained = fit(tmp_path, EMACallback(decay=0.5))
    kept = torch.load(tmp_path / "kept" / "last.ckpt", weights_only=True)
    exported = load_file(tmp_path / "out.safetensors")
    buffers = {name for name, _ in module.model.named_buffers()}
    for name, value in module.model.state_dict().items():
        assert name not in buffers or torch.equal(value, trained.end[name]), "statistics are averages already"
        assert torch.equal(exported[name], value)
        assert torch.equal(kept["state_dict"][f"model.{name}"], value)
        assert torch.equal(kept["current_model_state"][f"model.{name}"], trained.end[name])
    assert not torch.equal(exported["0.weight"], trained.end["0.weight"])
    assert int(exported["1.num_batches_tracked"]) == 12, "a count"
    (line,) = lines
    assert "exported and tested is the average over about the last 2 of 12 steps" in line


def test_it_is_the_average_of_its_definition(tmp_path):
    class Follow(Callback):
        average = None

        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            weight, updates = pl_module.model[0].weight.detach(), trainer.global_step - 1
            decay = min(0.9, (1 + updates) / (10 + updates)) if updates else 0.0
            self.average = weight.clone() if not updates else decay * self.average + (1 - decay) * weight

    follow = Follow()
    _, module, _ = fit(tmp_path, follow, EMACallback(decay=0.9))
    torch.testing.assert_close(module.model[0].weight.detach(), follow.average)


class Stop(Callback):
    """Ends the run after two of its epochs."""

    def on_train_epoch_end(self, trainer, pl_module):
        trainer.should_stop = trainer.current_epoch == 1


def test_a_resumed_average_goes_on(tmp_path):
    _, straight, _ = fit(tmp_path / "straight", EMACallback())
    fit(tmp_path / "parts", EMACallback(), Stop())
    checkpoint = tmp_path / "parts" / "kept" / "last.ckpt"
    assert int(torch.load(checkpoint, weights_only=True)["averaging_state"]["n_averaged"]) == 8
    _, resumed, _ = fit(tmp_path / "parts", EMACallback(), resume=checkpoint)
    for name, value in straight.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], value, msg=name)


@pytest.mark.parametrize("decay", [1.0, -0.1, float("nan"), "much"])
def test_a_wrong_decay_is_named(decay):
    with pytest.raises(InputError, match="decay: expected a number from 0 to below 1"):
        EMACallback(decay)
