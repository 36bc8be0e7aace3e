import pytest
import torch
from lightning.pytorch.callbacks import Callback

from ida_lightning import (
    InputError,
    LabelMix,
    MixedBatch,
    correct_soft_labels,
    isotonic_soft_labels,
    moved_mass,
    violated_rows,
)
from ida_lightning.isotonic import choice
from ida_lightning.methods import AddedTermCallback, IsotonicSoftLabelCallback
from ida_lightning.modules import ClassificationModule, DistillationModule
from tests.helpers.devices import DEVICES, never_waiting
from tests.helpers.networks import TinyNet
from tests.helpers.steps import Recorder, T, corrected_by, rows
from tests.helpers.trainers import trainer

SPACES = ["softened", "probabilities", "logits"]


def test_softened_space_corrects_the_soft_label_itself():
    logits, mix = rows()
    found, _ = corrected_by(IsotonicSoftLabelCallback(space="softened"), logits, mix)
    assert torch.equal(found, isotonic_soft_labels((logits / T).softmax(1), mix))


def test_probabilities_space_corrects_before_softening():
    logits, mix = rows()
    found, _ = corrected_by(IsotonicSoftLabelCallback(space="probabilities"), logits, mix)
    softened = isotonic_soft_labels(logits.softmax(1), mix) ** (1 / T)
    torch.testing.assert_close(found, softened / softened.sum(1, keepdim=True), rtol=1e-4, atol=1e-6)


