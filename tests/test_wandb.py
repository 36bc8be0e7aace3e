"""W&B from the command line, offline: what reaches the run's file and the disk."""

import json
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path
from typing import Any

import matplotlib.image
import pytest
import timm
import torch
import yaml
from safetensors.torch import save_file
from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]  # passed on by version
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

from tests.helpers.comparisons import cell, set_up, write_comparison
from tests.helpers.wandb_reader import Run, read_run

CONFIGS = Path(__file__).parents[1] / "configs"
CONFIG = CONFIGS / "digits" / "ida_cutmix.yaml"
BLOCK = 32 * 1024


def run_offline(folder: Path, *arguments: str) -> None:
    # A process of its own: wandb reads its environment once per process, wraps stdout and keeps a service, and
    # only the end of the process shows that the run is closed without anyone calling wandb.finish().
    own = {key: value for key, value in os.environ.items() if not key.startswith("WANDB_")}
    cache = folder.with_name(folder.name + "-cache")  # wandb's default is in the home folder
    offline = {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "WANDB_CACHE_DIR": str(cache)}
    # As conftest.py does for this process; helpers of the tests are imported from the root.
    environment = own | offline | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[1])}
    subprocess.run([sys.executable, *arguments], cwd=folder, env=environment, check=True, timeout=240)


def run_file(wandb_folder: Path) -> Path:
    (found,) = wandb_folder.glob("*-run-*/run-*.wandb")
    return found


SETTINGS = {"model.soft_weight": 0.8, "model.temperature": 3.5, "trainer.callbacks.strength": 1.0}


def sweep_command(**settings: float) -> list[str]:
    """The command of the shipped sweep as an agent of W&B expands it for one choice of settings."""
    sweep = yaml.safe_load((CONFIGS / "sweeps" / "digits.yaml").read_text())
    assert sweep["parameters"].keys() == settings.keys()
    parts: dict[str, list[str]] = create_sweep_command_args(
        {"args": {name: {"value": value} for name, value in settings.items()}}
    )
    parts["interpreter"] = [sys.executable]
    command: list[str] = []
    for chunk in create_sweep_command(sweep["command"]):
        named = chunk.startswith("${")
        command += parts[chunk[2:-1]] if named else [chunk]
    return command


@pytest.fixture(scope="module")
def fit_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fit")
    teacher = folder / "outputs" / "digits" / "teacher.safetensors"
    teacher.parent.mkdir(parents=True)
    torch.manual_seed(0)
    save_file(timm.create_model("resnet10t", num_classes=10, in_chans=1).state_dict(), teacher)
    (folder / "configs").symlink_to(CONFIGS)
    run_offline(
        folder,
        *sweep_command(**SETTINGS)[1:],
        *("--trainer.callbacks+=ExportCallback", "--trainer.callbacks.path=outputs/student.safetensors"),
        *("--trainer.callbacks.artifact=true", "--trainer.accelerator=cpu"),
        *("--trainer.max_epochs=1", "--trainer.limit_train_batches=10"),
        *("--trainer.log_every_n_steps=5", "--trainer.enable_progress_bar=false"),
        *("--trainer.callbacks+=PanelCallback", "--trainer.callbacks.rows=3", "--trainer.callbacks+=SpeedCallback"),
        "--trainer.enable_model_summary=false",
    )
    return folder


@pytest.fixture(scope="module")
def fit_run(fit_folder: Path) -> Run:
    return read_run(run_file(fit_folder / "outputs" / "wandb"))


def test_history_holds_every_metric(fit_run: Run) -> None:
    last: dict[str, Any] = {key: value for row in fit_run.history for key, value in row.items()}
    assert 0 < last["train/violation_rate"] <= 1
    assert last["train/violation_rate_corrected"] == 0
    assert 0 < last["train/moved_mass"] < 1
    for owner in ("student", "teacher"):
        assert 0 <= last[f"{owner}/val_acc"] <= 1
        assert last[f"{owner}/val_nll"] > 0


def test_logged_parts_sum_to_the_logged_loss(fit_run: Run) -> None:
    rows = [row for row in fit_run.history if "train/loss" in row]
    assert [row["trainer/global_step"] for row in rows] == [4, 9]  # every fifth of ten steps
    for row in rows:
        assert row["train/kd_loss"] > 0
        assert row["train/hard_loss"] > 0
        assert row["train/kd_loss"] + row["train/hard_loss"] == pytest.approx(row["train/loss"], rel=1e-6)


def test_speed_is_logged_with_the_loss_and_what_is_left_is_not(fit_run: Run) -> None:
    assert [row["images_per_s"] > 0 for row in fit_run.history if "train/loss" in row] == [True, True]
    assert not any("left" in row for row in fit_run.history)


