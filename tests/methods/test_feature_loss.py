"""Losses between features: layers, projectors, hooks, and the bank of CRD."""

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from safetensors.torch import load_file
from torch import nn
from torch.utils.data import DataLoader

from ida_lightning import (
    AttentionCallback,
    Contrast,
    CRDCallback,
    CutMixPickCallback,
    FeatureLoss,
    HintCallback,
    InputError,
    Mixing,
    RKDCallback,
    SimilarityCallback,
    TeacherLabelCallback,
)
from ida_lightning.callbacks import ExportCallback
from ida_lightning.modules import DistillationModule, TeacherOutputs
from tests.helpers.data import BlobsDataModule
from tests.helpers.networks import TinyNet
from tests.helpers.trainers import trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:teacher. .* is close to chance"),
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`"),  # the second run keeps no checkpoints
]
FEW = Contrast(dimensions=8, negatives=20)


def fit(tmp_path, *callbacks, data=None, resume=None, options=None, **changes):
    torch.manual_seed(1)
    module = DistillationModule(TinyNet(width=12), TinyNet(), 4, 1, 8, **(options or {}))
    run = trainer(tmp_path, callbacks=list(callbacks), **{"max_epochs": 1, "limit_val_batches": 1, **changes})
    data = data or BlobsDataModule(batch_size=16, mixing=Mixing("cutmix"))
    run.fit(module, data, ckpt_path=resume)
    return run, module


class Seen(FeatureLoss):
    """Keeps what it was given."""

    def compare(self, student, teacher, supervision):
        self.seen = (student, teacher, supervision)
        return student[0].flatten(1).mean(1)


def test_feature_losses_train_are_saved_and_exported_away(tmp_path):
    losses = [
        HintCallback("0", "0"),
        AttentionCallback(["0", "2"], ["0", "3"]),
        SimilarityCallback(),
        RKDCallback("2", "penultimate"),
        CRDCallback(contrast=FEW),
    ]
    keep = ModelCheckpoint(tmp_path / "kept", "{step}", every_n_train_steps=2, save_top_k=-1)
    export = ExportCallback(tmp_path / "student.safetensors")
    run, module = fit(tmp_path, *losses, keep, export, enable_checkpointing=True)
    terms = ("hint", "attention", "similarity", "rkd", "crd")
    assert all(0 < float(run.callback_metrics[f"train/{term}"]) < 1e4 for term in terms)
    named = dict(module.method_networks.named_parameters())
    assert named["HintCallback.0.weight"].shape == (12, 8, 1, 1)
    assert named["CRDCallback.teacher.weight"].shape == (8, 48)
    optimised = {id(p) for group in run.optimizers[0].param_groups for p in group["params"]}
    assert {id(p) for p in named.values()} <= optimised
    assert not any(part._forward_hooks for network in (module.student, module.teacher.network) for part in network)
    assert load_file(tmp_path / "student.safetensors").keys() == TinyNet().state_dict().keys()
    kept = torch.load(tmp_path / "kept" / "step=2.ckpt", weights_only=True)
    assert kept["CRDCallback_bank"]["banks"]["student"].shape == (64, 8)
    assert "method_networks.HintCallback.0.weight" in kept["state_dict"]

    # A run that goes on from its middle ends as this one did, bank included.
    again = [type(loss)(list(loss.student_layers), list(loss.teacher_layers)) for loss in losses[:4]]
    crd = CRDCallback(contrast=FEW)
    _, resumed = fit(tmp_path, *again, crd, resume=tmp_path / "kept" / "step=2.ckpt")
    for network, other in ((module.student, resumed.student), (module.method_networks, resumed.method_networks)):
        for name, tensor in network.state_dict().items():
            torch.testing.assert_close(other.state_dict()[name], tensor, msg=name)
    torch.testing.assert_close(crd.banks, losses[4].banks)


def test_features_are_those_of_the_rows_that_are_taught(tmp_path):
    seen = Seen("2", "2")
    data = BlobsDataModule(batch_size=8, mixing=Mixing("cutmix"), pool=2)
    picks = (TeacherLabelCallback(), CutMixPickCallback())
    _, module = fit(tmp_path, *picks, seen, data=data, max_epochs=1, limit_train_batches=1, limit_val_batches=0)
    student, teacher, supervision = seen.seen
    assert len(supervision.rows) == len(student[0]) == len(teacher[0]) == 16
    with torch.no_grad():
        expected = nn.Sequential(*list(module.teacher.network)[:3])(supervision.inputs)
    torch.testing.assert_close(teacher[0], expected)


def test_stored_answers_are_no_features(tmp_path):
    figures = []
    for _ in range(2):
        seen = Seen("2", "2")
        options = {"teacher_outputs": TeacherOutputs(str(tmp_path / "answers"))}
        _, module = fit(tmp_path, seen, options=options, limit_train_batches=2)
        figures.append((module.answers.live, seen.seen[1][0].clone()))
    assert [live for live, _ in figures] == [2, 0]
    torch.testing.assert_close(figures[0][1], figures[1][1])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: HintCallback("layer9", "0"), "student_layers: expected a layer of the student, such as .*'layer9'"),
        (lambda: HintCallback("0", "10"), "teacher_layers: expected a layer of the teacher, such as .*got '10'"),
        (lambda: HintCallback("0", "4"), r"student_layers: expected layers that both give maps.* got \(8, 8, 8\) of"),
        (lambda: AttentionCallback(), r"student_layers: expected layers that give maps .* got \(32,\) of the student"),
        (lambda: CRDCallback(contrast=Contrast(negatives=64)), "negatives: expected fewer than the 64 training images"),
    ],
    ids=["student", "teacher", "shapes", "maps", "bank"],
)
def test_what_cannot_be_compared_is_named_at_once(make, message, tmp_path):
    with pytest.raises(InputError, match=message):
        fit(tmp_path, make())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: HintCallback([], "0"), "student_layers: expected names of layers, each once, got list"),
        (lambda: HintCallback(["0", "2"], "0"), "teacher_layers: expected as many as student_layers, 2, got 1"),
        (lambda: HintCallback("0", "0", weight=-1), "weight: expected a number >= 0, got -1"),
        (lambda: CRDCallback(["0", "2"], ["0", "2"]), "student_layers: expected one, got 2"),
        (lambda: Contrast(temperature=0), "temperature: expected a number > 0, got 0"),
    ],
    ids=["none", "count", "weight", "one", "temperature"],
)
def test_wrong_options_are_named(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_compiled_networks_and_foreign_data_are_refused(tmp_path):
    with pytest.raises(InputError, match="compile_args: expected none with HintCallback, which looks at layers"):
        fit(tmp_path, HintCallback("0", "0"), options={"compile_args": {"backend": "eager"}})
    loader = DataLoader([(torch.randn(1, 8, 8), row % 4) for row in range(32)], batch_size=16)
    run = trainer(tmp_path, callbacks=[CRDCallback(contrast=FEW)])
    with pytest.raises(InputError, match="CRDCallback: expected a MixingDataModule, which knows every image"):
        run.fit(DistillationModule(TinyNet(), TinyNet(), 4, 1, 8), loader, loader)
