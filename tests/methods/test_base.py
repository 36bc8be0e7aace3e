"""The public door for methods: abstract bases, names, whose hooks are in force, and networks that are trained along."""

import copy

import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, WeightAveraging
from torch import nn

from ida_lightning import InputError, Mixing
from ida_lightning.methods import (
    IsotonicSoftLabelCallback,
    LossMethod,
    OrderPenaltyCallback,
    SmoothingControlCallback,
    SupervisionMethod,
)
from ida_lightning.modules import DistillationModule
from tests.helpers.data import BlobsDataModule
from tests.helpers.networks import TinyNet
from tests.helpers.trainers import trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:teacher. .* is close to chance"),  # a random teacher is enough here
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
]


class Scale(SupervisionMethod):
    """Multiplies the weight of the soft labels."""

    def __init__(self, factor=0.5, name=None):
        super().__init__(name)
        self.factor = factor

    def transform(self, supervision):
        weight = self.factor * supervision.soft_weight
        self.measure({"soft_weight": weight})
        return supervision._replace(soft_weight=weight)


class Projected(LossMethod):
    """Compares a projection of the student's features with the soft label; counts its batches in a buffer."""

    def build_network(self, module):
        self.projector = nn.Linear(32, 4)
        self.projector.register_buffer("batches", torch.zeros(()))
        return self.projector

    def register(self, trainer, module):
        super().register(trainer, module)
        self.register_forward_hook(module.student[4], self.keep)  # nn.Flatten

    def keep(self, part, inputs, output):
        self.features = output

    def loss(self, student_logits, supervision):
        self.projector.batches += 1
        return (self.projector(self.features).softmax(1) - supervision.soft_labels).square().sum(1)


def fit(tmp_path, *callbacks, module=None, resume=None, **options):
    torch.manual_seed(1)
    if module is None:
        module = DistillationModule(TinyNet(), TinyNet(), 4, 1, 8)
    run = trainer(tmp_path, callbacks=list(callbacks), **options)
    run.fit(module, BlobsDataModule(batch_size=16, mixing=Mixing("cutmix")), ckpt_path=resume)
    return run, module


def weights_of(network):
    return torch.cat([tensor.flatten().float() for tensor in network.state_dict().values()])


def test_two_of_a_kind_log_and_resume_under_their_names(tmp_path):
    keep = ModelCheckpoint(tmp_path / "kept", "{step}", every_n_train_steps=2, save_top_k=-1)
    first, second = Scale(name="first"), Scale(0.1, name="second")
    run, _ = fit(tmp_path, first, second, keep, enable_checkpointing=True)
    logged = {"train/first/soft_weight": 0.5 * 0.95, "train/second/soft_weight": 0.05 * 0.95}
    assert {key: float(run.callback_metrics[key]) for key in logged} == pytest.approx(logged)
    stored = torch.load(tmp_path / "kept" / "step=2.ckpt", weights_only=True)
    assert stored["first_means"]["sums"] == pytest.approx([32 * 0.5 * 0.95, 32])
    assert stored["second_means"]["sums"] == pytest.approx([32 * 0.05 * 0.95, 32])
    again, _ = fit(tmp_path, Scale(name="first"), Scale(0.1, name="second"), resume=tmp_path / "kept" / "step=2.ckpt")
    assert {key: float(again.callback_metrics[key]) for key in logged} == pytest.approx(logged)


def test_names_and_keys_that_stand_twice_are_one_clear_error(tmp_path):
    with pytest.raises(InputError, match="name: expected methods with different names, got 2 called 'Scale'"):
        fit(tmp_path, Scale(), Scale())
    with pytest.raises(InputError, match="log different keys, got train/moved_mass from IsotonicSoft.* and Smoothing"):
        fit(tmp_path, IsotonicSoftLabelCallback(), SmoothingControlCallback())
    run, _ = fit(tmp_path, IsotonicSoftLabelCallback(), SmoothingControlCallback(name="control"))
    assert run.callback_metrics["train/violation_rate"] > 0
    assert run.callback_metrics["train/control/violation_rate"] == 0
    run, _ = fit(tmp_path, OrderPenaltyCallback(), OrderPenaltyCallback(1.0, name="weak"))
    assert run.callback_metrics["train/order_penalty"] > 0
    assert run.callback_metrics["train/weak"] > 0


