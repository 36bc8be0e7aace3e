"""Which rows are picked, what that costs, and what it leaves alone."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ida_lightning import InputError, LabelMix, MixedBatch, Mixing, isotonic_soft_labels, moved_mass
from ida_lightning.methods import CutMixPickCallback, IsotonicSoftLabelCallback, TeacherLabelCallback
from ida_lightning.metrics import prediction_entropy
from ida_lightning.modules import ClassificationModule, DistillationModule
from ida_lightning.picking import pick
from tests.helpers.data import BlobsDataModule
from tests.helpers.devices import DEVICES, never_waiting
from tests.helpers.networks import TinyNet
from tests.helpers.pools import HARD, SOFT, T, Taught, mean, soft_and_hard
from tests.helpers.trainers import trainer

CRITERIA = ["teacher_entropy", "student_entropy", "kl", "dissimilarity", "violation"]
CHANCE = pytest.mark.filterwarnings("ignore:teacher. .* is close to chance")  # a random teacher is enough here


def softmax(logits):
    shifted = np.exp(logits - logits.max())
    return shifted / shifted.sum()


def slow_score(criterion, teacher, student, clean, hard):
    """Of one row, in float64; None of the package's numerics but the correction."""
    p, q = softmax(teacher), softmax(student)
    if criterion == "teacher_entropy":
        return -sum(x * np.log(x) for x in p)
    if criterion == "student_entropy":
        return -sum(x * np.log(x) for x in q)
    if criterion == "dissimilarity":
        return min(np.sqrt(((p - softmax(other)) ** 2).sum()) for other in clean)
    p, q = softmax(teacher / T), softmax(student / T)
    if criterion == "kl":
        return sum(x * np.log(x / y) for x, y in zip(p, q, strict=True))
    corrected = isotonic_soft_labels(torch.tensor(p)[None], LabelMix.from_dense(hard[None]), solver="weak_order")
    return float(moved_mass(torch.tensor(p)[None], corrected))


@pytest.mark.parametrize("criterion", CRITERIA)
@pytest.mark.parametrize("options", [{}, {"kind": "mixup", "images": 3}])
@pytest.mark.parametrize(("pool", "ratio", "kept"), [(2, 0.5, 12), (3, 0.25, 9), (1, 0.5, 6)])
def test_the_highest_scores_stay_and_so_do_all_clean_rows(criterion, options, pool, ratio, kept):
    whole = Taught(pool=pool, options=options)
    student = TinyNet()
    student[-1].weight.data *= 20  # an untrained one says of all images the same
    picked = Taught(CutMixPickCallback(criterion, ratio), pool=pool, options=options)
    for taught in (whole, picked):
        taught.module.student.load_state_dict(student.state_dict())
        taught.teach()
    student.eval()
    supervision = whole.supervision
    teacher, own = supervision.teacher_logits.double().numpy(), student(supervision.inputs).detach().double().numpy()
    hard = supervision.label_mix.dense(4).double()
    scores = [
        slow_score(criterion, teacher[row], own[row], teacher[:12], hard[row]) for row in range(12, 12 + 12 * pool)
    ]
    best = sorted(np.argsort(scores)[::-1][:kept] + 12)
    assert sorted(scores)[-kept] > sorted(scores)[-kept - 1] + 1e-5, "no tie decides"
    expected = supervision.select(torch.tensor([*range(12), *best]))
    assert torch.equal(picked.supervision.inputs, expected.inputs)
    assert torch.equal(picked.supervision.teacher_logits, expected.teacher_logits)
    assert torch.equal(picked.supervision.label_mix.dense(4), expected.label_mix.dense(4))
    assert torch.equal(picked.supervision.index, expected.index)


@pytest.mark.parametrize("criterion", ["teacher_entropy", "kl"])
@CHANCE
def test_no_network_is_asked_twice(criterion, tmp_path):
    teacher, student, asked = TinyNet(), TinyNet(), []
    module = DistillationModule(teacher, student, 4, 1, 8)
    callbacks = [TeacherLabelCallback(), CutMixPickCallback(criterion, ratio=0.5)]
    run = trainer(tmp_path, callbacks=callbacks, limit_val_batches=0)

    def ask(name):
        return lambda network, images, _: asked.append((name, network.training, len(images[0])))

    module.setup("fit")
    for name, network in (("teacher", module.teacher.network), ("student", module.student)):
        network.register_forward_hook(ask(name))
    asked.clear()
    run.fit(module, BlobsDataModule(batch_size=16, mixing=Mixing("cutmix"), pool=2))
    asked = [each for each in asked if each[2] > 2]  # without the blank images on which both are tried
    step = [("teacher", False, 48), ("student", True, 32)]
    if criterion == "kl":
        step.insert(1, ("student", False, 32))
    assert asked == 4 * step
    score = run.callback_metrics[f"train/{criterion}"]
    assert 0 < score < run.callback_metrics[f"train/{criterion}_picked"]