def test_panel_is_an_image_of_the_run(fit_folder: Path, fit_run: Run) -> None:
    (row,) = [row for row in fit_run.history if "train/panel._type" in row]
    assert row["trainer/global_step"] == 0
    assert row["train/panel._type"] == "images/separated"
    (name,) = row["train/panel.filenames"]
    files = run_file(fit_folder / "outputs" / "wandb").parent / "files"
    assert [str(path.relative_to(files)) for path in files.rglob("*.png")] == [name]
    picture = matplotlib.image.imread(files / name)
    assert picture.shape[:2] == (row["train/panel.height"], row["train/panel.width"])
    assert picture[..., :3].std() > 0.1
    assert not list(fit_folder.rglob("panels"))


def test_teacher_is_reported_before_the_first_step(fit_run: Run) -> None:
    first = fit_run.history[0]
    assert first["trainer/global_step"] == 0
    assert {"teacher/val_acc", "teacher/val_nll"} <= first.keys()
    assert not any(key.startswith("train/") for key in first)


def test_config_tells_the_whole_run(fit_run: Run) -> None:
    recorded = yaml.safe_load(fit_run.config["config"])
    shipped = yaml.safe_load(CONFIG.read_text())
    callbacks = {
        entry["class_path"].split(".")[-1]: entry.get("init_args") for entry in recorded["trainer"]["callbacks"]
    }
    named = {entry["class_path"].split(".")[-1] for entry in shipped["trainer"]["callbacks"]}
    assert callbacks.keys() == named | {"PanelCallback", "SpeedCallback"}  # the two from the command line
    assert callbacks["PanelCallback"] == {"every_n_epochs": 5, "rows": 3}
    isotonic = callbacks["IsotonicSoftLabelCallback"]
    assert {"solver": "auto", "space": "softened", "strength": 1.0}.items() <= isotonic.items()
    assert recorded["trainer"]["max_epochs"] == 1  # from the command line
    assert shipped["model"]["init_args"].items() <= recorded["model"]["init_args"].items()
    assert recorded["model"]["init_args"]["temperature"] == 3.5  # of the sweep
    assert recorded["model"]["init_args"]["hard_weight"] is not None  # a default that no file names
    assert recorded["data"]["init_args"]["mixing"]["kind"] == "cutmix"
    # Arguments are columns of their own, to sort runs by.
    assert (fit_run.config["soft_weight"], fit_run.config["temperature"]) == (0.8, 3.5)
    assert fit_run.config["IsotonicSoftLabelCallback.strength"] == 1
    assert fit_run.config["data.mixing.kind"] == "cutmix"
    assert fit_run.config["trainer.max_epochs"] == 1


def test_the_best_of_validation_is_the_runs(fit_run: Run) -> None:
    for owner in ("student", "teacher"):
        assert fit_run.summaries[f"{owner}/val_acc"] == {"max", "last"}
        assert fit_run.summaries[f"{owner}/val_nll"] == {"min", "last"}


def test_the_student_is_an_artifact_when_asked(fit_folder: Path, fit_run: Run) -> None:
    run_id = run_file(fit_folder / "outputs" / "wandb").stem.removeprefix("run-")
    assert fit_run.artifacts[f"student-{run_id}"] == ["student.safetensors"]


def test_panel_is_a_table_of_the_run(fit_folder: Path, fit_run: Run) -> None:
    (row,) = [row for row in fit_run.history if "train/panel_values.path" in row]
    files = run_file(fit_folder / "outputs" / "wandb").parent / "files"
    table = json.loads((files / row["train/panel_values.path"]).read_text())
    assert table["columns"] == ["epoch", "row", "class", "share of the image", "soft label", "taught"]
    shares: dict[int, float] = {}
    for _, number, _, share, soft, taught in table["data"]:
        shares[number] = shares.get(number, 0.0) + share
        assert 0 <= soft <= 1
        assert 0 <= taught <= 1
    assert shares.keys() == {0, 1, 2}
    assert all(total == pytest.approx(1, abs=1e-5) for total in shares.values())


