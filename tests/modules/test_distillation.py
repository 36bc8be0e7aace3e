"""The distillation step, the supervision hook, and the ways a teacher could be harmed."""

import copy

import pytest
import torch
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from safetensors.torch import save_file
from torch import nn

from ida_lightning import (
    DKD,
    InputError,
    LabelMix,
    MixedBatch,
    Mixing,
    distillation_loss,
    dkd_loss,
    mixed_cross_entropy,
)
from ida_lightning.models import describe
from ida_lightning.modules import DistillationModule
from tests.helpers.data import BlobsDataModule
from tests.helpers.networks import TinyNet
from tests.helpers.trainers import trainer

CHANCE = pytest.mark.filterwarnings("ignore:teacher. .* is close to chance")  # a random teacher is enough here
pytestmark = CHANCE


def module_of(teacher=None, student=None, **options):
    return DistillationModule(teacher or TinyNet(), student or TinyNet(), 4, 1, 8, **options)


def batch_of(rows=6):
    labels = torch.arange(rows) % 4
    mix = LabelMix.pair(labels, labels.flip(0), 0.7)
    return MixedBatch(torch.randn(rows, 1, 8, 8), mix, torch.arange(rows), torch.arange(rows).flip(0))


def ready(**options):
    module = module_of(**options)
    module.setup("fit")
    return module


def state_of(network):
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def equal(ours, theirs):
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_loss_is_the_weighted_sum_of_its_named_parts():
    module, batch = ready(temperature=3.0, soft_weight=0.8, hard_weight=0.3), batch_of()
    supervision = module.supervise(batch)
    logits = module.student.eval()(batch.inputs)
    parts = module.loss_parts(logits, supervision)
    soft_labels = (module.teacher(batch.inputs) / 3.0).softmax(1)
    torch.testing.assert_close(parts["kd_loss"], 0.8 * distillation_loss(logits, soft_labels, 3.0).mean())
    torch.testing.assert_close(parts["hard_loss"], 0.3 * mixed_cross_entropy(logits, batch.label_mix).mean())
    module.hard_temperature = 3.0
    hot = module.loss_parts(logits, supervision)["hard_loss"]
    torch.testing.assert_close(hot, 0.3 * mixed_cross_entropy(logits, batch.label_mix, 3.0).mean())


def test_the_distillation_loss_can_be_another():
    module, batch = ready(temperature=3.0, soft_weight=0.8, hard_weight=0.3, distillation=DKD(beta=2.0)), batch_of()
    supervision = module.supervise(batch)._replace(soft_weight=torch.tensor([0.8, 0.8, 0.0, 0.4, 0.8, 0.8]))
    logits = module.student.eval()(batch.inputs)
    rows = dkd_loss(logits, supervision.soft_labels, batch.label_mix, 3.0, 1.0, 2.0)
    parts = module.loss_parts(logits, supervision)
    torch.testing.assert_close(parts["kd_loss"], (supervision.soft_weight * rows).mean())
    module.distillation = lambda student_logits, taught: student_logits
    with pytest.raises(InputError, match=r"distillation: expected one loss per row, floating point \(6,\), got"):
        module.loss_parts(logits, supervision)


def test_hooks_run_in_order_without_gradient_or_autocast():
    module, seen = ready(), []

    def hook(name):
        def record(supervision):
            seen.append(
                (name, torch.is_grad_enabled(), torch.is_autocast_enabled("cpu"), supervision.soft_labels.dtype)
            )
            return supervision._replace(soft_weight=supervision.soft_weight * 2)

        return record

    first, second = (module.register_supervision_hook(hook(name)) for name in ("first", "second"))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        supervision = module.supervise(batch_of())
    assert seen == [("first", False, False, torch.float32), ("second", False, False, torch.float32)]
    assert supervision.soft_weight.tolist() == pytest.approx([4 * 0.95] * 6)
    first.remove()
    module.supervise(batch_of())
    assert [name for name, *_ in seen] == ["first", "second", "second"]
    second.remove()


def test_a_hook_may_select_rows():
    module = ready()
    module.register_supervision_hook(lambda supervision: supervision.select(torch.tensor([0, 2])))
    supervision = module.supervise(batch_of())
    parts = module.loss_parts(module(supervision.inputs), supervision)
    assert len(supervision.inputs) == 2
    assert torch.isfinite(parts["kd_loss"])