def test_logits_space_corrects_the_logits():
    logits, mix = rows()
    found, _ = corrected_by(IsotonicSoftLabelCallback(space="logits"), logits, mix)
    torch.testing.assert_close(found, (isotonic_soft_labels(logits, mix) / T).softmax(1), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("space", SPACES)
def test_every_space_repairs_wrong_rows_and_keeps_right_ones(space):
    logits, mix = rows(batch=2000)
    before = (logits / T).softmax(1)
    found, logged = corrected_by(IsotonicSoftLabelCallback(space=space), logits, mix)
    violated = violated_rows(before, mix)
    assert 0.5 < violated.float().mean() < 1
    assert not violated_rows(found, mix).any()
    assert torch.equal(found[~violated], before[~violated])
    torch.testing.assert_close(found.sum(1), torch.ones(2000))
    assert logged["train/violation_rate"] == pytest.approx(float(violated.float().mean()))
    assert logged["train/violation_rate_corrected"] == 0
    assert logged["train/moved_mass"] == pytest.approx(float(moved_mass(before, found).mean()))


@pytest.mark.parametrize("space", SPACES)
def test_saturated_teachers_give_finite_ordered_soft_labels(space):
    logits = torch.tensor([[2000.0, -2000.0, 0.0, 1.0]])
    mix = LabelMix.pair(torch.tensor([1]), torch.tensor([2]), 0.7)
    found = correct_soft_labels((logits / T).softmax(1), mix, T, space)
    assert torch.isfinite(found).all()
    assert not violated_rows(found, mix).any()
    torch.testing.assert_close(found.sum(1), torch.ones(1))


def test_corrections_in_different_spaces_can_follow_each_other():
    logits, mix = rows()
    first = correct_soft_labels((logits / T).softmax(1), mix, T, "softened")
    for space in SPACES:
        torch.testing.assert_close(correct_soft_labels(first, mix, T, space), first, rtol=1e-4, atol=1e-6)


def test_unknown_space_and_temperature_are_named():
    logits, mix = rows()
    with pytest.raises(InputError, match="space: expected one of softened, probabilities, logits, got 'odds'"):
        correct_soft_labels(logits.softmax(1), mix, T, "odds")
    with pytest.raises(InputError, match="temperature: expected a number > 0, got 0"):
        correct_soft_labels(logits.softmax(1), mix, 0, "logits")


def test_strength_blends_and_zero_only_measures():
    logits, mix = rows()
    before = (logits / T).softmax(1)
    full, _ = corrected_by(IsotonicSoftLabelCallback(), logits, mix)
    half, logged = corrected_by(IsotonicSoftLabelCallback(strength=0.5), logits, mix)
    torch.testing.assert_close(half, (before + full) / 2)
    assert logged["train/violation_rate_corrected"] == pytest.approx(float(violated_rows(half, mix).float().mean()))
    none, logged = corrected_by(IsotonicSoftLabelCallback(strength=0.0), logits, mix)
    assert torch.equal(none, before)
    assert logged["train/violation_rate"] == logged["train/violation_rate_corrected"] > 0
    assert logged["train/moved_mass"] == 0


@pytest.mark.parametrize("step", [1, 10, 97])
def test_a_share_of_the_violating_rows_is_corrected(step):
    logits, mix = rows(batch=2000)
    before, index = (logits / T).softmax(1), torch.randperm(2000) * step
    violated = violated_rows(before, mix)
    full = isotonic_soft_labels(before, mix)
    chosen = {}
    for share in (0.0, 0.25, 0.5, 1.0):
        found, logged = corrected_by(IsotonicSoftLabelCallback(share=share), logits, mix, index)
        chosen[share] = (found != before).any(1)
        assert torch.equal(found, torch.where(chosen[share][:, None], full, before))
        assert chosen[share].sum() == pytest.approx(share * float(violated.sum()), abs=25)
        assert logged["train/violation_rate_corrected"] == float((violated & ~chosen[share]).double().mean())
    assert torch.equal(chosen[1.0], violated)
    assert not (chosen[0.25] & ~chosen[0.5]).any(), "a larger share holds a smaller one"
    way = torch.randperm(2000)
    again, _ = corrected_by(IsotonicSoftLabelCallback(share=0.5), logits[way], mix.select(way), index[way])
    assert torch.equal((again != before[way]).any(1), chosen[0.5][way]), "the index alone decides"


def test_rows_without_a_position_are_drawn_by_their_place():
    logits, mix = rows(batch=2000)
    unknown, _ = corrected_by(IsotonicSoftLabelCallback(share=0.5), logits, mix, torch.full((2000,), -1))
    known, _ = corrected_by(IsotonicSoftLabelCallback(share=0.5), logits, mix, torch.arange(2000))
    assert torch.equal(unknown, known)


def test_rows_outside_the_share_keep_the_label_in_an_added_term():
    logits, mix = rows()
    full, _ = corrected_by(AddedTermCallback(IsotonicSoftLabelCallback()), logits, mix)
    found, _ = corrected_by(AddedTermCallback(IsotonicSoftLabelCallback(share=0.5)), logits, mix)
    before = (logits / T).softmax(1)
    kept = (found == before).all(1)
    assert (kept & (full != before).any(1)).any()
    assert torch.equal(found[~kept], full[~kept])


def test_setup_joins_once_and_teardown_leaves():
    callback, module = IsotonicSoftLabelCallback(), Recorder()
    callback.setup(None, module, "fit")
    callback.setup(None, module, "fit")  # as after a crash, which skips teardown
    assert len(module.hooks) == 1
    callback.teardown(None, module, "fit")
    assert not module.hooks
    callback.setup(None, module, "test")
    assert not module.hooks


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("space", SPACES)
def test_a_step_never_waits_for_the_accelerator(device, space, blobs):
    module = DistillationModule(TinyNet(), TinyNet(), 4, 1, 8)
    module.setup("fit")
    module.to(device)
    blobs.setup("fit")
    loaded = blobs.splits["train"].__getitems__(range(32))
    mix = LabelMix(*(field.to(device) for field in loaded.label_mix))
    loaded = MixedBatch(loaded.inputs.to(device), mix, loaded.index.to(device), loaded.partner.to(device))
    callback = IsotonicSoftLabelCallback(space=space, share=0.99)  # drawn, and all of these rows are in it
    callback.setup(None, module, "fit")
    module.log_dict = lambda values, **options: None  # logging needs a trainer
    with never_waiting(device):
        supervision = module.supervise(blobs.mix(loaded, blobs.batch_generator(0, 0)))
        loss = sum(module.loss_parts(module(supervision.inputs), supervision).values())
        loss.backward()
    assert not violated_rows(supervision.soft_labels, supervision.label_mix).any()
    assert torch.isfinite(loss)


@pytest.mark.filterwarnings("ignore:teacher. .* is close to chance")  # a random teacher is enough here
def test_fit_trains_on_corrected_soft_labels_and_logs(tmp_path, blobs):
    seen = []

    class Watch(Callback):
        def setup(self, trainer, pl_module, stage):
            pl_module.register_supervision_hook(self.look)

        def look(self, supervision):
            seen.append(bool(violated_rows(supervision.soft_labels, supervision.label_mix).any()))
            return supervision

    module = DistillationModule(TinyNet(), TinyNet(), 4, 1, 8)
    run = trainer(tmp_path, callbacks=[Watch(), IsotonicSoftLabelCallback(), Watch()])
    run.fit(module, blobs)
    assert seen == [True, False] * 4
    assert run.callback_metrics["train/violation_rate"] > 0.5
    assert run.callback_metrics["train/violation_rate_corrected"] == 0
    assert 0 < run.callback_metrics["train/moved_mass"] < 1
    assert len(module._supervision_hooks) == 2


def test_a_module_without_the_hook_is_refused(tmp_path, blobs):
    module = ClassificationModule(TinyNet(), 4, 1, 8)
    with pytest.raises(InputError, match="register_supervision_hook.*got ClassificationModule"):
        trainer(tmp_path, callbacks=[IsotonicSoftLabelCallback()]).fit(module, blobs)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"solver": "magic"}, "solver: expected one of auto, threshold, triton, .*, got 'magic'"),
        ({"space": "softend"}, "space: expected one of softened, probabilities, logits, got 'softend'"),
        ({"strength": 1.5}, "strength: expected a number from 0 to 1, got 1.5"),
        ({"share": -0.5}, "share: expected a number from 0 to 1, got -0.5"),
        ({"name": "a.b"}, "name: expected letters, digits, _ and -, got 'a.b'"),
    ],
)
def test_values_out_of_range_are_named(options, message):
    with pytest.raises(InputError, match=message):
        IsotonicSoftLabelCallback(**options)


