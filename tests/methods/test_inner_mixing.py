"""Mixing inside student and teacher in a fit."""

import json

import pytest
import torch
from lightning.pytorch.callbacks import LearningRateFinder, ModelCheckpoint
from torch import nn

from ida_lightning import (
    ClassificationModule,
    CutMixPickCallback,
    DistillationModule,
    HintCallback,
    InnerMixingCallback,
    InputError,
    IsotonicSoftLabelCallback,
    Mixing,
    TeacherOutputs,
    mix_rows,
)
from ida_lightning.studies.teach import teach
from tests.helpers.data import BlobsDataModule
from tests.helpers.kinds import CLASSES, NETWORKS, KindsDataModule
from tests.helpers.networks import TinyNet
from tests.helpers.trainers import trainer

pytestmark = pytest.mark.filterwarnings("ignore:.*is close to chance")
MIXUP = Mixing("mixup")


def module_of(kind="tokens", **options):
    torch.manual_seed(0)
    return DistillationModule(NETWORKS[kind](), NETWORKS[kind](), CLASSES, **options)


def fit(tmp_path, module, method, data=None, callbacks=(), path=None, **options):
    run = trainer(
        tmp_path, callbacks=[*([] if method is None else [method]), *callbacks], **{"max_steps": 2, **options}
    )
    run.fit(module, datamodule=data or KindsDataModule("tokens", mixing=MIXUP), ckpt_path=path)
    return run


class Layers(InnerMixingCallback):
    """Keeps the losses of the steps, and which layers mixed in them."""

    def __init__(self, *args):
        super().__init__(*args)
        self.losses, self.chosen = [], []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        self.chosen.append([point.name for _, point in self._points if point.plan is not None])
        self.losses.append(float(outputs["loss"]))
        super().on_train_batch_end(trainer, module)


def test_teacher_and_student_mix_the_same_rows(tmp_path):
    seen = {}

    class Look(nn.Module):
        def __init__(self, network, owner):
            super().__init__()
            self.embedding, self.rest, self.owner = network.embedding, network, owner

        def forward(self, ids, mask):
            states = self.embedding(ids)
            if states.requires_grad or (self.owner == "teacher" and self.owner in seen):
                seen[self.owner] = (self.embedding.weight[ids].detach().clone(), states.detach().clone(), mask)
            seen.setdefault(self.owner, None)
            states = self.rest.body(states) * mask[:, :, None]
            return self.rest.head(states.sum(1))

    class Keep(InnerMixingCallback):
        def on_train_batch_start(self, trainer, module, batch, batch_idx):
            seen["batch"] = batch
            super().on_train_batch_start(trainer, module, batch, batch_idx)

    torch.manual_seed(0)
    teacher, student = (Look(NETWORKS["tokens"](), owner) for owner in ("teacher", "student"))
    fit(tmp_path, DistillationModule(teacher, student, CLASSES), Keep("embedding"), max_steps=1, limit_val_batches=0)
    plan = seen["batch"].inner[0]
    for owner in ("teacher", "student"):
        before, after, mask = seen[owner]
        torch.testing.assert_close(after, mix_rows(before, plan))
        assert torch.equal(mask, seen["batch"].inputs["mask"])


@pytest.mark.parametrize("layers", ["inputs", "0"])
def test_a_linear_layer_is_as_good_as_the_inputs(layers, tmp_path):
    """Mixing before and after a linear layer without an activation is the same."""
    found = []
    for method in (None, InnerMixingCallback(layers)):
        module = module_of("vectors")
        fit(tmp_path, module, method, KindsDataModule("vectors", mixing=MIXUP))
        found.append([parameter.detach().clone() for parameter in module.student.parameters()])
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, atol=1e-6, rtol=1e-5)


def test_nothing_is_left_behind_and_evaluation_mixes_nothing(tmp_path):
    module, method, data = module_of(), InnerMixingCallback("embedding"), KindsDataModule("tokens", mixing=MIXUP)
    keys = list(module.state_dict())
    run = fit(tmp_path, module, method, data)
    assert list(module.state_dict()) == keys
    assert data.inner_layers == ()
    for network in (module.student, module.teacher.network):
        assert not any(part._forward_hooks or part._forward_pre_hooks for part in network.modules())
    after = run.validate(module, datamodule=KindsDataModule("tokens"), verbose=False)[0]
    assert after["student/val_acc"] == float(run.callback_metrics["student/val_acc"])