@pytest.mark.parametrize("averaging", [False, True])
def test_teacher_is_untouched_and_nowhere_it_does_not_belong(averaging, blobs, tmp_path):
    teacher = TinyNet(width=12)
    before = state_of(teacher)
    module = module_of(teacher)

    class Check(Callback):
        def on_train_batch_end(self, trainer, pl_module, *args):
            assert not teacher.training
            assert not any(parameter.requires_grad for parameter in teacher.parameters())

    callbacks = [Check(), ModelCheckpoint(tmp_path, save_last=True)] + ([EMAWeightAveraging()] if averaging else [])
    run = trainer(tmp_path, max_epochs=2, enable_checkpointing=True, callbacks=callbacks)
    run.fit(module, blobs)
    run.validate(module, blobs, verbose=False)
    run.test(module, blobs, verbose=False)
    module.train()
    assert not teacher.training
    assert equal(state_of(teacher), before)

    optimised = {id(p) for group in module.configure_optimizers()["optimizer"].param_groups for p in group["params"]}
    assert optimised == {id(parameter) for parameter in module.student.parameters()}
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    kept = {**checkpoint["state_dict"], **checkpoint.get("current_model_state", {})}
    assert kept
    assert all(name.startswith("student.") for name in kept)
    widths = {tensor.shape[0] for tensor in kept.values() if tensor.ndim}
    assert 12 not in widths, "only the teacher is 12 wide"


@pytest.mark.parametrize("averaging", [False, True])
def test_checkpoints_hold_no_teacher_and_work_without_one(averaging, tmp_path):
    def run(**options):
        callbacks = [ModelCheckpoint(tmp_path, save_last=True, enable_version_counter=False)]
        callbacks += [EMAWeightAveraging()] if averaging else []
        return trainer(tmp_path, enable_checkpointing=True, callbacks=callbacks, **options)

    student = {"student": "test_resnet", "student_args": {"stem": "small"}, "teacher": TinyNet()}
    data = BlobsDataModule(batch_size=16, mixing=Mixing("cutmix"))
    module = module_of(**student)
    run(max_epochs=1).fit(module, data)
    last = str(tmp_path / "last.ckpt")
    resumed = module_of(**student)
    again = run(max_epochs=2)
    with pytest.warns(UserWarning, match="not empty"):
        again.fit(resumed, data, ckpt_path=last)
    assert again.global_step == 8

    loaded = DistillationModule.load_from_checkpoint(last, teacher=nn.Identity(), weights_only=True)
    assert equal(state_of(loaded.student), state_of(resumed.student))
    (tested,) = trainer(tmp_path).test(loaded, data, verbose=False)
    assert set(tested) == {"student/test_acc", "student/test_nll"}
    predicted = trainer(tmp_path).predict(loaded, data)
    assert torch.cat(predicted).shape == (16, 4)
    torch.testing.assert_close(torch.cat(predicted).sum(1), torch.ones(16))


def test_a_damaged_student_checkpoint_does_not_load_silently(tmp_path, blobs):
    module = module_of(student="test_resnet")
    run = trainer(tmp_path)
    run.fit(module, blobs)
    run.save_checkpoint(tmp_path / "whole.ckpt")
    checkpoint = torch.load(tmp_path / "whole.ckpt", weights_only=True)
    checkpoint["state_dict"].pop(next(iter(checkpoint["state_dict"])))
    torch.save(checkpoint, tmp_path / "damaged.ckpt")
    with pytest.raises(RuntimeError, match="Missing key"):
        DistillationModule.load_from_checkpoint(tmp_path / "damaged.ckpt", teacher=nn.Identity())


def test_copies_share_the_teacher_and_start_without_hooks():
    module = ready()
    module.register_supervision_hook(lambda supervision: supervision)
    twin = copy.deepcopy(module)
    assert twin.teacher is module.teacher
    assert not twin._supervision_hooks
    assert len(module._supervision_hooks) == 1


