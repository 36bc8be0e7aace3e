"""The loss on clean rows and mixes that the teacher alone labels, against one written by hand."""

import pytest
import torch

from ida_lightning import InputError, Mixing
from ida_lightning.methods import TeacherLabelCallback
from ida_lightning.modules import ClassificationModule, DistillationModule
from tests.helpers.data import BlobsDataModule
from tests.helpers.networks import TinyNet
from tests.helpers.pools import HARD, SOFT, Taught, mean, soft_and_hard
from tests.helpers.trainers import trainer


@pytest.mark.parametrize("pool", [1, 2])
@pytest.mark.parametrize("options", [{}, {"kind": "mixup", "images": 3}])
@pytest.mark.parametrize("hard_label", [False, True])
def test_the_loss_is_a_clean_mean_and_a_mixed_mean(pool, options, hard_label):
    taught = Taught(TeacherLabelCallback(hard_label), pool=pool, options=options)
    batch = taught.batch
    rows = zip(
        taught.logits.tolist(),
        taught.module.teacher(batch.inputs).tolist(),
        batch.label_mix.dense(4).tolist(),
        strict=True,
    )
    by_row = [soft_and_hard(*row) for row in rows]
    clean, mixed = by_row[:12], by_row[12:]
    soft = SOFT * (mean([s for s, _ in clean]) + mean([s for s, _ in mixed]))
    hard = HARD * (mean([h for _, h in clean]) + hard_label * mean([h for _, h in mixed]))
    assert float(taught.parts["kd_loss"].detach()) == pytest.approx(soft, rel=1e-4)
    assert float(taught.parts["hard_loss"].detach()) == pytest.approx(hard, rel=1e-4)


def test_without_it_clean_and_mixed_rows_are_taught_alike():
    taught = Taught()
    assert taught.supervision.soft_weight.unique().tolist() == pytest.approx([SOFT])
    assert taught.supervision.hard_weight.unique().tolist() == pytest.approx([HARD])


def test_rows_left_out_stay_out():
    taught = Taught(TeacherLabelCallback(), nonfinite="skip")
    network = taught.module.teacher.network
    network.register_forward_hook(lambda _, __, logits: logits.index_fill(0, torch.tensor([0, 20]), torch.nan))
    with pytest.warns(UserWarning, match="2 of 24 rows left out"):
        taught.teach()
    out = (taught.supervision.soft_weight == 0).nonzero().flatten().tolist()
    assert out == [0, 20]
    assert taught.supervision.hard_weight[0] == 0


@pytest.mark.filterwarnings("ignore:teacher. .* is close to chance")
def test_a_fit_trains_on_clean_and_mixed_rows(tmp_path):
    seen = []
    module = DistillationModule(TinyNet(), TinyNet(), 4, 1, 8)
    callback = TeacherLabelCallback()
    run = trainer(tmp_path, callbacks=[callback])
    module.register_supervision_hook(lambda supervision: seen.append(len(supervision.inputs)) or supervision)
    run.fit(module, BlobsDataModule(batch_size=16, mixing=Mixing("cutmix"), pool=1))
    assert seen == [32] * 4
    assert len(module._supervision_hooks) == 1, "it has left"
    assert run.callback_metrics["train/loss"] > 0


def test_batches_without_clean_rows_are_refused(tmp_path, blobs):
    with pytest.raises(InputError, match="expected clean rows beside the mixed ones, data.pool: 1 or more, got 0"):
        trainer(tmp_path, callbacks=[TeacherLabelCallback()]).fit(
            DistillationModule(TinyNet(), TinyNet(), 4, 1, 8), blobs
        )
    with pytest.raises(InputError, match="TeacherLabelCallback: expected a module with register_supervision_hook"):
        TeacherLabelCallback().setup(None, ClassificationModule(TinyNet(), 4, 1, 8), "fit")
    taught = Taught()
    with pytest.raises(InputError, match="expected a supervision that says which rows were mixed, got none"):
        TeacherLabelCallback().transform(taught.supervision._replace(mixed=None))
