"""Every shipped config through the real command, on small data."""

import csv
import hashlib
import json
import re
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from examples.pack_shards import main as pack
from safetensors.torch import save_file

import ida_lightning
from ida_lightning.__main__ import main
from ida_lightning.models import build_model, fingerprint, read_description
from ida_lightning.studies.compare.cells import resolve
from tests.helpers.cifar_files import make_cifar
from tests.helpers.command_line import CONFIGS, QUIET, SHORT, fit, metrics_of
from tests.helpers.folder_files import write_folder
from tests.helpers.tiny_imagenet_files import make_tiny_imagenet

PARTS = ["kd_loss", "hard_loss", "order_penalty", "label_loss", "logit_loss", "probability_loss"]
# Two batches make no teacher.
pytestmark = [
    pytest.mark.filterwarnings("ignore:teacher. .* is close to chance"),
    pytest.mark.filterwarnings("ignore:lr_scheduler. MultiStepLR never reaches"),  # in one epoch
]


def test_every_shipped_config_is_short_and_says_how_to_run_it():
    files = sorted(CONFIGS.rglob("*.yaml"))
    assert len(files) >= 8
    for file in files:
        lines = file.read_text().splitlines()
        name = file.relative_to(CONFIGS.parent)
        compares = "seeds: [" in file.read_text()
        command = "compare" if compares else "audit" if name.stem.startswith("fig") else "fit"
        if name.parts[1] == "sweeps":
            assert lines[0] == f"# wandb sweep {name}"
            continue
        said = re.fullmatch(rf"# ida-lightning {command}(?: --config (\S+))? --config {name}", lines[0])
        assert said, name
        assert said[1] is None or (CONFIGS.parent / said[1]).is_file()
        assert lines[1].startswith("# ")
        assert 10 <= len(lines) <= (30 if compares else 25), name


def test_every_shipped_fit_keeps_its_last_epoch():
    fits = [file for file in sorted(CONFIGS.rglob("*.yaml")) if "# ida-lightning fit" in file.read_text()]
    assert len(fits) >= 20
    for file in fits:
        config = resolve("fit", str(file))
        callbacks = [(c["class_path"].rpartition(".")[2], c["init_args"]) for c in config["trainer"]["callbacks"]]
        (checkpoint,) = (options for name, options in callbacks if "Checkpoint" in name)
        (export,) = (options["path"] for name, options in callbacks if name == "ExportCallback")
        assert ("CheckpointCallback", checkpoint) in callbacks
        assert checkpoint["dirpath"] == export.removesuffix(".safetensors"), file
        owner = "student" if config["model"]["class_path"].endswith("DistillationModule") else "model"
        assert checkpoint["monitor"] == f"{owner}/val_acc"
        assert not checkpoint["save_weights_only"]


def smaller(data, tmp_path, monkeypatch):
    """What makes a shipped config one for a test, beside SHORT."""
    if data == "digits":
        return {}
    common = {"data.batch_size": 4, "trainer.precision": "32-true"}
    if data == "tiny_imagenet":
        return {"data.root": str(make_tiny_imagenet(tmp_path).parent), "data.val_images": 6, **common}
    val_images = 20 if data == "evidence" else 100
    return {"data.root": str(make_cifar(tmp_path / "cifar", monkeypatch)), "data.val_images": val_images, **common}