@pytest.mark.slow
def test_every_cell_of_a_comparison_is_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    logger = {"class_path": "WandbLogger", "init_args": {"project": "mine"}}
    quick = {"max_epochs": 1, "limit_train_batches": 2}
    methods = {"kd": {}, "broken": {"trainer": {"callbacks": [{"class_path": "tests.helpers.comparisons.Broken"}]}}}
    set_up()
    arguments = write_comparison(
        **{"common": {"trainer": {**quick, "logger": logger}}, "methods": methods, "reference": "kd"}
    )
    with pytest.raises(subprocess.CalledProcessError):
        run_offline(tmp_path, "-m", "ida_lightning", *arguments)
    for method, code in (("kd", 0), ("broken", 1)):
        for seed in (0, 1):
            run = read_run(run_file(tmp_path / "out" / "cells" / method / f"seed_{seed}" / "wandb"))
            assert (run.group, run.job_type, run.name) == ("out", method, f"{method}, seed {seed}")
            assert run.exit_code == code
            if method == "kd":
                result = json.loads(cell("kd", seed).read_text())
                assert run.summary["last/test_acc"] == result["last"]["test_acc"]
                assert run.config["seed_everything"] == seed


def test_one_run_leaves_one_folder_with_its_config(fit_folder: Path, fit_run: Run) -> None:
    outputs = fit_folder / "outputs"
    run_id = run_file(outputs / "wandb").stem.removeprefix("run-")
    (config,) = outputs.rglob("config.yaml")
    assert config.parent.name == run_id
    assert config.read_text() == fit_run.config["config"]
    assert {path.name for path in fit_folder.iterdir()} == {"outputs", "configs"}


def test_run_is_finished_when_the_command_returns(fit_run: Run) -> None:
    assert fit_run.exit_code == 0


SMALL_RUN = f"""
import wandb
with wandb.init(project="small", config={{"kept": [1, None], "changed": 1}}) as run:
    run.config.update({{"changed": 2}}, allow_val_change=True)
    run.log({{"number": 1.5, "nested": {{"flag": True}}}})
    run.log({{"long": "x" * {2 * BLOCK}}})
    run.finish(exit_code=3)
"""


@pytest.fixture(scope="module")
def small_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small")
    run_offline(folder, "-c", SMALL_RUN)
    return run_file(folder / "wandb")


def test_reader_returns_what_was_logged(small_file: Path) -> None:
    run = read_run(small_file)
    first, second = ({k: v for k, v in row.items() if not k.startswith("_")} for row in run.history)
    assert first == {"number": 1.5, "nested.flag": True}
    assert second == {"long": "x" * 2 * BLOCK}  # cut into chunks of the types first, middle and last
    assert (run.config["kept"], run.config["changed"], run.exit_code) == ([1, None], 2, 3)


def full_chunk(length: int, key: str) -> bytes:
    """A history record of one item as one chunk of ``length`` bytes in all."""
    record = Record()
    item = record.history.item.add(key=key, value_json="1")
    while (missing := length - 7 - record.ByteSize()) > 0:
        item.value_json += " " * max(1, missing - 8)  # spaces around JSON mean nothing; lengths grow on their own
    data: bytes = record.SerializeToString()
    return struct.pack("<IHB", zlib.crc32(b"\x01" + data), len(data), 1) + data


@pytest.mark.parametrize("room", [1, 6])
def test_reader_skips_the_padding_of_a_block(tmp_path: Path, room: int) -> None:
    first = b":W&B\xe1\xbe\x00" + full_chunk(BLOCK - 7 - room, "first")
    assert len(first) == BLOCK - room
    padded = tmp_path / "padded.wandb"
    padded.write_bytes(first + bytes(room) + full_chunk(100, "second"))
    assert read_run(padded) == Run(history=[{"first": 1}, {"second": 1}])


@pytest.mark.parametrize(
    ("byte", "complaint"),
    [
        pytest.param(6, "version 0", id="format version"),
        pytest.param(7, "checksum", id="checksum"),
        pytest.param(11, "checksum", id="length"),
        pytest.param(13, "checksum", id="chunk type"),
        pytest.param(30, "checksum", id="data"),
        pytest.param(BLOCK + 100, "checksum", id="data of a continued record"),
    ],
)
def test_reader_refuses_a_flipped_byte(small_file: Path, tmp_path: Path, byte: int, complaint: str) -> None:
    content = bytearray(small_file.read_bytes())
    content[byte] ^= 1
    damaged = tmp_path / small_file.name
    damaged.write_bytes(content)
    with pytest.raises(ValueError, match=complaint):
        read_run(damaged)


@pytest.mark.parametrize("length", [0, 10, 100, BLOCK, 2 * BLOCK, -1])
def test_reader_refuses_a_file_cut_short(small_file: Path, tmp_path: Path, length: int) -> None:
    damaged = tmp_path / small_file.name
    damaged.write_bytes(small_file.read_bytes()[:length])
    with pytest.raises(ValueError, match=r"version 0|ends inside|checksum"):
        read_run(damaged)
