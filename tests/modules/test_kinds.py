"""Inputs of every kind go through fits, methods, stored answers and resumed runs."""

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, TensorDataset

from ida_lightning import ClassificationModule, DistillationModule, InputError, Mixing, TeacherOutputs
from ida_lightning import methods as all_methods
from tests.helpers.kinds import CLASSES, NETWORKS, KindsDataModule
from tests.helpers.trainers import trainer

KINDS = list(NETWORKS)
pytestmark = pytest.mark.filterwarnings("ignore:.*is close to chance")


def module_of(kind, **options):
    torch.manual_seed(0)
    return DistillationModule(NETWORKS[kind](), NETWORKS[kind](), CLASSES, **options)


# What is no picture, and what networks are asked about in a made-up picture would not fit.
def loader_of(kind, rows=8):
    part = KindsDataModule(kind).part(16, 0)

    def collate(items):
        return part.__getitems__([int(index) for (index,) in items])

    return DataLoader(TensorDataset(torch.arange(16)), batch_size=rows, collate_fn=collate)


def constant_loader(batch):
    return DataLoader([0], batch_size=None, collate_fn=lambda _: batch)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_input_is_distilled(kind, tmp_path):
    module, run = module_of(kind), trainer(tmp_path)
    before = [parameter.clone() for parameter in module.student.parameters()]
    run.fit(module, datamodule=KindsDataModule(kind))
    assert 0 <= float(run.callback_metrics["student/val_acc"]) <= 1
    assert not all(torch.equal(one, two) for one, two in zip(before, module.student.parameters(), strict=True))
    (probabilities, *_) = run.predict(module, datamodule=KindsDataModule(kind))
    assert probabilities.shape == (8, CLASSES)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_input_is_classified(kind, tmp_path):
    module, run = ClassificationModule(NETWORKS[kind](), CLASSES), trainer(tmp_path, limit_train_batches=1)
    run.fit(module, datamodule=KindsDataModule(kind))
    assert 0 <= float(run.callback_metrics["model/val_acc"]) <= 1


@pytest.mark.parametrize("kind", KINDS)
def test_loaders_of_somebody_else_are_not_asked_about_pictures(kind, tmp_path):
    module, run = module_of(kind), trainer(tmp_path, max_steps=1)
    run.fit(module, loader_of(kind), loader_of(kind))
    assert run.global_step == 1


def test_dicts_of_tokens_with_labels_are_batches(tmp_path):
    batch = loader_of("tokens").collate_fn([(i,) for i in range(8)])
    plain = {**batch.inputs, "labels": batch.label_mix.labels[:, 0]}
    loader, run = constant_loader(plain), trainer(tmp_path, max_steps=1)
    run.fit(module_of("tokens"), loader, loader)
    assert run.global_step == 1


class Broken(torch.nn.Module):
    def forward(self, ids):
        return self.missing


@pytest.mark.filterwarnings("ignore:.*no `val_dataloader`")
@pytest.mark.parametrize("data", ["module", "loader"])
@pytest.mark.parametrize("owner", ["teacher", "student"])
def test_a_network_of_other_inputs_is_named_before_a_step(data, owner, tmp_path):
    networks = {"teacher": NETWORKS["tokens"](), "student": NETWORKS["tokens"](), owner: Broken()}
    if owner == "student":
        networks[owner].weight = torch.nn.Parameter(torch.zeros(1))
    module, run = DistillationModule(num_classes=CLASSES, **networks), trainer(tmp_path)
    loader = {"train_dataloaders": loader_of("tokens")}
    given = {"datamodule": KindsDataModule("tokens")} if data == "module" else loader
    with pytest.raises(InputError, match=rf"{owner}: expected a network for inputs ids \(7,\), mask \(7,\), it fails"):
        run.fit(module, **given)
    assert run.global_step == 0