@pytest.mark.parametrize("base", [SupervisionMethod, LossMethod])
def test_a_misspelt_method_fails_when_it_is_made(base):
    class Misspelt(base):
        def tranform(self, supervision):
            return supervision

    with pytest.raises(TypeError, match="Can't instantiate abstract class Misspelt"):
        Misspelt()


def test_a_subclass_may_forget_the_constructor_of_its_base(tmp_path):
    class Bare(SupervisionMethod):
        def __init__(self, factor):
            self.factor = factor

        def transform(self, supervision):
            return supervision

    run, _ = fit(tmp_path, Bare(2))
    assert run.state.finished


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda s: None, "expected a Supervision to be returned, got NoneType None"),
        (lambda s: s._replace(soft_labels=s.soft_labels[:3]), "expected inputs with the 3 rows of soft_labels"),
        (lambda s: s._replace(soft_weight=0.5), r"expected soft_weight with the 16 rows of soft_labels, got float 0.5"),
        (
            lambda s: s._replace(soft_labels=s.soft_labels[:, :2]),
            "expected soft_labels .batch, 4., got float32",
        ),
        (lambda s: s._replace(hard_weight=s.hard_weight[:, None]), r"expected hard_weight floating point .16,."),
        (lambda s: s._replace(index=s.index.to("meta")), "expected index on cpu, got it on meta"),
        (lambda s: s._replace(label_mix=s.label_mix.select(torch.arange(3))), "expected label_mix.labels with the 16"),
    ],
)
def test_what_a_method_returns_wrongly_is_named_with_it(change, complaint, tmp_path):
    class Careless(SupervisionMethod):
        def transform(self, supervision):
            return change(supervision)

    with pytest.raises(InputError, match=f"^Careless 'mine': {complaint}"):
        fit(tmp_path, Careless(name="mine"))


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        (lambda logits: logits.sum(), r"\(16,\) on cpu, got float32 \(\) on cpu"),
        (lambda logits: 3.0, r"\(16,\) on cpu, got float 3.0"),
        (lambda logits: logits.argmax(1), r"\(16,\) on cpu, got int64 \(16,\) on cpu"),
    ],
)
def test_a_loss_that_is_not_one_number_per_row_is_named(value, complaint, tmp_path):
    class Careless(LossMethod):
        def loss(self, student_logits, supervision):
            return value(student_logits)

    with pytest.raises(InputError, match=f"^Careless: expected one loss per row, floating point {complaint}"):
        fit(tmp_path, Careless())


class Raises(Callback):
    def __init__(self, error):
        self.error = error

    def on_train_batch_end(self, *args):
        raise self.error


class Registers(Callback):
    """A callback of nobody's making that cleans nothing up."""

    def setup(self, trainer, pl_module, stage):
        pl_module.register_supervision_hook(lambda s: s._replace(soft_labels=s.soft_labels.flip(1)))
        pl_module.register_loss_term("own", lambda logits, supervision: logits.sum(1))


@pytest.mark.parametrize("error", [RuntimeError("stopped here"), KeyboardInterrupt()], ids=["crash", "interrupt"])
def test_a_fit_that_broke_off_leaves_nothing_in_the_next(error, tmp_path):
    start = TinyNet().state_dict()
    teacher = TinyNet()

    def trained(module, *callbacks):
        module.student.load_state_dict(start)
        return weights_of(fit(tmp_path, *callbacks, module=module)[1].student)

    plain = trained(DistillationModule(teacher, TinyNet(), 4, 1, 8))
    corrected = trained(DistillationModule(teacher, TinyNet(), 4, 1, 8), IsotonicSoftLabelCallback(space="logits"))
    assert not torch.equal(plain, corrected)
    module = DistillationModule(teacher, TinyNet(), 4, 1, 8)
    callbacks = [IsotonicSoftLabelCallback(space="logits"), Projected(), Registers(), Raises(error)]
    with pytest.raises((type(error), SystemExit)):
        trained(module, *callbacks)
    assert torch.equal(trained(module), plain)
    assert torch.equal(trained(module, callbacks[0]), corrected)