@pytest.mark.parametrize("criterion", CRITERIA)
def test_scoring_leaves_no_trace(criterion):
    taught = Taught(pool=2)
    student = taught.module.student.train()
    student[2].eval()  # somebody froze a part
    modes = [part.training for part in taught.module.modules()]
    before = {name: tensor.clone() for name, tensor in taught.module.state_dict().items()}
    CutMixPickCallback(criterion).setup(None, taught.module, "fit")
    state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002 (the state that must stay)
    taught.module.supervise(taught.batch)
    assert torch.equal(torch.get_rng_state(), state[0])
    assert np.array_equal(np.random.get_state()[1], state[1])  # noqa: NPY002
    assert [part.training for part in taught.module.modules()] == modes
    after = taught.module.state_dict()
    assert "student.1.num_batches_tracked" in before
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(parameter.grad is None for parameter in taught.module.parameters())


@pytest.mark.parametrize("pick_first", [False, True])
@pytest.mark.parametrize("ratio", [0.5, 0.25, 1.0])
def test_the_loss_is_a_clean_mean_and_a_mean_of_the_picked(pick_first, ratio):
    callbacks = [TeacherLabelCallback(), CutMixPickCallback(ratio=ratio)]
    taught = Taught(*(callbacks[::-1] if pick_first else callbacks), pool=2)
    rows = zip(
        taught.logits.tolist(),
        taught.supervision.teacher_logits.tolist(),
        taught.supervision.label_mix.dense(4).tolist(),
        strict=True,
    )
    by_row = [soft_and_hard(*row) for row in rows]
    clean, mixed = by_row[:12], by_row[12:]
    assert len(mixed) == 24 * ratio
    soft = SOFT * (mean([s for s, _ in clean]) + mean([s for s, _ in mixed]))
    assert float(taught.parts["kd_loss"].detach()) == pytest.approx(soft, rel=1e-4)
    hard = HARD * mean([h for _, h in clean])
    assert float(taught.parts["hard_loss"].detach()) == pytest.approx(hard, rel=1e-4)


def test_mixed_rows_count_together_as_much_as_before():
    weights = [Taught(*callbacks, pool=2).supervision for callbacks in ([], [CutMixPickCallback(ratio=0.25)])]
    for kind in (False, True):
        whole, picked = (each.soft_weight[each.mixed == kind].sum() / len(each.inputs) for each in weights)
        torch.testing.assert_close(whole, picked)


@pytest.mark.parametrize("space", ["softened", "logits"])
@pytest.mark.parametrize("criterion", ["teacher_entropy", "violation"])
def test_correcting_before_and_after_the_pick_is_the_same(criterion, space):
    callbacks = [IsotonicSoftLabelCallback(space=space), CutMixPickCallback(criterion)]
    first, last = (Taught(*order, pool=2).supervision for order in (callbacks, callbacks[::-1]))
    assert torch.equal(first.soft_labels, last.soft_labels)
    assert torch.equal(first.inputs, last.inputs)
    assert not torch.equal(first.soft_labels, (first.teacher_logits / T).softmax(1)), "something was corrected"


def test_divergence_is_from_what_the_hooks_before_left():
    tilted = torch.tensor([[0.97, 0.01, 0.01, 0.01]])

    class Tilt(IsotonicSoftLabelCallback):
        """Far from what the teacher says in every other row."""

        def transform(self, supervision):
            even = (torch.arange(len(supervision.inputs)) % 2 == 0)[:, None]
            return supervision._replace(soft_labels=torch.where(even, tilted, supervision.soft_labels))

    first = Taught(Tilt(), CutMixPickCallback("kl"), pool=2).supervision
    last = Taught(CutMixPickCallback("kl"), Tilt(), pool=2).supervision
    assert torch.equal(first.soft_labels[12:], tilted.expand(12, -1)), "the tilted half of the pool is the furthest"
    assert not torch.equal(first.inputs, last.inputs)


def test_picking_by_violation_leaves_more_to_correct():
    correct, choose = IsotonicSoftLabelCallback(), CutMixPickCallback("violation")
    moved = []
    for callbacks in ([correct], [choose, correct]):
        supervision = Taught(*callbacks, pool=2).supervision
        before = (supervision.teacher_logits / T).softmax(1)
        moved.append(float(moved_mass(before, supervision.soft_labels)[supervision.mixed].mean()))
    assert 0 < moved[0] < moved[1]


@given(st.lists(st.floats(allow_nan=True, width=32), min_size=1, max_size=40), st.floats(0.01, 1))
def test_pick_takes_a_fixed_number_of_the_highest(scores, ratio):
    places = pick(torch.tensor(scores), ratio).tolist()
    assert len(places) == max(1, round(ratio * len(scores)))
    assert places == sorted(set(places))
    rank = [-np.inf if np.isnan(score) else score for score in scores]
    assert sorted(rank[place] for place in places) == sorted(rank)[-len(places) :]


