"""What a subclass must give, and what it cannot lose."""

from functools import partial

import lightning as L
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from ida_lightning import InputError
from ida_lightning.modules import ClassificationModule, DistillationModule
from ida_lightning.modules.base import ClassifierBase
from ida_lightning.modules.guards import StepGuard
from ida_lightning.modules.options import Optimisation
from tests.helpers.data import BlobsDataModule
from tests.helpers.networks import TinyNet
from tests.helpers.trainers import trainer

pytestmark = pytest.mark.filterwarnings("ignore:teacher. .* is close to chance")


def sgd(parameters):
    return torch.optim.SGD(parameters, lr=0.01)


class Broken(TinyNet):
    """Answers NaN from the third batch on."""

    calls = 0

    def forward(self, images):
        self.calls += 1
        return super().forward(images) * (1 if self.calls < 3 else float("nan"))


class Silent:
    """Overrides every hook of a step that Lightning has, and calls no super()."""

    def on_train_batch_start(self, batch, batch_idx):
        pass

    def on_before_backward(self, loss):
        pass

    def on_after_backward(self):
        pass

    def on_before_optimizer_step(self, optimizer):
        pass

    def on_before_zero_grad(self, optimizer):
        pass

    def on_train_batch_end(self, outputs, batch, batch_idx):
        pass


class SilentClassifier(Silent, ClassificationModule):
    pass


class SilentDistiller(Silent, DistillationModule):
    pass


class OwnStep(ClassificationModule):
    """Takes part in no step of ours: another loss on the same network."""

    def training_step(self, batch, batch_idx):
        return self(batch.inputs).square().mean()


def modules(network):
    return {
        "classifier": SilentClassifier(network, 4, 1, 8),
        "distiller": SilentDistiller(TinyNet(), network, 4, 1, 8),
        "own step": OwnStep(network, 4, 1, 8),
    }