def test_the_solver_found_by_trial_goes_on_with_the_run(monkeypatch):
    logits, mix = rows()
    soft_labels = (logits / T).softmax(1)
    assert IsotonicSoftLabelCallback().state_dict() == {}
    first = IsotonicSoftLabelCallback()
    assert first._solver(soft_labels, mix, "plain") == "auto"
    assert first.state_dict() == {}, "nothing to choose on a CPU"
    monkeypatch.setattr(choice, "_TRIED_ON", {"cpu"})
    trial = choice.KernelTrial("cpu", "float32", "plain", 10, 2, None)
    monkeypatch.setattr(choice, "_works", lambda *_: trial.reason is None)
    assert first._solver(soft_labels, mix, "plain") == "triton"
    state = first.state_dict()
    assert state == {"solvers": {"plain": "triton"}}
    # What worked there fails here, and once chosen it stays.
    trial = trial._replace(reason="no compiler")
    assert first._solver(soft_labels, mix, "plain") == "triton"
    resumed = IsotonicSoftLabelCallback()
    resumed.load_state_dict(state)
    with pytest.warns(UserWarning, match="the run that goes on used solver triton, which fails here: from here on thr"):
        assert resumed._solver(soft_labels, mix, "plain") == "threshold"
    # What failed there is not tried here.
    trial = trial._replace(reason=None)
    resumed.load_state_dict({"solvers": {"plain": "threshold"}})
    assert resumed._solver(soft_labels, mix, "plain") == "threshold"
    assert resumed._solver(soft_labels, mix, "margin") == "triton"