@pytest.mark.parametrize("method", [InnerMixingCallback("body"), InnerMixingCallback(["embedding", "body"])])
def test_a_classifier_mixes_inside(method, tmp_path):
    module = ClassificationModule(NETWORKS["tokens"](), CLASSES)
    assert fit(tmp_path, module, method).global_step == 2


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_drawn_layers_follow_seed_epoch_and_batch(tmp_path):
    layers = ["inputs", "0", "3"]

    def run(seed=5, path=None, saves=False):
        torch.manual_seed(0)
        module = DistillationModule(TinyNet(width=4), TinyNet(width=4), 4, 1, 8)
        method = Layers(layers)
        savers = [ModelCheckpoint(tmp_path, every_n_train_steps=3, save_top_k=-1)] if saves else []
        data = BlobsDataModule(batch_size=16, mixing=MIXUP, seed=seed)
        fit(tmp_path, module, method, data, savers, path, max_steps=8, max_epochs=-1, enable_checkpointing=saves)
        return method

    whole, again, other = run(saves=True), run(), run(seed=6)
    assert whole.chosen == again.chosen
    assert whole.losses == again.losses
    assert whole.chosen != other.chosen
    assert {tuple(names) for names in whole.chosen} == {
        (f"layers: {name}", f"teacher_layers: {name}") for name in layers
    }
    (middle,) = tmp_path.glob("*step=3.ckpt")  # in the middle of an epoch of four
    resumed = run(path=middle)
    assert resumed.chosen == whole.chosen[3:]
    assert resumed.losses == whole.losses[3:]


def test_stored_answers_are_those_of_the_layer(tmp_path):
    def run(layers, mode, method=True):
        module = module_of(teacher_outputs=TeacherOutputs(str(tmp_path / "answers"), mode=mode))
        fit(tmp_path, module, InnerMixingCallback(layers) if method else None)
        return module

    first, second = run("embedding", "record"), run("embedding", "replay")
    assert second.answers.live == 0
    for one, two in zip(first.student.parameters(), second.student.parameters(), strict=True):
        assert torch.equal(one, two)
    manifest = json.loads((tmp_path / "answers" / "manifest.json").read_text())
    assert manifest["pictures"]["inner_layers"] == ["embedding"]
    with pytest.raises(InputError, match="teacher_outputs"):
        run("body", "replay")


def test_what_teach_records_is_replayed(tmp_path):
    outputs, data = TeacherOutputs(str(tmp_path / "answers")), KindsDataModule("tokens", mixing=MIXUP)
    method = InnerMixingCallback(["embedding", "body"])
    teach(trainer(tmp_path, callbacks=[method]), module_of(teacher_outputs=outputs), data, epochs=1)
    assert data.inner_layers == ()
    module = module_of(teacher_outputs=outputs)
    fit(tmp_path, module, method)
    assert module.answers.live == 0
    assert module.answers.replayed == 2


@pytest.mark.parametrize("view", ["plain", "mirrored"])
def test_other_views_of_the_teacher(view, tmp_path):
    torch.manual_seed(0)
    module = DistillationModule(TinyNet(), TinyNet(), 4, 1, 8, teacher_view=view)
    method = Layers("0")
    fit(tmp_path, module, method, BlobsDataModule(mixing=MIXUP), [IsotonicSoftLabelCallback()], max_steps=1)
    assert method.chosen == [["layers: 0"] + (["teacher_layers: 0"] if view == "mirrored" else [])]


class Tuples(nn.Module):
    """A network whose layers give other things than one tensor."""

    def __init__(self):
        super().__init__()
        self.pair, self.gru, self.named = Pair(), nn.GRU(4, 8, batch_first=True), Named()
        self.flat, self.shared, self.unused = Flat(), nn.Tanh(), nn.Tanh()
        self.head = nn.Linear(4, CLASSES)

    def forward(self, steps):
        steps = self.shared(self.shared(self.pair(steps)[0])) + self.named(steps)["states"]
        self.flat(steps)
        self.gru(steps)
        return self.head(steps.mean(1))


class Pair(nn.Module):
    def forward(self, steps):
        return 2 * steps, None


class Named(nn.Module):
    def forward(self, steps):
        return {"states": steps}