@pytest.mark.parametrize("kind", ["classifier", "distiller", "own step"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_overriding_hooks_does_not_lose_the_guard(tmp_path, blobs, kind, accumulate):
    module = modules(Broken())[kind]
    run = trainer(tmp_path, limit_val_batches=0, accumulate_grad_batches=accumulate)
    with pytest.raises(InputError, match=rf"loss: nan at step {2 // accumulate} \(epoch 0, batch 2"):
        run.fit(module, blobs)
    assert all(torch.isfinite(parameter).all() for parameter in module.network.parameters()), "before the update"


def test_a_lost_guard_is_noticed(tmp_path, blobs):
    class Lost(ClassificationModule):
        def configure_callbacks(self):
            return [EarlyStopping("model/val_nll")]

    class Kept(ClassificationModule):
        def configure_callbacks(self):
            return [*super().configure_callbacks(), EarlyStopping("model/val_nll")]

    with pytest.raises(InputError, match=r"Lost.configure_callbacks: expected the callbacks of super\(\)"):
        trainer(tmp_path).fit(Lost(TinyNet(), 4, 1, 8), blobs)
    trainer(tmp_path).fit(Kept(TinyNet(), 4, 1, 8), blobs)


def test_one_trainer_has_one_guard(tmp_path, blobs):
    run, module = trainer(tmp_path), ClassificationModule(TinyNet(), 4, 1, 8)
    run.fit(module, blobs)
    run.validate(module, blobs, verbose=False)
    run.fit(ClassificationModule(TinyNet(), 4, 1, 8), blobs)
    assert sum(isinstance(callback, StepGuard) for callback in run.callbacks) == 1


def test_dropout_depends_on_seed_and_step_alone(tmp_path):
    def weights(skip):
        torch.manual_seed(1)
        module = SilentClassifier(TinyNet(), 4, 1, 8)
        torch.rand(skip)
        trainer(tmp_path).fit(module, BlobsDataModule(batch_size=16))
        return module.model[6].weight

    assert torch.equal(weights(0), weights(3))


def test_nothing_of_a_step_is_kept_after_it(tmp_path, blobs):
    run, module = trainer(tmp_path), DistillationModule(TinyNet(), TinyNet(), 4, 1, 8)
    run.fit(module, blobs)
    (guard,) = (callback for callback in run.callbacks if isinstance(callback, StepGuard))
    assert module.step_supervision is guard._batch is guard._loss is None


@pytest.mark.parametrize("every", [1, 3, 50])
def test_nan_of_the_teacher_is_reported_when_logging(tmp_path, blobs, monkeypatch, every):
    steps = []
    module = SilentDistiller(TinyNet(), TinyNet(), 4, 1, 8)
    monkeypatch.setattr(module.finite_rows, "check", lambda: steps.append(run.global_step))
    run = trainer(tmp_path, max_epochs=2, log_every_n_steps=every)
    monkeypatch.setattr(module.finite_rows, "add", lambda finite: None)  # on the CPU it checks at once
    run.fit(module, blobs)
    assert steps == [step for step in range(1, 9) if step % every == 0 or step % 4 == 0]


# --- what a subclass must give


def test_a_subclass_without_a_network_cannot_be_made():
    class Nameless(ClassifierBase):
        owner = "x"

    with pytest.raises(TypeError, match="abstract .*network"):
        Nameless(4, sgd, Optimisation())


def test_a_subclass_without_an_owner_cannot_be_made():
    class Ownerless(ClassifierBase):
        network = TinyNet()

    with pytest.raises(InputError, match="Ownerless: expected the class attribute owner, .* got none"):
        Ownerless(4, sgd, Optimisation())


def test_a_subclass_with_both_trains(tmp_path, blobs):
    class Own(ClassifierBase):
        owner = "mine"

        def __init__(self):
            super().__init__(4, sgd, Optimisation())
            self.net = TinyNet()

        @property
        def network(self):
            return self.net

        def training_step(self, batch, batch_idx):
            self.guard_step()
            return torch.nn.functional.cross_entropy(self(batch.inputs), batch.label_mix.dense(4))

    run = trainer(tmp_path)
    run.fit(Own(), blobs)
    assert 0 <= run.callback_metrics["mine/val_acc"] <= 1


# --- runs that log nothing


@pytest.mark.parametrize("options", [{"log_every_n_steps": 0}, {"barebones": True}])
@pytest.mark.parametrize("kind", ["classifier", "distiller"])
def test_a_run_that_logs_nothing_is_the_same_run(tmp_path, kind, options):
    from ida_lightning.callbacks import ExportCallback, PanelCallback, SpeedCallback
    from ida_lightning.methods import IsotonicSoftLabelCallback

    def weights(run):
        torch.manual_seed(2)
        module = {
            "classifier": lambda: ClassificationModule(TinyNet(), 4, 1, 8),
            "distiller": lambda: DistillationModule(TinyNet(), TinyNet(), 4, 1, 8),
        }[kind]()
        data = BlobsDataModule(batch_size=16)
        run.fit(module, data)
        run.validate(module, data, verbose=False)
        run.test(module, data, verbose=False)
        return module.network.state_dict()

    callbacks = [SpeedCallback(), ExportCallback(str(tmp_path / "net.safetensors"))]
    callbacks += [IsotonicSoftLabelCallback(), PanelCallback()] if kind == "distiller" else []
    quiet = {} if options.get("barebones") else {"logger": False, "enable_checkpointing": False}
    quiet |= {} if options.get("barebones") else {"enable_progress_bar": False, "enable_model_summary": False}
    silent = L.Trainer(accelerator="cpu", max_epochs=2, callbacks=callbacks, **quiet, **options)
    ours, theirs = weights(silent), weights(trainer(tmp_path, max_epochs=2, callbacks=callbacks[2:]))
    assert all(np.array_equal(ours[name], theirs[name]) for name in theirs)
    assert (tmp_path / "net.safetensors").is_file()
    assert ("train/loss" in silent.callback_metrics) is False


def reduce_on_plateau(optimizer):
    return torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer)


@pytest.mark.parametrize("kind", ["schedule", "checkpoint", "stopping"])
def test_a_misspelt_monitor_is_refused_before_training(kind, tmp_path):
    misspelt, more, callbacks = "model/val_los", {}, []
    if kind == "schedule":
        more = {"lr_scheduler": reduce_on_plateau, "lr_monitor": misspelt}
    else:
        make = EarlyStopping if kind == "stopping" else partial(ModelCheckpoint, tmp_path)
        callbacks = [make(monitor=misspelt), make(monitor="model/val_nll")]  # also before one that is right
    module = ClassificationModule(TinyNet(4), 4, in_channels=1, **more)
    run = trainer(
        tmp_path, max_epochs=1, callbacks=callbacks, enable_checkpointing=bool(callbacks), num_sanity_val_steps=1
    )
    with pytest.raises(InputError, match=r"monitor: expected a metric such as model/val_nll, got 'model/val_los'"):
        run.fit(module, datamodule=BlobsDataModule())
    assert run.global_step == 0