@pytest.mark.parametrize(
    "data", ["digits", pytest.param("cifar100", marks=pytest.mark.slow), "tiny_imagenet", "evidence"]
)
def test_shipped_configs_train_and_find_their_teacher(data, tmp_path, monkeypatch):
    more = [f"--{key}={value}" for key, value in smaller(data, tmp_path, monkeypatch).items()]
    names = {file.stem for file in (CONFIGS / data).glob("*.yaml")}
    names = sorted(name for name in names if not name.startswith("compare"))
    teachers = [name for name in names if name.endswith("teacher")]
    for name in teachers:
        fit(f"{data}/{name}", *more)
    for run, name in enumerate((name for name in names if name not in teachers), start=len(teachers)):
        # Looking at 400 images takes a network of this size long; digits are looked at.
        quick = ["--trainer.callbacks.score=random"] if (data, name) == ("cifar100", "lr_ds") else []
        fit(f"{data}/{name}", *more, *quick)
        logged = metrics_of(run)
        assert Path(f"outputs/{data}/{name}.safetensors").is_file()
        assert {path.name for path in Path(f"outputs/{data}/{name}").iterdir()} == {"best.ckpt", "last.ckpt"}
        if name == "student":
            assert {"train/loss", "model/val_acc", "model/val_nll"} <= logged.keys()
            continue
        parts = [logged[f"train/{part}"] for part in PARTS if f"train/{part}" in logged]
        assert len(parts) == (3 if name.startswith(("kdp", "lr_ds")) else 2)
        assert logged["train/loss"] == pytest.approx([sum(step) for step in zip(*parts, strict=True)], rel=1e-5)
        assert {"student/val_acc", "student/val_nll", "teacher/val_acc", "teacher/val_nll"} <= logged.keys()
        assert logged["train/violation_rate"][-1] > 0
        after = logged["train/violation_rate_corrected"][-1]
        assert after == (0 if name.startswith("ida") else logged["train/violation_rate"][-1])


def test_recipes_train(tmp_path, monkeypatch):
    save_file(build_model("test_resnet", num_classes=20).state_dict(), tmp_path / "teacher.safetensors")
    small = [f"--{key}={value}" for key, value in smaller("evidence", tmp_path, monkeypatch).items()]
    small += ["--model.teacher_args={}", "--model.student_args={}"]
    root = write_folder(tmp_path / "images", parts={"train": 8, "val": 4})
    photographs = [f"--data.root={root}", "--data.image_size=32", "--data.batch_size=4", "--data.val_share=0.2"]
    photographs += ["--model.teacher_classes=[3, 5, 8]"]
    recipes = sorted(file.stem for file in (CONFIGS / "recipes").glob("*.yaml"))
    assert recipes == ["good_teacher", "pretrained_teacher", "weak_teacher"]
    for run, name in enumerate(recipes):
        fit(
            f"recipes/{name}",
            *(photographs if name == "pretrained_teacher" else small),
            *("--model.teacher=test_resnet", "--model.student=test_resnet"),
            f"--model.teacher_checkpoint={tmp_path}/teacher.safetensors",
        )
        assert metrics_of(run)["train/blend_moved_mass"][-1] > 0


def test_every_method_of_a_shipped_comparison_is_a_fit_config():
    shipped = [yaml.safe_load((CONFIGS / data / "compare_lr_ds.yaml").read_text()) for data in ("digits", "cifar100")]
    assert shipped[0]["methods"] == shipped[1]["methods"]
    for name, part in shipped[0]["methods"].items():
        resolve(name, str(CONFIGS.parent / shipped[0]["fit"]), part)
    losses = yaml.safe_load((CONFIGS / "cifar100" / "compare_losses.yaml").read_text())
    every = {"trainer": {"callbacks+": []}}  # all methods in one: reading a config takes a second
    for part in losses["methods"].values():
        every["trainer"]["callbacks+"] += part.get("trainer", {}).get("callbacks+", [])
        every["model"] = part.get("model", every.get("model", {}))
        if loss := every["model"].get("init_args", {}).get("distillation"):
            assert getattr(ida_lightning, loss["class_path"])(**loss.get("init_args", {}))
    resolve("all", str(CONFIGS.parent / losses["fit"]), losses["common"], every)
    inside = yaml.safe_load((CONFIGS / "evidence" / "compare_manifold.yaml").read_text())
    resolve("inside", str(CONFIGS.parent / inside["fit"]), inside["common"], inside["methods"]["random_layer"])
    teachers = yaml.safe_load((CONFIGS / "cifar100" / "compare_teachers.yaml").read_text())
    for name in ("plain", "two_corrected"):
        resolve(name, str(CONFIGS.parent / teachers["fit"]), teachers["methods"][name])


