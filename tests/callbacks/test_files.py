"""What a run leaves behind: the exported network and the predictions."""

import csv

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ida_lightning import InputError
from ida_lightning.callbacks import ExportCallback, PredictionsCallback
from ida_lightning.models import exportable, read_description
from ida_lightning.modules import ClassificationModule
from tests.helpers.networks import TinyNet
from tests.helpers.trainers import trainer


def test_export_holds_the_trained_network_and_its_classes(tmp_path, blobs):
    module = ClassificationModule(TinyNet(), 4, 1, 8)
    path = tmp_path / "deep" / "network.safetensors"
    trainer(tmp_path, callbacks=[ExportCallback(str(path))]).fit(module, blobs)
    exported = load_file(path)
    assert exported.keys() == module.model.state_dict().keys()
    assert all(torch.equal(exported[name], tensor) for name, tensor in module.model.state_dict().items())
    with safe_open(path, "pt") as file:
        assert list(file.metadata()) == ["ida_lightning"]  # one entry: safetensors writes several in any order
    assert [p.name for p in path.parent.iterdir()] == ["network.safetensors"]
    said = read_description(path)
    assert (said.class_names, said.num_classes, said.in_channels) == (blobs.class_names, 4, 1)
    assert (said.network, said.class_path) == (None, "tests.helpers.networks.TinyNet")
    assert said.interpolation == "bilinear"
    assert said.metrics.keys() == {"model/val_acc", "model/val_nll"}
    before = path.read_bytes()
    trainer(tmp_path, callbacks=[ExportCallback(str(path))]).fit(module, blobs)
    assert path.read_bytes() != before
    module.load_state_dict({f"model.{name}": tensor for name, tensor in exported.items()})
    save_file(exportable(module.model), path, said.metadata())
    assert path.read_bytes() == before, "equal networks make equal bytes"


@pytest.mark.parametrize("stop", [RuntimeError("crash"), KeyboardInterrupt()])
def test_an_unfinished_run_leaves_the_older_export(stop, tmp_path, blobs):
    class Stop(Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            if trainer.current_epoch == 1:
                raise stop

    path = tmp_path / "network.safetensors"
    path.write_bytes(b"older")
    run = trainer(tmp_path, max_epochs=3, callbacks=[ExportCallback(str(path)), Stop()])
    with pytest.raises((RuntimeError, SystemExit, KeyboardInterrupt)):
        run.fit(ClassificationModule(TinyNet(), 4, 1, 8), blobs)
    assert path.read_bytes() == b"older"
    assert list(tmp_path.glob(".unfinished*")) == []


def test_a_trial_run_exports_nothing(tmp_path, blobs):
    path = tmp_path / "network.safetensors"
    run = trainer(tmp_path, fast_dev_run=2, callbacks=[ExportCallback(str(path))])
    run.fit(ClassificationModule(TinyNet(), 4, 1, 8), blobs)
    assert not path.exists()


def test_export_path_must_say_what_it_is():
    with pytest.raises(InputError, match=r"path: expected a name that ends in .safetensors, got 'teacher.ckpt'"):
        ExportCallback("teacher.ckpt")


def test_predictions_are_one_row_an_image(tmp_path, blobs):
    module = ClassificationModule(TinyNet(), 4, 1, 8)
    path = tmp_path / "deep" / "predictions.csv"
    probs = torch.cat(trainer(tmp_path, callbacks=[PredictionsCallback(str(path))]).predict(module, blobs))
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert [int(row["index"]) for row in rows] == list(range(16))
    assert [int(row["class"]) for row in rows] == probs.argmax(1).tolist()
    assert [row["name"] for row in rows] == [blobs.class_names[c] for c in probs.argmax(1)]
    assert [float(row["probability"]) for row in rows] == pytest.approx(probs.amax(1).tolist(), abs=1e-6)
