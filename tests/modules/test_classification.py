import pytest
import torch

from ida_lightning import InputError, Mixing, mixed_cross_entropy
from ida_lightning.models import read_description
from ida_lightning.modules import ClassificationModule
from tests.helpers.data import BlobsDataModule
from tests.helpers.networks import TinyNet
from tests.helpers.trainers import trainer


def test_learns_the_blobs_and_reports_whose_metrics_they_are(tmp_path):
    data = BlobsDataModule(batch_size=16, mixing=Mixing("none"))
    module = ClassificationModule(TinyNet(), 4, 1, 8, optimizer=lambda p: torch.optim.AdamW(p, lr=0.02))
    run = trainer(tmp_path, max_epochs=15)
    run.fit(module, data)
    assert {"train/loss", "model/val_acc", "model/val_nll"} <= run.callback_metrics.keys()
    (tested,) = run.test(module, data, verbose=False)
    assert tested["model/test_acc"] > 0.9
    assert tested["model/test_nll"] < 0.5


def test_checkpoint_rebuilds_a_named_network(tmp_path, blobs):
    module = ClassificationModule("test_resnet", 4, 1, 8, model_args={"stem": "small"})
    run = trainer(tmp_path)
    run.fit(module, blobs)
    run.save_checkpoint(tmp_path / "run.ckpt")
    loaded = ClassificationModule.load_from_checkpoint(tmp_path / "run.ckpt", weights_only=True)
    images = torch.randn(2, 1, 8, 8)
    torch.testing.assert_close(loaded.eval()(images), module.eval()(images))
    assert read_description(tmp_path / "run.ckpt").class_names == blobs.class_names


def test_labels_alone_can_be_softened(blobs):
    blobs.setup("fit")
    loaded = next(iter(blobs.train_dataloader()))
    batch = blobs.mix(loaded, blobs.batch_generator(0, 0))
    module = ClassificationModule(TinyNet().eval(), 4, 1, 8, hard_temperature=4.5)
    module.take_batch, module.guard_step, module.logs_loss = lambda taken: taken, lambda: None, lambda: False
    expected = mixed_cross_entropy(module(batch.inputs), batch.label_mix, 4.5).mean()
    torch.testing.assert_close(module.training_step(batch, 0), expected)
    with pytest.raises(InputError, match="hard_temperature: expected a number > 0, got -1"):
        ClassificationModule(TinyNet(), 4, hard_temperature=-1)