@pytest.mark.parametrize(
    "name",
    [
        pytest.param("cifar100/compare_kda", marks=pytest.mark.slow),
        *(pytest.param(f"{data}/compare", marks=pytest.mark.slow) for data in ("digits", "evidence")),
        pytest.param("cifar100/compare", marks=pytest.mark.slow),
        *(pytest.param(f"{data}/compare_lr_ds", marks=pytest.mark.slow) for data in ("digits", "cifar100", "evidence")),
        *(pytest.param(f"evidence/compare_{part}", marks=pytest.mark.slow) for part in ("kda", "long")),
    ],
)
def test_shipped_comparisons_run_every_method(name, tmp_path, monkeypatch):
    data = name.split("/")[0]
    shipped = yaml.safe_load((CONFIGS / f"{name}.yaml").read_text())
    common = shortened_comparison(data, tmp_path, monkeypatch, Path(shipped["teacher"]).stem)
    assert len(shipped["seeds"]) >= 3
    assert shipped["output"] == f"outputs/{name}"
    for key in ("fit", "teacher"):
        shipped[key] = str(CONFIGS.parent / shipped[key])
    Path("shipped.yaml").write_text(yaml.safe_dump(shipped))
    Path("short.yaml").write_text(yaml.safe_dump({"seeds": [0], "common": common, "output": "out"}))
    main(["compare", "--config", "shipped.yaml", "--config", "short.yaml"])
    with Path("out/results.csv").open() as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    assert rows.keys() == shipped["methods"].keys()
    assert all(float(row["last_test_nll"]) > 0 for row in rows.values())
    shared = shipped.get("common", {})
    for method, part in shipped["methods"].items():
        assert int(rows[method]["steps"]) == 2 * {**shared, **part}.get("epoch_factor", 1)
    if name.endswith("lr_ds"):
        assert float(rows["lr"]["revision_violation_rate_corrected"]) == 0 < float(rows["lr"]["revision_moved_mass"])
        assert all(0 < float(rows[method]["trusted_rate"]) < 1 for method in rows if "ds" in method)
        return
    if name.endswith("kda"):
        assert float(rows["cutmixpick_corrected"]["violation_rate_corrected"]) == 0
        return
    assert "kd_p" not in rows or rows["kd_p"]["order_penalty"]
    assert float(rows["kd_i_softened"]["violation_rate_corrected"]) == 0


def test_the_comparison_of_a_cycle_runs(tmp_path, monkeypatch):
    common = shortened_comparison("evidence", tmp_path, monkeypatch)
    shipped = yaml.safe_load((CONFIGS / "evidence" / "compare_cycle.yaml").read_text())
    for key in ("fit", "teacher"):
        shipped[key] = str(CONFIGS.parent / shipped[key])
    shipped["common"]["data"]["init_args"].pop("val_images")  # the made data has fewer
    common["trainer"]["check_val_every_n_epoch"] = 1
    Path("shipped.yaml").write_text(yaml.safe_dump(shipped))
    Path("short.yaml").write_text(yaml.safe_dump({"seeds": [0], "common": common, "output": "out"}))
    main(["compare", "--config", "shipped.yaml", "--config", "short.yaml"])
    with Path("out/results.csv").open() as file:
        answers = {row["method"]: row["answers"] for row in csv.DictReader(file)}
    assert answers == {"kd": "live", "cycle_4": "recorded"}
    assert list(Path("outputs/evidence/answers/seed_0").glob("epoch_*.npy"))