def test_teacher_moves_along():
    module = ready()
    module.to(torch.float64)
    assert {p.dtype for p in module.teacher.network.parameters()} == {torch.float64}
    assert (
        module.supervise(batch_of()._replace(inputs=torch.randn(6, 1, 8, 8).double())).soft_labels.dtype
        == torch.float64
    )


def test_teacher_in_train_mode_is_refused():
    module = ready()
    module.teacher.network.train()
    with pytest.raises(InputError, match="teacher: expected a network in eval mode, it is in train mode"):
        module.supervise(batch_of())


def test_teacher_accuracy_is_reported_before_the_first_step(tmp_path, blobs):
    seen = {}

    class Recorder(Callback):
        def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
            seen.setdefault("logged", dict(trainer.logger.logged))

    class Keeping(CSVLogger):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.logged = {}

        def log_metrics(self, metrics, step=None):
            self.logged.update(metrics)

    teacher = TinyNet()
    run = trainer(tmp_path, logger=Keeping(tmp_path), callbacks=[Recorder()], limit_val_batches=2)
    blobs.batch_size = 4
    run.fit(module_of(teacher), blobs)
    first = blobs.splits["val"].__getitems__(range(8))  # limit_val_batches is honoured
    logits = teacher(blobs.normalise(first.inputs))
    right = (logits.argmax(1) == first.label_mix.labels[:, 0]).float().mean()
    assert seen["logged"]["teacher/val_acc"] == pytest.approx(float(right))
    assert seen["logged"]["teacher/val_nll"] == pytest.approx(
        float(mixed_cross_entropy(logits, first.label_mix).mean()), rel=1e-5
    )
    assert not any(name.startswith("student/") for name in seen["logged"])


def test_chance_level_teacher_is_warned_about(tmp_path, blobs):
    class Constant(nn.Module):
        def forward(self, images):
            return torch.eye(4)[torch.zeros(len(images), dtype=torch.int64)]

    with pytest.warns(UserWarning, match="teacher: 25.00% validation accuracy is close to chance"):
        trainer(tmp_path).fit(module_of(Constant()), blobs)


class Spoiled(nn.Module):
    """A teacher whose logits are NaN for the rows in which a pixel is very bright."""

    def forward(self, images):
        logits = torch.arange(4.0).expand(len(images), 4).clone()
        logits[images[:, 0, 0, 0] > 100] = float("nan")
        return logits


def test_nonfinite_teacher_logits_stop_the_run_with_their_share():
    module, batch = ready(teacher=Spoiled()), batch_of()
    batch.inputs[[1, 4], 0, 0, 0] = 1000
    with pytest.raises(InputError, match="teacher: expected finite logits, got NaN or infinity in 2 of 6 rows"):
        module.supervise(batch)


def test_nonfinite_rows_can_be_left_out():
    module, batch = ready(teacher=Spoiled(), nonfinite="skip"), batch_of()
    batch.inputs[[1, 4], 0, 0, 0] = 1000
    with pytest.warns(UserWarning, match="teacher: 2 of 6 rows left out"):
        supervision = module.supervise(batch)
    assert (supervision.soft_weight == 0).tolist() == [False, True, False, False, True, False]
    assert torch.equal(supervision.soft_weight == 0, supervision.hard_weight == 0)
    logits = torch.randn(6, 4, requires_grad=True)
    loss = sum(module.loss_parts(logits, supervision).values())
    (gradient,) = torch.autograd.grad(loss, logits)
    assert torch.isfinite(gradient).all()
    assert (gradient.abs().sum(1) == 0).tolist() == [False, True, False, False, True, False]


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        (TinyNet(classes=7), r"teacher: expected logits of the student's 4 classes, got output of shape \(2, 7\)"),
        (TinyNet(channels=3), r"teacher: expected a network for images \(1, 8, 8\), it fails on one"),
        ("test_resnet", r"teacher_checkpoint: expected a weight file .* for 'test_resnet', got none"),
    ],
)
def test_fit_refuses_a_teacher_that_does_not_fit(teacher, message, tmp_path, blobs):
    with pytest.raises(InputError, match=message):
        trainer(tmp_path).fit(module_of(teacher), blobs)


def test_a_pretrained_teacher_with_a_random_head_is_refused(tmp_path, blobs):
    module = module_of("resnet18", teacher_args={"pretrained": True})
    message = "teacher: expected the student's 4 classes, the pretrained 'resnet18' has 1000"
    with pytest.raises(InputError, match=message):
        trainer(tmp_path).fit(module, blobs)


