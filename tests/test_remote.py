"""Files at an address, by fsspec's memory, and what must be on this machine."""

from pathlib import Path

import fsspec
import pytest
import torch
from lightning.pytorch.loggers import WandbLogger
from safetensors.torch import load_file, save_file

from ida_lightning import InputError, Mixing, remote
from ida_lightning.__main__ import main
from ida_lightning.callbacks import CheckpointCallback, ExportCallback, PredictionsCallback
from ida_lightning.data import (
    CIFAR10DataModule,
    CIFAR100DataModule,
    FashionMNISTDataModule,
    ImageFolderDataModule,
    ImagesDataModule,
    TinyImageNetDataModule,
)
from ida_lightning.files import digest_of_file, replacing, writable_file, writable_folder
from ida_lightning.locks import OutputLock
from ida_lightning.methods import DataSelectionCallback
from ida_lightning.models import load_network, load_weights, read_description
from ida_lightning.modules import DistillationModule, Teacher, TeacherOutputs
from ida_lightning.run_checks import kept_outputs
from ida_lightning.studies.audit import audit
from tests.helpers.data import BlobsDataModule
from tests.helpers.networks import TinyNet
from tests.helpers.trainers import trainer


@pytest.fixture(autouse=True)
def memory():
    files = fsspec.filesystem("memory")
    files.store.clear()
    yield files
    files.store.clear()


@pytest.fixture(autouse=True)
def no_folder_of_a_scheme(tmp_path):
    """Whatever a test here is about, ``s3://bucket`` must not become a folder ``s3:``."""
    yield
    assert not [path for path in tmp_path.rglob("*") if ":" in path.name]


@pytest.mark.filterwarnings("ignore:teacher. .* is close to chance")
def test_a_run_reads_and_writes_at_addresses(tmp_path, memory):
    with fsspec.open("memory://in/teacher.pt", "wb") as file:
        torch.save(TinyNet().state_dict(), file)
    teacher = Teacher("tests.helpers.networks.TinyNet", "memory://in/teacher.pt")

    def fit(epochs, **options):
        module = DistillationModule(teacher, "test_resnet", 4, 1, 8)
        callbacks = [CheckpointCallback("memory://out/kept"), ExportCallback("memory://out/student.safetensors")]
        run = trainer(
            tmp_path, max_epochs=epochs, callbacks=callbacks, enable_checkpointing=True, limit_train_batches=1
        )
        run.fit(module, BlobsDataModule(batch_size=8, mixing=Mixing("cutmix")), **options, weights_only=True)
        return module

    first = fit(1)
    assert {Path(name).name for name in memory.ls("/out/kept", detail=False)} == {"best.ckpt", "last.ckpt"}
    exported = load_network("memory://out/student.safetensors").network
    for name, tensor in first.student.state_dict().items():
        assert torch.equal(tensor, exported.state_dict()[name])
    assert read_description("memory://out/kept/last.ckpt").network == "test_resnet"
    fit(1)  # replaces the files of the first
    assert {Path(name).name for name in memory.ls("/out/kept", detail=False)} == {"best.ckpt", "last.ckpt"}
    resumed = fit(2, ckpt_path="memory://out/kept/last.ckpt")
    assert resumed.trainer.global_step == 2
    predicting = trainer(tmp_path, callbacks=[PredictionsCallback("memory://out/predictions.csv")])
    predicting.predict(resumed, BlobsDataModule(batch_size=8), return_predictions=False)
    assert memory.cat("/out/predictions.csv").count(b"\n") == 1 + 16


def test_the_command_line_reads_and_writes_at_addresses(tmp_path, memory, capfd):
    quiet = ["--trainer.accelerator=cpu", "--trainer.logger=false", "--trainer.enable_progress_bar=false"]
    model = ["--model=ClassificationModule", "--model.model=test_resnet", "--data=DigitsDataModule"]
    once = ["--trainer.limit_train_batches=1", "--trainer.limit_val_batches=1", "--trainer.max_epochs=1"]
    kept = ["--trainer.callbacks+=CheckpointCallback", "--trainer.callbacks.dirpath=memory://run"]
    kept.append("--trainer.callbacks.monitor=model/val_acc")
    main(["fit", *model, *once, *quiet, *kept, "--trainer.default_root_dir=memory://run"])
    main(["test", *model, *quiet, *kept, "--trainer.limit_test_batches=1", "--ckpt_path=memory://run/last.ckpt"])
    assert "model/test_acc" in capfd.readouterr().out
    main(["export", "--checkpoint=memory://run/last.ckpt", "--to=safetensors", "--out=memory://exported", "--images=2"])
    assert {Path(name).suffix for name in memory.ls("/exported", detail=False)} == {".safetensors", ".json"}


