"""Data selection: the scores, the choice, the files, and that looking leaves training as it was."""

import json
from itertools import permutations
from pathlib import Path

import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from safetensors.torch import load_file
from torch import nn
from torch.func import grad, jacrev

from ida_lightning import InputError, Mixing, violated_rows
from ida_lightning.data import FromDatasetsDataModule
from ida_lightning.data_facts import data_fingerprint
from ida_lightning.methods import (
    CutMixPickCallback,
    DataSelectionCallback,
    IsotonicSoftLabelCallback,
    LabelRevisionCallback,
    RevisionLossCallback,
    TeacherLabelCallback,
)
from ida_lightning.methods import data_selection as module_under_test
from ida_lightning.methods.data_selection import Influence
from ida_lightning.modules import ClassificationModule, DistillationModule
from ida_lightning.revision_selection.heads import classifier_head, head_input
from ida_lightning.revision_selection.selection import trusted_rows
from tests.helpers.data import BlobsDataModule
from tests.helpers.networks import TinyNet
from tests.helpers.pools import Taught
from tests.helpers.steps import Step, Weights
from tests.helpers.trainers import trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:teacher. .* is close to chance"),  # a random teacher is enough here
    pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`, callbacks used to create"),
]
ROWS = 64
OPTIONS = {"damping": 0.3, "hessian_rows": 40}  # of Influence


def networks(seed=3):
    torch.manual_seed(seed)
    return TinyNet(), TinyNet()


def fit(tmp_path, *callbacks, data=None, model=None, epochs=1, resume=None, **options):
    """A small run; its student and what was logged."""
    if model is None:
        model = DistillationModule(*networks(), 4, 1, 8)
    torch.manual_seed(4)
    run = trainer(tmp_path, max_epochs=epochs, callbacks=list(callbacks), **options)
    run.fit(model, data or BlobsDataModule(batch_size=16, mixing=Mixing("cutmix")), ckpt_path=resume)
    return model, run


def scores_of(callback, tmp_path, data=None, model=None):
    callback.folder = str(tmp_path / "scores")
    fit(tmp_path, callback, data=data, model=model)
    (file,) = Path(callback.folder).glob("*.safetensors")
    return load_file(file)["scores"]


def everything(data, split):
    batch = data.splits[split].__getitems__(range(len(data.splits[split])))
    return data.normalise(batch.inputs), batch.label_mix.labels[:, 0]


def slow_influence(model, data, network, damping, hessian_rows):
    """The definition, with the Hessian written out and inverted."""

    def seen(split):
        images, labels = everything(data, split)
        features = nn.Sequential(*list(network.eval())[:-1])(images).double()
        return torch.cat((features, torch.ones(len(features), 1).double()), 1).detach(), labels

    head, temperature = network[-1], model.temperature
    weight = torch.cat((head.weight, head.bias[:, None]), 1).double().detach()
    teacher_logits = model.teacher(everything(data, "train")[0]).double()
    features, labels = seen("train")

    def cross_entropy(weight, features, labels):
        return nn.functional.cross_entropy(features @ weight.T, labels)

    used = torch.arange(hessian_rows) * ROWS // hessian_rows
    hessian = jacrev(grad(cross_entropy))(weight, features[used], labels[used]).reshape(2 * (weight.numel(),))
    damped = hessian + damping * hessian.diagonal().mean() * torch.eye(len(hessian))
    direction = torch.linalg.inv(damped) @ grad(cross_entropy)(weight, *seen("val")).flatten()

    def difference(weight, row):
        logits = features[row] @ weight.T
        target = (teacher_logits[row] / temperature).softmax(0)
        soft = nn.functional.kl_div((logits / temperature).log_softmax(0), target, reduction="sum") * temperature**2
        return soft + logits.log_softmax(0)[labels[row]]

    return torch.stack([direction @ grad(difference)(weight, row).flatten() for row in range(ROWS)])


@pytest.mark.parametrize("network", ["teacher", "student"])
@pytest.mark.parametrize("batch_size", [16, 24])
def test_influence_is_that_of_the_inverted_hessian(network, batch_size, tmp_path):
    data = BlobsDataModule(batch_size=batch_size, mixing=Mixing("cutmix"))
    model = DistillationModule(*networks(), 4, 1, 8)
    data.setup("fit")
    model.setup("fit")
    start = DistillationModule(*networks(), 4, 1, 8)
    found = scores_of(DataSelectionCallback(influence=Influence(network, **OPTIONS)), tmp_path, data, model)
    looked_at = model.teacher.network if network == "teacher" else start.student
    expected = slow_influence(model, data, looked_at, 0.3, 40)
    assert expected.std() > 0
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6 * float(expected.abs().max()))


@pytest.mark.parametrize("score", ["teacher_loss", "violation"])
def test_teacher_scores_are_those_of_clean_images(score, tmp_path, blobs):
    model = DistillationModule(*networks(), 4, 1, 8)
    found = scores_of(DataSelectionCallback(score), tmp_path, blobs, model)
    images, labels = everything(blobs, "train")
    probs = model.teacher(images).softmax(1)
    own = probs[torch.arange(ROWS), labels]
    if score == "teacher_loss":
        torch.testing.assert_close(found, own.log(), rtol=1e-5, atol=1e-6)
    else:
        wrong = probs.argmax(1) != labels
        assert 0 < wrong.sum() < ROWS
        assert torch.equal(found < 0, wrong)
        size = probs.scatter(1, labels[:, None], 0).amax(1) - own
        torch.testing.assert_close(found, -size, rtol=1e-5, atol=1e-6)


def test_influence_finds_labels_that_are_wrong(tmp_path):
    """A teacher trained on some wrong labels knows better than those: there its supervision is worth following."""
    flipped = torch.arange(ROWS) % 8 == 1

    class Noisy(BlobsDataModule):
        def load(self):
            splits = super().load()
            splits["train"].labels[flipped] = (splits["train"].labels[flipped] + 1) % 4
            return splits

    torch.manual_seed(0)
    teacher = ClassificationModule(nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), 4, 1, 8)
    data = Noisy(batch_size=16, mixing=Mixing("none"))
    trainer(tmp_path, max_epochs=4).fit(teacher, data)
    model = DistillationModule(teacher.network, TinyNet(), 4, 1, 8)
    scores = scores_of(DataSelectionCallback(), tmp_path, data, model)
    assert (scores[flipped] > 0).float().mean() > 0.8
    assert flipped[trusted_rows(scores, 1 / 8)].float().mean() > 0.8


class Given:
    """A selection whose choice is made, joined without a trainer."""

    def __init__(self, mask, transfer):
        self.callback = DataSelectionCallback(transfer=transfer)
        self.mask = mask

    def setup(self, trainer, module, stage):
        self.callback.register(trainer, module)
        self.callback._trusted = self.mask


@pytest.mark.parametrize("transfer", [0.0, 0.25, 1.0])
def test_unchosen_rows_are_left_to_the_ground_truth(transfer):
    mask = torch.arange(12) % 3 == 0
    weights = Weights(12)
    step = Step(weights, Given(mask, transfer))
    for row in range(12):
        soft, hard = float(weights.soft[row]), float(weights.hard[row])
        expected = (soft, hard) if mask[row] else (0.0, hard + transfer * soft)
        found = step.supervision.soft_weight[row], step.supervision.hard_weight[row]
        assert [float(value) for value in found] == pytest.approx(expected)
    assert torch.equal(step.supervision.soft_labels, step.raw)


@pytest.mark.parametrize("order", [1, -1])
def test_selection_revision_correction_combine_in_any_order(order):
    mask = torch.arange(48) % 2 == 0
    systems = [Given(mask, 0.0), LabelRevisionCallback(), RevisionLossCallback("mse"), IsotonicSoftLabelCallback()]
    step = Step(*systems[::order], rows=48)
    assert not violated_rows(step.supervision.soft_labels, step.mix).any()
    assert torch.equal(step.supervision.soft_weight > 0, mask)
    wrong = violated_rows(step.raw, step.mix)
    terms = step.module._loss_terms.values()
    rows = {term.name: term.call(step.logits, step.supervision) > 0 for term in terms}
    assert torch.equal(rows["label_loss"], ~(wrong & mask)), "the ground truth teaches what the teacher does not"
    assert torch.equal(rows["logit_loss"], mask & ~wrong)
    assert torch.equal(rows["probability_loss"], mask & wrong)


@pytest.mark.parametrize(
    ("score", "fraction", "chosen"), [("random", 0.3, 19), ("violation", 1.0, 64), ("random", 0, 0)]
)
def test_the_share_is_exact_and_logged(score, fraction, chosen, tmp_path):
    class Watch(Callback):
        def setup(self, trainer, pl_module, stage):
            self.seen = {}
            pl_module.register_supervision_hook(self.look)

        def look(self, supervision):
            self.seen |= dict(zip(supervision.index.tolist(), supervision.soft_weight.tolist(), strict=True))
            return supervision

    watch = Watch()
    _, run = fit(tmp_path, DataSelectionCallback(score, fraction), watch)
    assert len(watch.seen) == ROWS
    assert sum(weight > 0 for weight in watch.seen.values()) == chosen
    assert run.callback_metrics["train/trusted_rate"] == pytest.approx(chosen / ROWS)


@pytest.mark.parametrize("criterion", ["teacher_entropy", "student_entropy"])
def test_selection_revision_picking_combine_in_any_order(criterion):
    mask = torch.arange(ROWS) % 2 == 0
    systems = [Given(mask, 1.0), LabelRevisionCallback(), CutMixPickCallback(criterion)]
    first, *others = [Taught(*order, pool=2).supervision for order in permutations(systems)]
    assert len(first.inputs) == 24
    assert torch.equal(first.soft_weight > 0, mask[first.index])
    assert not violated_rows(first.soft_labels, first.label_mix).any()
    for other in others:
        for name in ("inputs", "index", "soft_labels"):
            assert torch.equal(other._asdict()[name], first._asdict()[name]), name
        torch.testing.assert_close(other.soft_weight, first.soft_weight)
        torch.testing.assert_close(other.hard_weight, first.hard_weight)


def test_unselected_mixed_rows_get_the_hard_label_or_drop_out():
    mask = torch.arange(ROWS) % 2 == 0
    selection, labels = Given(mask, 1.0), TeacherLabelCallback()
    for callbacks, back in (((labels, selection), True), ((selection, labels), False)):
        taught = Taught(*callbacks).supervision
        unchosen = taught.mixed & ~mask[taught.index]
        assert unchosen.any()
        assert not taught.soft_weight[unchosen].any()
        assert torch.equal(taught.hard_weight[unchosen] > 0, torch.full((int(unchosen.sum()),), back))


def weights_of(model):
    return model.student.state_dict()


@pytest.mark.parametrize("network", ["teacher", "student"])
def test_looking_changes_nothing_in_training(network, tmp_path):
    plain, _ = fit(tmp_path, epochs=2)
    epochs = (0, 1) if network == "student" else (1,)
    looking = DataSelectionCallback(fraction=1.0, influence=Influence(network), epochs=epochs)
    watched, run = fit(tmp_path, looking, epochs=2)
    assert run.callback_metrics["train/trusted_rate"] == 1
    for name, tensor in weights_of(plain).items():
        assert torch.equal(tensor, weights_of(watched)[name]), name
    assert len(list(Path("outputs/selection").iterdir())) == (2 if network == "student" else 1)


def test_scores_are_computed_once_for_the_same_data_and_teacher(tmp_path, monkeypatch):
    first = DataSelectionCallback(influence=Influence(**OPTIONS))
    fit(tmp_path, first)
    chosen = first._trusted
    (file,) = Path("outputs/selection").iterdir()
    calls = []
    compute = module_under_test.influence_scores
    monkeypatch.setattr(module_under_test, "influence_scores", lambda *args: calls.append(1) or compute(*args))
    for changed in ({}, {"fraction": 0.2}, {"transfer": 0.0}):
        again = DataSelectionCallback(influence=Influence(**OPTIONS), **changed)
        fit(tmp_path, again)
        assert not calls
    assert torch.equal(again._trusted, chosen)
    fit(tmp_path, DataSelectionCallback(influence=Influence(**{**OPTIONS, "damping": 0.2})))
    fit(
        tmp_path, DataSelectionCallback(influence=Influence(**OPTIONS)), model=DistillationModule(*networks(9), 4, 1, 8)
    )

    class Other(BlobsDataModule):
        def load(self):
            splits = super().load()
            splits["train"].images[5, 0, 3, 3] += 1
            return splits

    fit(tmp_path, DataSelectionCallback(influence=Influence(**OPTIONS)), data=Other(batch_size=16))
    assert len(calls) == 3
    assert len(list(Path("outputs/selection").iterdir())) == 4
    file.write_bytes(file.read_bytes()[:-20])
    repaired = DataSelectionCallback(influence=Influence(**OPTIONS))
    fit(tmp_path, repaired)
    assert len(calls) == 4, "a damaged file is made again"
    assert torch.equal(repaired._trusted, chosen)


@pytest.mark.parametrize("epochs", [(0,), (0, 2)])
def test_a_resumed_run_goes_on_with_its_choice(epochs, tmp_path):
    """The scores are of the student at the named epochs, which the resumed run cannot see again."""

    def selection(folder):
        return DataSelectionCallback(
            influence=Influence(network="student"), epochs=epochs, folder=str(tmp_path / folder)
        )

    keep = ModelCheckpoint(tmp_path / "kept", "half", every_n_train_steps=6)  # in the middle of the second epoch
    fit(tmp_path, selection("b"), keep, epochs=2, max_steps=6, enable_checkpointing=True)
    going_on = selection("c")
    model = DistillationModule(*networks(), 4, 1, 8)
    fit(tmp_path, going_on, model=model, epochs=3, resume=keep.best_model_path)
    made = list((tmp_path / "c").iterdir()) if (tmp_path / "c").exists() else []
    assert len(made) == len(epochs) - 1
    assert going_on._chosen_for == epochs[-1]
    stored = torch.load(keep.best_model_path, weights_only=True)["DataSelectionCallback_chosen"]
    assert stored["epoch"] == 0
    if epochs == (0,):
        assert torch.equal(going_on._trusted, stored["trusted"])


def test_another_choice_than_the_checkpoints_is_made_anew(tmp_path):
    keep = ModelCheckpoint(tmp_path / "kept", "one")
    fit(tmp_path, DataSelectionCallback("random", 0.5), keep, enable_checkpointing=True)
    other = DataSelectionCallback("random", 0.25)
    fit(tmp_path, other, epochs=2, resume=keep.best_model_path)
    assert int(other._trusted.sum()) == 16
    late = DataSelectionCallback("random", 0.25, epochs=(5,))
    _, run = fit(tmp_path, late)
    assert late._trusted is None
    assert "train/trusted_rate" not in run.callback_metrics


def test_two_processes_choose_the_same(tmp_path):
    class Tell(Callback):
        def __init__(self, selection, name):
            self.selection, self.name = selection, name

        def on_train_end(self, trainer, pl_module):
            told = {"trusted": self.selection._trusted.tolist(), "rate": float(trainer.callback_metrics[RATE])}
            (tmp_path / f"{self.name}{trainer.global_rank}.json").write_text(json.dumps(told))

    def run(name, **options):
        selection = DataSelectionCallback(folder=str(tmp_path / name), influence=Influence(**OPTIONS))
        data = BlobsDataModule(batch_size=8, mixing=Mixing("cutmix"))
        fit(tmp_path, selection, Tell(selection, name), data=data, **options)
        return [json.loads(file.read_text()) for file in sorted(tmp_path.glob(f"{name}?.json"))]

    (alone,) = run("one")
    first, second = run("two", devices=2, strategy="ddp_fork")
    assert first == second == alone
    assert sum(alone["trusted"]) == 32
    assert alone["rate"] == 0.5


RATE = "train/trusted_rate"


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # Dynamo looks at it
def test_compiled_networks_are_looked_into(tmp_path):
    for network in ("teacher", "student"):
        found = []
        for compile_args in (None, {"backend": "aot_eager"}):
            model = DistillationModule(*networks(), 4, 1, 8, compile_args=compile_args)
            callback = DataSelectionCallback(influence=Influence(network, **OPTIONS))
            folder = tmp_path / f"{network}{compile_args is None}"
            folder.mkdir()
            found.append(scores_of(callback, folder, model=model))
            assert (model.student._compiled_call_impl is None) == (compile_args is None)
        torch.testing.assert_close(*found)


@pytest.mark.filterwarnings("ignore:Encountered `nan` values in tensor")  # the teacher's NLL
def test_rows_without_an_answer_are_not_trusted(tmp_path):
    class Silent(TinyNet):
        def forward(self, images):
            logits = super().forward(images)
            return logits.masked_fill(images[:, :1, 0, 0] > 1, torch.nan)

    torch.manual_seed(0)
    for score in ("influence", "teacher_loss"):
        model = DistillationModule(Silent(), TinyNet(), 4, 1, 8, nonfinite="skip")
        folder = tmp_path / score
        folder.mkdir()
        with pytest.warns(UserWarning, match="rows left out"):
            scores = scores_of(
                DataSelectionCallback(score, influence=Influence(hessian_rows=40) if score == "influence" else None),
                folder,
                model=model,
            )
        silent = torch.isinf(scores)
        assert 8 <= silent.sum() < 40
        assert torch.isfinite(scores[~silent]).all()


def test_data_sets_that_are_not_in_memory_are_told_apart(tmp_path):
    def made(shift):
        pairs = [(torch.full((1, 8, 8), 20 * label + shift, dtype=torch.uint8), label) for label in 20 * [0, 1, 2, 3]]
        data = FromDatasetsDataModule(pairs, (0.1,), (0.2,), 8, channels=1, val_share=0.2, batch_size=16)
        data.setup("fit")
        return data

    prints = [data_fingerprint(made(shift).splits["train"]) for shift in (0, 0, 1)]
    assert prints[0] == prints[1] != prints[2]
    callback = DataSelectionCallback(influence=Influence(hessian_rows=10))
    fit(tmp_path, callback, data=made(0))
    assert int(callback._trusted.sum()) == 32


def test_networks_whose_head_cannot_be_looked_at_are_refused(tmp_path):
    class Scaled(TinyNet):
        def forward(self, images):
            return 3 * super().forward(images)

    convolution = nn.Sequential(nn.Conv2d(1, 4, 8), nn.Flatten())
    with pytest.raises(InputError, match="needs a network that ends in a linear layer for 4 classes, got Sequential"):
        fit(tmp_path, DataSelectionCallback(), model=DistillationModule(convolution, TinyNet(), 4, 1, 8))
    with pytest.raises(InputError, match="whose last linear layer makes its logits, got other logits"):
        fit(tmp_path, DataSelectionCallback(), model=DistillationModule(Scaled(), TinyNet(), 4, 1, 8))
    with pytest.raises(InputError, match=r"a head that is given .batch, features., got \(2, 3, 4\)"):
        head_input(nn.Linear(4, 4), torch.zeros(2, 3, 4), torch.zeros(2, 4))
    assert head_input(nn.Linear(3, 4, bias=False), torch.zeros(2, 3), torch.zeros(2, 4)).shape == (2, 3)
    assert classifier_head(convolution.append(nn.Linear(4, 4)), 4) is convolution[-1]


def selection_of(influence=None, **options):
    return DataSelectionCallback(influence=None if influence is None else Influence(**influence), **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"score": "luck"}, "score: expected one of influence, random, teacher_loss, violation, got 'luck'"),
        ({"influence": {"network": "both"}}, "network: expected one of teacher, student, got 'both'"),
        ({"fraction": 1.5}, "fraction: expected a number from 0 to 1, got 1.5"),
        ({"transfer": -1}, "transfer: expected a number from 0 to 1, got -1"),
        ({"influence": {"damping": 0}}, "damping: expected a number > 0, got 0"),
        ({"influence": {"hessian_rows": 0}}, "hessian_rows: expected at least 1, got 0"),
        ({"epochs": ()}, "epochs: expected a list of 1 or more whole numbers, got"),
        ({"epochs": (-1,)}, "epochs: expected at least 0, got -1"),
        (
            {"score": "random", "influence": {"damping": 1}},
            "influence: expected nothing with score random",
        ),
        ({"epochs": (0, 3)}, r"epochs: expected one, as these scores never change, got \[0, 3\]"),
    ],
)
def test_values_out_of_range_are_named(options, message):
    with pytest.raises(InputError, match=message):
        DataSelectionCallback(
            **{key: Influence(**value) if key == "influence" else value for key, value in options.items()}
        )


def test_modules_and_data_that_do_not_fit_are_refused(tmp_path, blobs):
    with pytest.raises(InputError, match="DataSelectionCallback: expected a module with register_supervision_hook"):
        fit(tmp_path, DataSelectionCallback(), model=ClassificationModule(TinyNet(), 4, 1, 8))
    run = trainer(tmp_path, callbacks=[DataSelectionCallback()])
    blobs.setup("fit")
    with pytest.raises(InputError, match="DataSelectionCallback: expected a MixingDataModule, got NoneType"):
        run.fit(DistillationModule(*networks(), 4, 1, 8), blobs.train_dataloader(), blobs.val_dataloader())
