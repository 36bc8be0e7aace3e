"""What a run leaves behind: the exported network and the predictions."""

import csv
import json

import pytest
import torch
from lightning.pytorch.callbacks import Callback
from safetensors import safe_open
from safetensors.torch import load_file

from ida_lightning import InputError
from ida_lightning.callbacks import ExportCallback, PredictionsCallback
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
        assert json.loads(file.metadata()["class_names"]) == blobs.class_names
    assert [p.name for p in path.parent.iterdir()] == ["network.safetensors"]


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