def shortened_comparison(data, tmp_path, monkeypatch, teacher="teacher"):
    """Train a teacher; what makes a shipped comparison on the data one for a test, its key common."""
    changes = smaller(data, tmp_path, monkeypatch)
    fit(f"{data}/{teacher}", *(f"--{key}={value}" for key, value in changes.items()))
    short = dict(option.removeprefix("--").split("=") for option in SHORT)
    common = {"trainer": {"limit_test_batches": 2}, "data": {"init_args": {}}}
    for key, value in {**{key: yaml.safe_load(value) for key, value in short.items()}, **changes}.items():
        owner, name = key.split(".")
        (common["data"]["init_args"] if owner == "data" else common["trainer"])[name] = value
    return common


WHOLE = [(name, data, None) for name in ("fig4", "fig5", "table3") for data in ("digits", "cifar100")]


@pytest.mark.parametrize(
    ("name", "data", "methods"),
    [
        ("fig4", "digits", ("kd_aug", "strength_50", "share_50")),
        pytest.param("fig5", "cifar100", ("sigma_0", "sigma_5"), marks=pytest.mark.slow),
        pytest.param("table3", "digits", ("kd_aug", "kd_i_weak_order", "kd_i_tree"), marks=pytest.mark.slow),
        *(pytest.param(*case, marks=pytest.mark.slow) for case in WHOLE),
    ],
)
def test_comparisons_of_the_paper_run(name, data, methods, tmp_path, monkeypatch):
    common = shortened_comparison(data, tmp_path, monkeypatch)
    Path("configs").symlink_to(CONFIGS)
    file = Path("configs", "paper", f"{name}.yaml")
    shipped = yaml.safe_load(file.read_text())
    curves = shipped.get("curves", {})
    if methods is not None:  # fewer of them
        for part in (shipped["methods"], *curves.values()):
            for method in part.keys() - set(methods):
                del part[method]
        file = Path(f"{name}.yaml")
        file.write_text(yaml.safe_dump(shipped))
    overlays = ["configs/paper/on_cifar100.yaml", "short.yaml"][data == "digits" :]
    Path("short.yaml").write_text(yaml.safe_dump({"seeds": [0], "common": common}))
    main(["compare", "--config", str(file), *(part for overlay in overlays for part in ("--config", overlay))])
    out = Path("outputs/compare", "-".join(Path(path).stem for path in (file, *overlays)))
    with (out / "results.csv").open() as results:
        rows = {row["method"]: row for row in csv.DictReader(results)}
    assert rows.keys() == shipped["methods"].keys()
    assert all(row["steps"] == "2" and float(row["seconds_per_step"]) > 0 for row in rows.values())
    assert (out / "curves.png").is_file() == bool(curves)
    if name == "fig4":
        left = [float(rows[method]["violation_rate_corrected"]) for method in ("kd_aug", "share_50")]
        assert 0 < left[1] < left[0]
    for method in ("kd_i_weak_order", "kd_i_tree") if name == "table3" else ():
        assert float(rows[method]["violation_rate_corrected"]) == 0
    if name == "fig5":
        assert float(rows["sigma_5"]["order_penalty"]) > 0
        assert rows["sigma_0"]["order_penalty"] == ""


@pytest.mark.parametrize("data", ["digits", pytest.param("cifar100", marks=pytest.mark.slow)])
def test_the_audit_of_the_paper_runs(data, tmp_path, monkeypatch):
    changes = smaller(data, tmp_path, monkeypatch)
    more = [f"--{key}={value}" for key, value in changes.items()]
    fit(f"{data}/teacher", *more)
    paper = CONFIGS / "paper"
    configs = [paper / "fig1.yaml", paper / "fig1_on_cifar100.yaml"][: 1 + (data == "cifar100")]
    main(["audit", *(part for config in configs for part in ("--config", str(config))), *more, *QUIET, "--batches=2"])
    out = Path("outputs/paper/fig1" + ("-on_cifar100" if data == "cifar100" else ""))
    audited = json.loads((out / "audit.json").read_text())
    assert audited["data"]["classes"] == (10 if data == "digits" else 100)
    assert {"tau", "covers_any"} <= {found["metric"] for found in audited["measurements"]}
    assert (out / "audit.png").is_file()