def test_hooks_of_no_fit_stay_until_they_are_removed(tmp_path):
    calls = []
    module = DistillationModule(TinyNet(), TinyNet(), 4, 1, 8)
    handle = module.register_supervision_hook(lambda s: calls.append(1) or s)
    for _ in range(2):
        fit(tmp_path, module=module)
    assert len(calls) == 8
    handle.remove()
    fit(tmp_path, module=module)
    assert len(calls) == 8


def test_a_network_that_a_method_brings_is_trained(tmp_path):
    method = Projected()
    run, module = fit(tmp_path, method, max_epochs=2)
    torch.manual_seed(1)
    assert set(method.projector.parameters()) <= {
        p for group in run.optimizers[0].param_groups for p in group["params"]
    }
    assert float(method.projector.batches) == 8
    assert run.callback_metrics["train/Projected"] > 0
    assert not any(layer._forward_hooks for layer in module.student)


def test_a_methods_network_resumes_bit_for_bit(tmp_path):
    def run(folder, resume=None):
        keep = ModelCheckpoint(tmp_path / folder, "{step}", every_n_train_steps=3, save_top_k=-1)
        method = Projected()
        _, module = fit(tmp_path, method, keep, resume=resume, max_epochs=2, enable_checkpointing=True)
        return weights_of(method.projector), weights_of(module.student)

    whole = run("whole")
    resumed = run("resumed", tmp_path / "whole" / "step=3.ckpt")
    for one, other in zip(whole, resumed, strict=True):
        assert torch.equal(one, other)


def test_a_student_is_tested_without_the_network_of_a_method(tmp_path):
    run, module = fit(tmp_path, Projected())
    run.save_checkpoint(tmp_path / "student.ckpt")
    alone = DistillationModule.load_from_checkpoint(
        tmp_path / "student.ckpt", teacher=nn.Identity(), student=TinyNet(), weights_only=True
    )
    assert torch.equal(weights_of(alone.student), weights_of(module.student))
    fresh = DistillationModule(nn.Identity(), TinyNet(), 4, 1, 8)
    data = BlobsDataModule(batch_size=16)
    trainer(tmp_path).test(fresh, data, ckpt_path=tmp_path / "student.ckpt", weights_only=True, verbose=False)
    assert torch.equal(weights_of(fresh.student), weights_of(module.student))


@pytest.mark.parametrize("first", [True, False])
def test_averaging_covers_the_network_of_a_method(first, tmp_path):
    method, average = Projected(), WeightAveraging(avg_fn=lambda old, new, count: (old + new) / 2)
    fit(tmp_path, *([average, method] if first else [method, average]), max_epochs=2)
    projector = average._average_model.module.method_networks["Projected"]
    assert not torch.equal(weights_of(projector), torch.zeros_like(weights_of(projector)))


def test_copies_of_a_module_have_no_hooks_of_a_fit(tmp_path):
    copies = []

    class Copies(Callback):
        def on_train_start(self, trainer, pl_module):
            copies.append(copy.deepcopy(pl_module))

    fit(tmp_path, Scale(), Copies())
    assert not copies[0]._supervision_hooks


class Saves(Callback):
    """Every process saves the projector that it has at the end."""

    def __init__(self, folder, method):
        self.folder, self.method = folder, method

    def on_train_end(self, trainer, pl_module):
        names = [name for name, _ in trainer.model.named_parameters()]
        content = {"weights": weights_of(self.method.projector), "names": names}
        torch.save(content, self.folder / f"projector{trainer.global_rank}.pt")


@pytest.mark.skipif(torch.cuda.is_initialized(), reason="Lightning refuses to fork once CUDA is initialised")
def test_two_processes_train_one_network_of_a_method(tmp_path):
    method = Projected()
    fit(tmp_path, method, Saves(tmp_path, method), devices=2, strategy="ddp_fork", max_epochs=2)
    first, second = (torch.load(tmp_path / f"projector{rank}.pt", weights_only=True) for rank in (0, 1))
    assert torch.equal(first["weights"], second["weights"])
    assert "module.method_networks.Projected.weight" in first["names"]