class Flat(nn.Module):
    def forward(self, steps):
        return steps.mean(0)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ("embeding", r"layers: expected a layer of the student, such as embedding, got 'embeding'"),
        ("inputs", r"layers: inputs: expected inputs of one tensor, got ids, mask"),
    ],
)
def test_layers_of_tokens_that_are_refused(layers, message, tmp_path):
    with pytest.raises(InputError, match=message):
        fit(tmp_path, module_of(), InnerMixingCallback(layers))


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        (
            "flat",
            r"layers: flat: expected a layer that gives one floating point tensor \(2, ...\), .* got float32 \(5, 4\)",
        ),
        ("gru", r"layers: gru: expected a layer that gives one floating point tensor"),
        ("named", r"layers: named: expected a layer that gives one floating point tensor"),
        ("shared", r"layers: shared: expected a layer that a pass of the student meets once, got 2 times"),
        ("unused", r"layers: unused: expected a layer that a pass of the student meets once, got 0 times"),
        ("pair", None),
    ],
)
def test_layers_must_give_one_tensor_once(layer, message, tmp_path):
    module = DistillationModule(NETWORKS["sequences"](), Tuples(), CLASSES)
    run, data = (
        trainer(tmp_path, callbacks=[InnerMixingCallback(layer, "head")], max_steps=1),
        KindsDataModule("sequences"),
    )
    if message is None:
        run.fit(module, datamodule=data)
        return
    with pytest.raises(InputError, match=message):
        run.fit(module, datamodule=data)
    assert run.global_step == 0


@pytest.mark.parametrize(
    ("method", "data", "callbacks", "message"),
    [
        ("embedding", {"mixing": Mixing("none")}, [], "mixing.kind: expected mixup with InnerMixingCallback, got none"),
        (
            "embedding",
            {"mixing": Mixing("cutmix")},
            [],
            "mixing.kind: expected mixup with InnerMixingCallback, got cutmix",
        ),
        ("embedding", {"mixing": MIXUP, "pool": 1}, [], "pool: expected 0 with InnerMixingCallback, .* got 1"),
        ("embedding", {"mixing": MIXUP}, [CutMixPickCallback()], "rows: expected all, as rows that are left out"),
        ("embedding", {"mixing": MIXUP}, [LearningRateFinder()], "LearningRateFinder: expected none with InnerMixing"),
    ],
)
def test_what_does_not_go_together_is_one_line(method, data, callbacks, message, tmp_path):
    with pytest.raises(InputError, match=message):
        fit(tmp_path, module_of(), InnerMixingCallback(method), KindsDataModule("tokens", **data), callbacks)


def test_constructor_and_modules_that_do_not_fit(tmp_path):
    with pytest.raises(InputError, match="teacher_layers: expected as many as layers, 2, got 1"):
        InnerMixingCallback(["a", "b"], "c")
    with pytest.raises(InputError, match="teacher_layers: expected a module with a teacher, got ClassificationModule"):
        fit(tmp_path, ClassificationModule(NETWORKS["tokens"](), CLASSES), InnerMixingCallback("embedding", "body"))
    batches = [next(iter(KindsDataModule("vectors").part(8, 0).__getitems__([0]).inputs))]
    with pytest.raises(InputError, match="expected a LabelledDataModule, whose batches know their plan, got loaders"):
        trainer(tmp_path, callbacks=[InnerMixingCallback("0")]).fit(module_of("vectors"), batches, batches)
    hint = HintCallback("body", "body")
    with pytest.raises(InputError, match="teacher_view: expected mixed with InnerMixingCallback and HintCallback"):
        fit(tmp_path, module_of(teacher_view="plain"), InnerMixingCallback("embedding"), callbacks=[hint])


def test_a_crashed_fit_leaves_nothing_in_the_next(tmp_path):
    module, data = module_of("vectors"), KindsDataModule("vectors", mixing=MIXUP)

    class Crash(InnerMixingCallback):
        def on_train_batch_end(self, *args):
            raise RuntimeError("full disk")

    with pytest.raises(RuntimeError, match="full disk"):
        fit(tmp_path, module, Crash("0"), data)
    assert data.inner_layers == ()
    assert not any(part._forward_hooks for part in module.student.modules())


@pytest.mark.slow  # compiles two networks
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor")
def test_compiled_networks_mix_as_eager_ones(tmp_path):
    found = []
    for compile_args in (None, {"backend": "aot_eager"}):
        module, method = module_of(compile_args=compile_args), Layers(["embedding", "body"])
        fit(tmp_path, module, method, max_steps=5, max_epochs=-1)
        found.append(method)
    assert found[0].chosen == found[1].chosen
    assert found[0].losses == pytest.approx(found[1].losses, rel=1e-5)
