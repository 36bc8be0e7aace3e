"""Networks, loaders, schedules and tuners of other people: they work, or one line says why not, before training."""

import copy
import pickle
from collections import OrderedDict

import pytest
import torch
from lightning.pytorch.callbacks import LearningRateFinder
from lightning.pytorch.tuner import Tuner
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from ida_lightning import InputError, as_mixed_batch
from ida_lightning.models.outputs import try_network
from ida_lightning.modules import ClassificationModule, DistillationModule, intake
from ida_lightning.modules.intake import BatchIntake
from tests.helpers.networks import TinyNet
from tests.helpers.trainers import trainer

# Untrained teachers are close to chance, and loaders here are plain ones.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
IMAGES, LABELS = torch.randn(32, 1, 8, 8), torch.arange(32) % 4


class Returns(nn.Module):
    """A network whose answer comes wrapped."""

    def __init__(self, wrap):
        super().__init__()
        self.net, self.wrap = TinyNet(), wrap

    def forward(self, images):
        return self.wrap(self, self.net(images))


class Answer:
    def __init__(self, logits):
        self.logits = logits


WRAPPED = {
    "tuple": lambda net, z: (z, z),
    "tuple in training": lambda net, z: (z, z) if net.training else z,
    "list": lambda net, z: [z, z[:, :1]],
    "mapping": lambda net, z: {"features": z[:, :2], "logits": z},
    "one entry": lambda net, z: {"out": z},
    "ModelOutput": lambda net, z: OrderedDict(loss=None, logits=z),
    "object": lambda net, z: Answer(z),
}


def module(teacher=None, student=None, **options):
    return DistillationModule(teacher or TinyNet(), student or TinyNet(), 4, 1, 8, **options)


@pytest.mark.parametrize("wrap", WRAPPED)
def test_wrapped_logits_train_and_evaluate(wrap, tmp_path, blobs):
    run = trainer(tmp_path)
    taught = module(Returns(WRAPPED[wrap]), Returns(WRAPPED[wrap]))
    run.fit(taught, datamodule=blobs)
    run.test(taught, datamodule=blobs, verbose=False)
    assert 0 <= float(run.callback_metrics["student/test_acc"]) <= 1


class Fixed(TinyNet):
    def forward(self, images):
        assert images.shape[2] == 224, "Input height doesn't match model (224)"
        return super().forward(images)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (TinyNet(classes=5), r"expected logits of 4 classes, floating point \(2, 4\), got output float32 \(2, 5\)"),
        (nn.Conv2d(1, 4, 3), r"expected logits of 4 classes"),
        (TinyNet(channels=3), r"expected a network for images \(1, 8, 8\), it fails on one"),
        (Fixed(), r"expected a network for images \(1, 8, 8\), it fails on one: Input height doesn't match"),
        (TinyNet().half(), r"expected weights in float32, got float16"),
        (TinyNet().requires_grad_(False), r"expected parameters to train, all of them are frozen"),
        (Returns(lambda net, z: {"a": z, "b": z}), r"expected .*logits .*got a mapping of a, b"),
        (Returns(lambda net, z: None), r"expected .*logits .*got NoneType"),
        (Returns(lambda net, z: ()), r"expected .*logits .*got tuple of nothing"),
        ("vit_tiny_patch16_224", r"expected a network for images \(1, 8, 8\), it fails on one"),
    ],
    ids=["5 classes", "maps", "channels", "fixed", "half", "frozen", "mapping", "nothing", "empty", "vit"],
)
def test_a_student_is_tried_before_training(network, message, tmp_path, blobs):
    with pytest.raises(InputError, match=f"student: {message}"):
        trainer(tmp_path).fit(module(None, copy.deepcopy(network)), datamodule=blobs)
    with pytest.raises(InputError, match=f"model: {message}"):
        trainer(tmp_path).fit(ClassificationModule(copy.deepcopy(network), 4, 1, 8), datamodule=blobs)


def test_a_trial_leaves_nothing_behind():
    network = TinyNet().train()
    before, state = copy.deepcopy(network.state_dict()), torch.get_rng_state()
    try_network(network, torch.zeros(2, 1, 8, 8), 4, "student", torch.float32)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(part.training for part in network.modules())


def test_fewer_outputs_than_classes_are_refused(tmp_path, blobs):
    with pytest.raises(InputError, match="num_classes: expected 4, the classes of the data module, got 3"):
        trainer(tmp_path).fit(DistillationModule(TinyNet(3), TinyNet(3), 3, 1, 8), datamodule=blobs)