def test_fit_refuses_a_teacher_of_other_classes(tmp_path, blobs):
    names = ["top left", "bottom left", "top right", "bottom right"]
    described = describe(TinyNet(), 4)._replace(class_names=names)
    save_file(TinyNet().state_dict(), tmp_path / "teacher.safetensors", described.metadata())
    module = module_of(teacher_checkpoint=str(tmp_path / "teacher.safetensors"))
    with pytest.raises(InputError, match="class 1 is 'bottom left' in the file and 'top right' in the data set"):
        trainer(tmp_path).fit(module, blobs)


def test_teacher_weights_are_loaded_into_a_module(tmp_path):
    trained = TinyNet()
    torch.save(trained.state_dict(), tmp_path / "teacher.pt")
    module = module_of(TinyNet(), teacher_checkpoint=str(tmp_path / "teacher.pt"))
    module.setup("fit")
    assert equal(state_of(module.teacher.network), state_of(trained))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0}, "temperature: expected a number > 0, got 0"),
        ({"nonfinite": "ignore"}, "nonfinite: expected one of raise, skip, got 'ignore'"),
        ({"soft_weight": -1.0}, "soft_weight: expected a number >= 0, got -1.0"),
        ({"soft_weight": 0.0, "hard_weight": 0.0}, "soft_weight, hard_weight: .*not both 0"),
    ],
)
def test_values_out_of_range_are_named(options, message):
    with pytest.raises(InputError, match=message):
        module_of(**options)


def test_plain_python_hyperparameters_load_weights_only(tmp_path, blobs):
    module = DistillationModule(
        TinyNet(), "test_resnet", 4, 1, 8, temperature=2.0, optimizer=lambda p: torch.optim.Adam(p)
    )
    run = trainer(tmp_path)
    run.fit(module, blobs)
    run.save_checkpoint(tmp_path / "run.ckpt")
    loaded = DistillationModule.load_from_checkpoint(tmp_path / "run.ckpt", teacher=nn.Identity(), weights_only=True)
    assert loaded.temperature == 2.0
    assert equal(state_of(loaded.student), state_of(module.student))


def test_learning_rate_warms_up_and_falls_to_zero(tmp_path, blobs):
    rates = []

    class Rates(Callback):
        def on_train_batch_start(self, trainer, *args):
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    module = module_of(optimizer=lambda p: torch.optim.SGD(p, lr=1.0))
    trainer(tmp_path, max_epochs=10, callbacks=[Rates()]).fit(module, blobs)
    assert len(rates) == 40
    assert rates[0] == pytest.approx(1 / 3)
    assert max(rates) == pytest.approx(1.0)
    assert rates[2:] == sorted(rates[2:], reverse=True)
    assert rates[-1] < 0.01


def test_own_scheduler_is_stepped_once_an_epoch(tmp_path, blobs):
    module = module_of(
        optimizer=lambda p: torch.optim.SGD(p, lr=1.0),
        lr_scheduler=lambda o: torch.optim.lr_scheduler.StepLR(o, step_size=1, gamma=0.5),
    )
    run = trainer(tmp_path, max_epochs=3)
    run.fit(module, blobs)
    assert run.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.125)


def test_a_run_without_an_end_keeps_its_learning_rate(tmp_path, blobs):
    module = module_of(optimizer=lambda p: torch.optim.SGD(p, lr=0.5))
    run = trainer(tmp_path, max_epochs=-1, max_time={"seconds": 0.3})
    run.fit(module, blobs)
    assert run.optimizers[0].param_groups[0]["lr"] == 0.5


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true"])
def test_other_precisions_train(precision, tmp_path, blobs):
    losses = []

    class Losses(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, *args):
            losses.append(outputs["loss"])

    student = TinyNet()
    before = state_of(student)
    trainer(tmp_path, precision=precision, callbacks=[Losses()]).fit(module_of(student=student), blobs)
    assert torch.isfinite(torch.stack(losses)).all()
    assert {loss.dtype for loss in losses} == {torch.float32}
    assert not equal(state_of(student), before)