def test_imagenet_config_starts_on_shards(tmp_path):
    root = write_folder(tmp_path / "images", parts={"train": 12, "val": 4})
    for part in ("train", "val"):
        pack([str(root / part), str(tmp_path / "shards" / part), "--to", "litdata", "--shards", "2"])
    teacher = build_model("test_resnet", num_classes=3)
    save_file(teacher.state_dict(), tmp_path / "teacher.safetensors")
    fit(
        "imagenet/streaming",
        *(f"--data.{part}.root={tmp_path}/shards/{part}" for part in ("train", "val")),
        *("--data.crops.image_size=32", "--data.batch_size=4", "--data.num_workers=1"),
        *("--model.teacher=test_resnet", "--model.teacher_args={}", "--model.student=test_resnet"),
        *(f"--model.teacher_checkpoint={tmp_path}/teacher.safetensors", "--trainer.precision=32-true"),
    )
    assert metrics_of()["train/violation_rate_corrected"][-1] == 0
    assert read_description("outputs/imagenet/streaming.safetensors").class_names == ["cat", "dog", "eel"]


def test_imagenette_config_starts_on_photographs_of_ten_classes(tmp_path):
    root = write_folder(tmp_path / "images", parts={"train": 8, "val": 4})
    teacher = build_model("test_resnet", num_classes=1000)
    save_file(teacher.state_dict(), tmp_path / "teacher.safetensors")
    fit(
        "imagenette/kd_cutmix",
        f"--data.root={root}",
        *("--data.image_size=32", "--data.batch_size=4", "--data.val_share=0.2"),
        *("--model.teacher=test_resnet", "--model.teacher_classes=[3, 5, 8]", "--model.student=test_resnet"),
        *(f"--model.teacher_checkpoint={tmp_path}/teacher.safetensors", "--trainer.check_val_every_n_epoch=1"),
    )
    assert {"train/kd_loss", "student/val_acc", "teacher/val_acc"} <= metrics_of().keys()
    comparison = yaml.safe_load((CONFIGS / "imagenette" / "compare.yaml").read_text())
    for name, part in comparison["methods"].items():
        resolve(name, str(CONFIGS.parent / comparison["fit"]), comparison["common"], part)


def test_imagenet_config_starts_on_a_folder_of_images(tmp_path):
    # Its pretrained teacher would have to be fetched, so a small network of our own stands in for it.
    root = write_folder(tmp_path / "images")
    teacher = build_model("test_resnet", num_classes=3)
    save_file(teacher.state_dict(), tmp_path / "teacher.safetensors")
    fit(
        "imagenet/ida_cutmix",
        f"--data.root={root}",
        *("--data.image_size=32", "--data.batch_size=4", "--data.num_workers=1", "--data.val_share=0.2"),
        *("--model.teacher=test_resnet", "--model.teacher_args={}", "--model.student=test_resnet"),
        *(f"--model.teacher_checkpoint={tmp_path}/teacher.safetensors", "--trainer.precision=32-true"),
    )
    logged = metrics_of()
    assert logged["train/violation_rate_corrected"][-1] == 0
    said = read_description("outputs/imagenet/ida_cutmix.safetensors")
    assert said.class_names == ["cat", "dog", "eel"]
    (config,) = Path("outputs").rglob("config.yaml")
    assert said.recipe["config_sha256"] == hashlib.sha256(config.read_bytes()).hexdigest()
    (method,) = said.recipe["methods"]
    assert (method["class"], method["args"]["space"]) == ("IsotonicSoftLabelCallback", "softened")
    assert said.recipe["teacher"]["fingerprint"] == fingerprint(teacher)
    assert said.metrics["student/val_acc"] == logged["student/val_acc"][-1]
    assert said.versions["torch"] == version("torch")