def test_first_batch_of_a_loader_is_a_trial_too(tmp_path):
    loader = DataLoader(TensorDataset(IMAGES.expand(-1, 3, -1, -1), LABELS), 8)
    with pytest.raises(InputError, match=r"model: expected a network for images \(3, 8, 8\), it fails on one"):
        trainer(tmp_path).fit(ClassificationModule(TinyNet(), 4), loader)


def test_student_that_is_the_teacher_is_refused():
    network = TinyNet()
    for student in (network, nn.Sequential(network, nn.Identity())):
        with pytest.raises(InputError, match="student: expected a network of its own, got the teacher"):
            module(network, student)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
def test_scripted_teacher_teaches(tmp_path, blobs):
    trainer(tmp_path).fit(module(torch.jit.script(TinyNet())), datamodule=blobs)


def test_teacher_in_half_precision_teaches(tmp_path, blobs):
    trainer(tmp_path).fit(module(TinyNet().half()), datamodule=blobs)


class Stream(IterableDataset):
    def __iter__(self):
        return iter(zip(IMAGES, LABELS, strict=True))


@pytest.mark.filterwarnings("ignore:.*IterableDataset.*")
def test_loaders_without_length_train_and_validate(tmp_path):
    run = trainer(tmp_path, max_epochs=2, max_steps=8)
    run.fit(module(), DataLoader(Stream(), 8), DataLoader(Stream(), 8))
    assert run.global_step == 8
    with pytest.raises(InputError, match="trainer.max_steps: expected a number for the schedule to end at"):
        trainer(tmp_path, max_epochs=2).fit(module(), DataLoader(Stream(), 8), DataLoader(Stream(), 8))


@pytest.mark.parametrize(
    ("images", "targets", "message"),
    [
        (IMAGES, torch.where(LABELS == 3, -1, LABELS), "batch: labels: expected classes 0 ... 3, got -1"),
        (IMAGES, LABELS + 1, "batch: labels: expected classes 0 ... 3, got 4"),
        (IMAGES, 2 * nn.functional.one_hot(LABELS, 4).float(), "batch: class weights: expected rows that sum to 1"),
        (IMAGES, LABELS.int(), "batch: expected targets int64"),
        ((255 * IMAGES).to(torch.uint8), LABELS, "batch: expected normalised floating point images, got uint8"),
    ],
    ids=["-1", "from 1", "sums of 2", "int32", "uint8"],
)
def test_wrong_batches_of_loaders_are_one_line(images, targets, message, tmp_path):
    for made in (module(), ClassificationModule(TinyNet(), 4, 1, 8)):
        with pytest.raises(InputError, match=message):
            trainer(tmp_path).fit(made, DataLoader(TensorDataset(images, targets), 8))
    right = DataLoader(TensorDataset(IMAGES, LABELS), 8)
    with pytest.raises(InputError, match=message):
        trainer(tmp_path).fit(module(), right, DataLoader(TensorDataset(images, targets), 8))


def test_images_in_float64_are_converted(tmp_path):
    trainer(tmp_path).fit(module(), DataLoader(TensorDataset(IMAGES.double(), LABELS), 8))


def test_a_second_validation_loader_is_refused(tmp_path):
    loader = DataLoader(TensorDataset(IMAGES, LABELS), 8)
    with pytest.raises(InputError, match="val_dataloaders: expected one"):
        trainer(tmp_path).fit(module(), loader, [loader, loader])


def test_accelerators_report_wrong_labels_later(monkeypatch):
    """As on a GPU: nothing looks at values until the check."""
    monkeypatch.setattr(intake, "can_look", lambda values: False)
    for room in ("adapters", "label_mix"):
        monkeypatch.setattr(f"ida_lightning.{room}.can_look", lambda values: False)
    checks = BatchIntake(4)
    taken = checks.take((IMAGES[:4], torch.tensor([0, 9, -1, 3])))
    assert taken.label_mix.labels[:, 0].tolist() == [0, 3, 0, 3]
    with pytest.raises(InputError, match="labels: expected classes 0 ... 3, got others in 2 rows"):
        checks.check()
    checks.take((IMAGES[:1], torch.tensor([[float("nan"), 0.5, 0.5, 0.0]])))
    with pytest.raises(InputError, match="rows of numbers >= 0 that sum to 1, got others in 1 rows"):
        checks.check()
    checks.take((IMAGES[:4], LABELS[:4]))
    checks.check()