@pytest.mark.parametrize(
    ("kind", "mixing", "message"),
    [
        (
            "tokens",
            Mixing("mixup"),
            r"inputs: expected floating point \(8, ...\), .* got ids int64 \(8, 7\), mask",
        ),
        (
            "vectors",
            Mixing("cutmix"),
            r"mixing.kind: expected mixup for inputs without height and width, got",
        ),
        ("sequences", Mixing("mosaic"), r"mixing.kind: expected mixup for inputs without height and width"),
    ],
)
def test_ways_of_mixing_that_do_not_fit_are_refused(kind, mixing, message, tmp_path):
    with pytest.raises(InputError, match=message):
        trainer(tmp_path).fit(module_of(kind), datamodule=KindsDataModule(kind, mixing=mixing))


@pytest.mark.filterwarnings("ignore:.*no `val_dataloader`")
def test_entries_of_different_lengths_are_named(tmp_path):
    batch = loader_of("tokens").collate_fn([(i,) for i in range(8)])
    short = batch._replace(inputs={**batch.inputs, "mask": batch.inputs["mask"][:7]})
    with pytest.raises(InputError, match=r"same number of rows, got ids int64 \(8, 7\), mask bool \(7, 7\)"):
        trainer(tmp_path).fit(module_of("tokens"), constant_loader(short))


def test_a_spectrogram_that_is_not_square_is_cut_and_pasted():
    data = KindsDataModule("spectrograms", mixing=Mixing("cutmix"))
    data.setup("fit")
    batch = data.mix(next(iter(data.train_dataloader())), data.batch_generator(0, 0))
    assert batch.inputs.shape == (8, 1, 8, 12)
    assert batch.mixed().any()


POOLED = ("CutMixPickCallback", "TeacherLabelCallback")
# A method inside, maps of pictures, a plan in the batch (tests/methods/test_inner_mixing.py).
NEEDS_MORE = ("AddedTermCallback", "AttentionCallback", "InnerMixingCallback")
METHODS = {name: kind for name, kind in vars(all_methods).items() if name.endswith("Callback")}
CASES = [
    pytest.param(kind, name, marks=[] if kind in ("sequences", "tokens") else pytest.mark.slow)
    for kind in KINDS
    for name in METHODS
    if name not in NEEDS_MORE and not (kind == "tokens" and name in POOLED)  # which need mixed rows
]


@pytest.mark.parametrize(("kind", "name"), CASES)
def test_every_method_takes_other_inputs(kind, name, tmp_path):
    options = {}
    if issubclass(METHODS[name], all_methods.FeatureLoss):
        head = "head" if kind in ("sequences", "tokens") else str(len(module_of(kind).student) - 1)
        options = {"student_layers": head, "teacher_layers": head}
    if name == "CRDCallback":
        options["contrast"] = all_methods.Contrast(dimensions=4, negatives=8)
    method = METHODS[name](**options)
    data = KindsDataModule(kind, pool=int(name in POOLED))
    run = trainer(tmp_path, callbacks=[method], max_steps=2)
    run.fit(module_of(kind), datamodule=data)
    assert run.global_step == 2


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
@pytest.mark.parametrize("kind", ["vectors", "tokens", *(pytest.param(k, marks=pytest.mark.slow) for k in KINDS[1:3])])
def test_stored_answers_and_resume_of_other_inputs(kind, tmp_path):
    def fit(*paths, mode="record", steps=3, path=None):
        module = module_of(kind, teacher_outputs=TeacherOutputs(str(tmp_path / "answers"), mode=mode))
        saver = ModelCheckpoint(tmp_path / mode, every_n_train_steps=2, save_top_k=-1)
        run = trainer(tmp_path, max_steps=steps, callbacks=[saver], enable_checkpointing=True)
        run.fit(module, datamodule=KindsDataModule(kind), ckpt_path=path)
        return module

    first, second = fit(), fit(mode="replay")
    assert second.answers.live == 0
    resumed = fit(mode="auto", path=next((tmp_path / "record").glob("*step=2.ckpt")))
    for other in (second, resumed):
        for one, two in zip(first.student.parameters(), other.student.parameters(), strict=True):
            assert torch.equal(one, two)