def test_a_file_address_is_a_path(tmp_path):
    weights = TinyNet().state_dict()
    save_file(weights, tmp_path / "weights.safetensors")
    address = (tmp_path / "weights.safetensors").as_uri()
    assert address.startswith("file:///")
    assert load_weights(address).tensors.keys() == weights.keys()
    with replacing((tmp_path / "new" / "copy.safetensors").as_uri()) as unfinished:
        save_file(weights, unfinished)
    assert load_file(tmp_path / "new" / "copy.safetensors").keys() == weights.keys()
    assert CheckpointCallback((tmp_path / "kept").as_uri()).dirpath == str(tmp_path / "kept")
    assert TeacherOutputs((tmp_path / "answers").as_uri()).folder == str(tmp_path / "answers")


def test_a_copy_is_made_once_and_again_after_a_change(memory):
    with fsspec.open("memory://x/a.txt", "w") as file:
        file.write("one")
    first = remote.fetched("path", "memory://x/a.txt")
    assert remote.fetched("path", "memory://x/a.txt") == first
    before = digest_of_file("memory://x/a.txt")
    with fsspec.open("memory://x/a.txt", "w") as file:
        file.write("two")
    assert remote.fetched("path", "memory://x/a.txt").read_text() == "two"
    assert digest_of_file("memory://x/a.txt") != before
    assert digest_of_file("memory://x/b.txt") is None


def test_an_error_uploads_nothing(memory):
    with replacing("memory://x/a.txt") as unfinished:
        unfinished.write_text("older")
    with pytest.raises(OSError, match="disk"), replacing("memory://x/a.txt"):
        raise OSError("disk")
    assert memory.cat("/x/a.txt") == b"older"


def compare(output):
    Path("compare.yaml").write_text(f"output: {output}\nmethods: {{a: fit.yaml}}\nseeds: [0]\n")
    Path("fit.yaml").write_text("model: ClassificationModule\n")
    main(["compare", "--config", "compare.yaml"])


ADDRESS = "s3://bucket/folder"
LOCAL_ONLY = {
    "ImageFolderDataModule root": lambda: ImageFolderDataModule(ADDRESS),
    "ImageFolderDataModule train_folder": lambda: ImageFolderDataModule("x", train_folder=ADDRESS),
    "ImageFolderDataModule val_folder": lambda: ImageFolderDataModule("x", val_folder=ADDRESS),
    "ImageFolderDataModule test_folder": lambda: ImageFolderDataModule("x", test_folder=ADDRESS),
    "ImagesDataModule folder": lambda: ImagesDataModule(ADDRESS, ["a", "b"], 8, (0.5,) * 3, (0.5,) * 3),
    "CIFAR10DataModule root": lambda: CIFAR10DataModule(ADDRESS),
    "CIFAR100DataModule root": lambda: CIFAR100DataModule(ADDRESS),
    "FashionMNISTDataModule root": lambda: FashionMNISTDataModule(ADDRESS),
    "TinyImageNetDataModule root": lambda: TinyImageNetDataModule(ADDRESS),
    "TeacherOutputs folder": lambda: TeacherOutputs(ADDRESS),
    "DataSelectionCallback folder": lambda: DataSelectionCallback(folder=ADDRESS),
    "writable_file": lambda: writable_file("path", ADDRESS),
    "writable_folder": lambda: writable_folder("path", ADDRESS),
    "OutputLock": lambda: OutputLock("path", ADDRESS).acquire(),
    "audit out": lambda: audit(
        trainer("."), DistillationModule(TinyNet(), TinyNet(), 4), BlobsDataModule(), out=ADDRESS
    ),
    "Path": lambda: CheckpointCallback(Path(ADDRESS)),
    "nobody's protocol": lambda: ExportCallback("nobody://x/student.safetensors"),
    "W&B": lambda: kept_outputs(trainer(".", logger=WandbLogger(save_dir=ADDRESS, offline=True)), True).__enter__(),
    "default_root_dir": lambda: kept_outputs(trainer("file:///x"), True).__enter__(),
    "root without its package": lambda: kept_outputs(trainer(ADDRESS), True).__enter__(),
    "compare output": lambda: compare(ADDRESS),
}


@pytest.mark.parametrize("case", LOCAL_ONLY)
def test_what_cannot_be_elsewhere_is_one_line(tmp_path, case):
    with pytest.raises((InputError, SystemExit)) as raised:
        LOCAL_ONLY[case]()
    assert "\n" not in str(raised.value)