def test_a_certain_teacher_has_entropy_zero_and_not_nan():
    found = prediction_entropy(torch.tensor([[1e4, 0.0, -1e4], [0.0, 0.0, 0.0]]))
    assert found.tolist() == pytest.approx([0, np.log(3)])
    assert prediction_entropy(torch.zeros(1, 4, dtype=torch.bfloat16)).dtype == torch.float32


@pytest.mark.parametrize("criterion", CRITERIA)
def test_rows_without_an_answer_of_the_teacher_are_not_picked(criterion):
    taught = Taught(TeacherLabelCallback(), CutMixPickCallback(criterion), pool=2, nonfinite="skip")
    broken = torch.tensor([0, *range(12, 22)])
    taught.module.teacher.network.register_forward_hook(lambda _, __, logits: logits.index_fill(0, broken, torch.nan))
    with pytest.warns(UserWarning, match="11 of 36 rows left out"):
        taught.teach()
    weight = taught.supervision.soft_weight
    assert len(weight) == 24
    assert (weight == 0).nonzero().flatten().tolist() == [0], "a clean row stays, without weight"


def test_without_clean_rows_it_picks_from_the_mixed_ones():
    supervision = Taught(CutMixPickCallback(), pool=0, options={"distinct": True}).supervision
    assert len(supervision.inputs) == 6
    assert supervision.soft_weight.tolist() == pytest.approx([SOFT] * 6)
    assert len(Taught(CutMixPickCallback(), pool=0, options={"kind": "none"}).supervision.inputs) == 12
    with pytest.raises(InputError, match="criterion: expected clean rows to be dissimilar to .* got none"):
        Taught(CutMixPickCallback("dissimilarity"), pool=0, options={"distinct": True})


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("criterion", CRITERIA)
def test_nothing_waits_from_the_second_step_on(device, criterion):
    taught = Taught(TeacherLabelCallback(), CutMixPickCallback(criterion), IsotonicSoftLabelCallback(), pool=2)
    module = taught.module.to(device)
    images, mix, index, partner, *_ = taught.batch
    mix = LabelMix(*(field.to(device) for field in mix))
    batch = MixedBatch(images.to(device), mix, index.to(device), partner.to(device))
    module.supervise(batch)
    with never_waiting(device):
        supervision = module.supervise(batch)
        sum(module.loss_parts(module(supervision.inputs), supervision).values()).backward()
    assert len(supervision.inputs) == 24


@pytest.mark.parametrize(
    "options", [{"precision": "bf16-mixed"}, {"devices": 2, "strategy": "ddp_fork"}], ids=["bf16", "ddp"]
)
@CHANCE
def test_picking_in_any_precision_and_number_of_processes(options, tmp_path):
    student = TinyNet()
    before = {name: tensor.clone() for name, tensor in student.named_parameters()}
    scored = []

    def keep(layer, _, logits):
        if not layer.training and len(logits) > 2:  # without the blank images on which a student is tried
            scored.append(logits.dtype)

    student[-1].register_forward_hook(keep)
    callbacks = [TeacherLabelCallback(), CutMixPickCallback("student_entropy")]
    run = trainer(tmp_path, callbacks=callbacks, max_epochs=2, limit_val_batches=0, **options)
    run.fit(
        DistillationModule(TinyNet(), student, 4, 1, 8), BlobsDataModule(batch_size=8, mixing=Mixing("cutmix"), pool=2)
    )
    assert run.callback_metrics["train/student_entropy_picked"] > run.callback_metrics["train/student_entropy"]
    if "precision" in options:  # what happens in other processes stays there
        assert set(scored) == {torch.bfloat16}
        after = dict(student.named_parameters())
        assert not any(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"criterion": "entropy"}, "criterion: expected one of teacher_entropy, .*, violation, got 'entropy'"),
        ({"ratio": 0}, "ratio: expected a number above 0 and up to 1, got 0"),
        ({"ratio": 64}, "ratio: expected a number above 0 and up to 1, got 64"),
    ],
)
def test_values_out_of_range_are_named(options, message):
    with pytest.raises(InputError, match=message):
        CutMixPickCallback(**options)


def test_setup_registers_once_and_needs_a_module_with_hooks():
    callback, taught = CutMixPickCallback(), Taught()
    for _ in range(2):
        callback.setup(None, taught.module, "fit")
    assert len(taught.module._supervision_hooks) == 1
    callback.teardown(None, taught.module, "fit")
    callback.setup(None, taught.module, "test")
    assert not taught.module._supervision_hooks
    with pytest.raises(InputError, match="CutMixPickCallback: expected a module with register_supervision_hook"):
        callback.setup(None, ClassificationModule(TinyNet(), 4, 1, 8), "fit")
    taught.module.register_supervision_hook(lambda supervision: supervision._replace(mixed=None))
    callback.setup(None, taught.module, "fit")
    with pytest.raises(InputError, match="expected a supervision that says which rows were mixed, got none"):
        taught.teach()