def as_given(batch):
    return batch


@pytest.mark.parametrize("mixed", [False, True], ids=["foreign", "MixedBatch"])
@pytest.mark.parametrize("path", ["fit", "kd fit", "validate", "test", "silent fit"])
def test_accelerators_find_wrong_labels_on_every_path(path, mixed, tmp_path, monkeypatch):
    """As on a GPU: nothing looks at values but where the host waits anyway; no weights are updated with such labels."""
    labels = torch.where(torch.arange(32) == 5, 9, LABELS)
    batches = [(images, wrong) for images, wrong in zip(IMAGES.split(8), labels.split(8), strict=True)]
    loader = DataLoader([as_mixed_batch(b) if mixed else b for b in batches], None, collate_fn=as_given)
    monkeypatch.setattr(intake, "can_look", lambda values: False)
    for room in ("adapters", "label_mix", "errors"):
        monkeypatch.setattr(f"ida_lightning.{room}.can_look", lambda values, validate=None: False)
    taught = module() if path == "kd fit" else ClassificationModule(TinyNet(), 4, 1, 8)
    before = copy.deepcopy(taught.network.state_dict())
    run = trainer(tmp_path, log_every_n_steps=0 if path == "silent fit" else 1)
    taught.allow_untrained = True
    call = getattr(run, path.split()[-1])
    with pytest.raises(InputError, match="batch: labels: expected classes 0 ... 3, got others in 1 rows"):
        call(taught, loader)
    for name, weight in taught.network.named_parameters():
        assert torch.equal(weight, before[name])


def test_a_schedule_by_a_metric_works(tmp_path, blobs):
    plateau = {"lr_scheduler": lambda optimizer: ReduceLROnPlateau(optimizer, patience=0, threshold=1e9)}
    for options in ({}, {"limit_val_batches": 0}, {"check_val_every_n_epoch": 2}):
        run = trainer(tmp_path, max_epochs=4, **options)
        run.fit(module(**plateau), datamodule=blobs)
        assert run.optimizers[0].param_groups[0]["lr"] < 0.05
    for name in ("train/loss", "student/val_acc"):
        run = trainer(tmp_path, max_epochs=4)
        run.fit(module(**plateau, lr_monitor=name), datamodule=blobs)
        assert run.lr_scheduler_configs[0].monitor == name
        assert run.optimizers[0].param_groups[0]["lr"] < 0.05
    highest = {"lr_scheduler": lambda optimizer: ReduceLROnPlateau(optimizer, mode="max")}
    with pytest.raises(InputError, match="lr_scheduler: expected mode min without validation data"):
        trainer(tmp_path, limit_val_batches=0).fit(module(**highest), datamodule=blobs)


def test_learning_rate_that_was_found_is_trained_with(tmp_path, blobs):
    taught, run = module(), trainer(tmp_path, max_epochs=8)
    found = Tuner(run).lr_find(taught, datamodule=blobs, num_training=30, early_stop_threshold=None)
    run.fit(taught, datamodule=blobs)
    assert taught.lr == found.suggestion() == run.optimizers[0].param_groups[0]["initial_lr"]


def test_learning_rate_finder_runs_as_a_callback(tmp_path, blobs):
    finder = LearningRateFinder(num_training_steps=20, early_stop_threshold=None)
    run, taught = trainer(tmp_path, max_epochs=8, callbacks=[finder]), module()
    run.fit(taught, datamodule=blobs)
    assert run.optimizers[0].param_groups[0]["initial_lr"] == taught.lr is not None


def test_modules_can_be_pickled():
    parameters = [nn.Parameter(torch.ones(1))]
    for made in (module(), ClassificationModule(TinyNet(), 4, 1, 8)):
        again = pickle.loads(pickle.dumps(made))
        default = type(made).__init__.__defaults__
        (written,) = [value for value in default if getattr(value, "__name__", "") == "<lambda>"]
        assert again._make_optimizer(parameters).defaults == written(parameters).defaults


def test_mixed_batches_with_wrong_labels_are_refused():
    batch = as_mixed_batch((IMAGES, LABELS))
    with pytest.raises(InputError, match="batch: labels: expected classes 0 ... 2, got 3"):
        BatchIntake(3).take(batch)
