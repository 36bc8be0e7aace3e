"""Several teachers, and what a teacher looks at: the same student as by hand, stored or live; bad input in one line."""

import csv
import json
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from safetensors.torch import save_file
from torch import nn

from ida_lightning import InputError, Mixing, blend_answers, blend_plain, isotonic_soft_labels, trust_by_order
from ida_lightning.__main__ import main
from ida_lightning.methods import DataSelectionCallback, Influence, IsotonicSoftLabelCallback, SupervisionMethod
from ida_lightning.models import ImageInput, build_model, fingerprint
from ida_lightning.modules import DistillationModule, Teacher, TeacherBlend, TeacherOutputs
from ida_lightning.studies.audit import audit
from ida_lightning.studies.compare.scores import evaluate
from ida_lightning.studies.teach import teach
from tests.helpers.data import BlobsDataModule
from tests.helpers.networks import TinyNet
from tests.helpers.trainers import trainer

pytestmark = [
    pytest.mark.filterwarnings("ignore:teacher. .* is close to chance"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no"),
    pytest.mark.filterwarnings("ignore:lr_scheduler. .*, the run has 1 epoch"),
]
T = 4.5


class WithLogits(nn.Module):
    """Answers as transformers' networks do."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, images):
        return type("ModelOutput", (), {"logits": self.network(images)})()


def networks():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return [TinyNet(width=16).eval(), WithLogits(TinyNet(width=4)).eval()]


def data(kind="cutmix", pool=0):
    return BlobsDataModule(batch_size=16, mixing=Mixing(kind), pool=pool)


class Seen(SupervisionMethod):
    """Keeps what the student is taught."""

    def __init__(self):
        super().__init__()
        self.kept = []

    def transform(self, supervision):
        self.kept.append(supervision)
        return supervision


def fit(tmp_path, teacher, callbacks=(), given=None, **options):
    """Fit a student from the same start each time; returns the module and what it was taught."""
    torch.manual_seed(1)
    seen = Seen()
    trained = {key: options.pop(key) for key in ("max_epochs", "logger", "ckpt_path") if key in options}
    path = trained.pop("ckpt_path", None)
    module = DistillationModule(teacher, TinyNet(), 4, 1, 8, **options)
    run = trainer(tmp_path, callbacks=[seen, *callbacks], **trained)
    run.fit(module, data() if given is None else given, ckpt_path=path)
    return module, seen.kept


def same(module, other):
    mine, theirs = module.student.state_dict(), other.student.state_dict()
    return all(torch.equal(mine[key], theirs[key]) for key in mine)


BLENDS = {
    "probabilities": TeacherBlend(weights=[2, 1]),
    "logits": TeacherBlend(average="logits"),
    "before": TeacherBlend(correct="before"),
    "trust": TeacherBlend(weights=[2, 1], trust="violation"),
}


@pytest.mark.parametrize("kind", BLENDS)
def test_several_teachers_answer_as_one(kind, tmp_path):
    blend = BLENDS[kind]
    module, taught = fit(tmp_path, networks(), teacher_blend=blend)
    first, second = networks()
    for supervision in taught:
        with torch.no_grad():
            logits = [first(supervision.inputs), second(supervision.inputs).logits]
        mix, weights = supervision.label_mix, torch.tensor(blend.weights or [1.0, 1.0])[:, None]
        soft = [(answer / T).softmax(1) for answer in logits]
        if kind == "trust":
            weights = weights * trust_by_order(logits, mix, T)
        if kind == "before":
            soft = [isotonic_soft_labels(one, mix) for one in soft]
        weights = (weights / weights.sum(0))[:, :, None]
        expected = (weights * torch.stack(soft)).sum(0)
        if kind == "logits":
            expected = (torch.stack(logits).mean(0) / T).softmax(1)
        torch.testing.assert_close(supervision.soft_labels, expected)
    assert module.teacher.fingerprint not in (None, *(member.fingerprint for member in module.teacher.members))


def test_figures_of_every_teacher_are_logged(tmp_path):
    logger = CSVLogger(tmp_path)
    blend = TeacherBlend(trust="violation")
    correction = IsotonicSoftLabelCallback()
    module, _ = fit(tmp_path, networks(), [correction], logger=logger, teacher_blend=blend)
    with Path(logger.log_dir, "metrics.csv").open() as file:
        logged = set(csv.DictReader(file).fieldnames)
    for name in ("TinyNet", "WithLogits"):
        assert {f"teacher/{name}/val_acc", f"teacher/{name}/val_nll", f"train/{name}/violation_rate"} <= logged
        assert f"train/{name}/trust" in logged
        assert (
            logger.experiment.hparams[f"teacher_fingerprint/{name}"]
            == module.teacher.members[name != "TinyNet"].fingerprint
        )
    assert {"teacher/val_acc", "train/violation_rate"} <= logged
    assert 0 < float(module.trainer.callback_metrics["train/TinyNet/violation_rate"]) < 1


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")
def test_an_interrupted_epoch_logs_the_means_of_a_whole_one(tmp_path):
    def rate(**options):
        torch.manual_seed(1)
        module = DistillationModule(networks(), TinyNet(), 4, 1, 8, teacher_blend=TeacherBlend(trust="violation"))
        run = trainer(tmp_path, max_epochs=1, **{key: options[key] for key in options if key != "ckpt_path"})
        run.fit(module, data(), ckpt_path=options.get("ckpt_path"), weights_only=True)
        values = run.callback_metrics
        return {name: float(values[name]) for name in values if name.startswith("train/") and "TinyNet" in name}

    whole, kept = rate(), ModelCheckpoint(tmp_path / "kept", every_n_train_steps=2, save_top_k=-1)
    rate(max_steps=2, callbacks=[kept], enable_checkpointing=True)
    (path,) = (tmp_path / "kept").glob("*.ckpt")
    assert whole.keys() == {"train/TinyNet/violation_rate", "train/TinyNet/trust"}
    assert rate(ckpt_path=path) == pytest.approx(whole, rel=1e-6)


def test_audit_and_comparison_take_several_for_one(tmp_path, capsys):
    blend = TeacherBlend(correct="before", trust="violation")
    module = DistillationModule(networks(), TinyNet(), 4, 1, 8, teacher_view="plain", teacher_blend=blend)
    report, _ = audit(trainer(tmp_path), module, data(), batches=1, out=str(tmp_path / "audit"))
    said = ["teacher_view plain", "correction before averaging", "trust in each teacher"]
    assert report.facts["not_measured"] == said
    assert report.facts["teacher"]["network"] == "TinyNet, WithLogits"
    assert "trust in each teacher" in capsys.readouterr().out
    given = data()
    trained = trainer(tmp_path)
    trained.fit(module, given)
    assert 0 <= evaluate(trained, module, given)["agreement"] <= 1


def test_a_list_of_one_is_that_teacher(tmp_path):
    alone, _ = fit(tmp_path, networks()[0])
    listed, _ = fit(tmp_path, networks()[:1])
    assert same(alone, listed)


def test_answers_are_stored_teacher_by_teacher(tmp_path):
    def outputs(mode="auto"):
        return TeacherOutputs(str(tmp_path / "a"), mode)

    fit(tmp_path, networks()[:1], teacher_outputs=outputs())
    live, _ = fit(tmp_path, networks())
    both, _ = fit(tmp_path, networks(), teacher_outputs=outputs())
    assert [asked.live for asked in both.answers.asked] == [0, 4], "adding one does not ask the other again"
    replayed, _ = fit(tmp_path, networks(), teacher_outputs=outputs("replay"))
    assert same(both, live)
    assert same(replayed, live)
    assert replayed.teacher.network is None
    assert replayed.answers.live == 0
    assert replayed.teacher.fingerprint == live.teacher.fingerprint
    assert {path.name for path in (tmp_path / "a").iterdir()} == {"TinyNet", "WithLogits", "validation.json"}
    assert replayed.answers.of_members.keys() == {"TinyNet", "WithLogits"}
    _, taught = fit(tmp_path, networks(), teacher_outputs=TeacherOutputs(str(tmp_path / "k"), top_k=3))
    assert all(supervision.kept_from.isposinf().all() for supervision in taught), "no repair is known to be exact"


def test_teachers_are_recorded_one_after_the_other(tmp_path):
    """Where two do not fit into memory, each is asked by itself; the student replays both."""
    outputs = TeacherOutputs(str(tmp_path / "a"))
    for teacher in networks():
        module = DistillationModule([teacher], TinyNet(), 4, 1, 8, teacher_outputs=outputs, teacher_view="plain")
        teach(trainer(tmp_path), module, data(), epochs=1)
    replays = TeacherOutputs(str(tmp_path / "a"), "replay")
    replayed, _ = fit(tmp_path, networks(), teacher_outputs=replays, teacher_view="plain")
    live, _ = fit(tmp_path, networks(), teacher_view="plain")
    assert same(replayed, live)
    assert replayed.answers.live == 0


@pytest.mark.parametrize("pool", [0, 1])
@pytest.mark.parametrize("view", ["plain", "plain_logits", "mirrored"])
def test_views_teach_what_they_say_live_and_stored(view, pool, tmp_path):
    teacher, given = networks()[0], data(pool=pool)
    live, taught = fit(tmp_path, teacher, given=given, teacher_view=view)
    assert not given.keeps_plain, "the next fit has batches of its own kind"
    given.keeps_plain = True
    clean_seen = []
    given.setup("fit")
    given.trainer = None
    given.train_dataloader().sampler.set_epoch(0)
    for number, batch in enumerate(given.train_dataloader()):
        mixed = given.mix(batch, given.batch_generator(0, number))
        assert torch.equal(mixed.inputs, taught[number].inputs), "no second draw"
        with torch.no_grad():
            if view == "mirrored":
                logits = (teacher(mixed.inputs) + teacher(mixed.inputs.flip(-1))) / 2
            else:
                clean_seen.append(mixed.plain[0].batch.inputs)
                average = "logits" if view == "plain_logits" else "probabilities"
                logits = blend_plain(teacher(clean_seen[-1]), mixed.plain[0], T, average)
        torch.testing.assert_close(taught[number].teacher_logits, logits)
    outputs = TeacherOutputs(str(tmp_path / "a"))
    fit(tmp_path, networks()[0], given=data(pool=pool), teacher_view=view, teacher_outputs=outputs)
    replays = TeacherOutputs(str(tmp_path / "a"), "replay")
    replayed, _ = fit(tmp_path, networks()[0], given=data(pool=pool), teacher_view=view, teacher_outputs=replays)
    assert same(replayed, live)
    if view != "mirrored" and pool == 0:  # one pass for both averages and every way of mixing
        other = "plain" if view == "plain_logits" else "plain_logits"
        again, _ = fit(tmp_path, networks()[0], given=data("mixup"), teacher_view=other, teacher_outputs=replays)
        assert again.answers.live == 0
    with pytest.raises(InputError, match=r"teacher_outputs: expected .*, with which .* was recorded, got"):
        fit(tmp_path, networks()[0], given=data(pool=pool), teacher_outputs=outputs)


def test_views_of_several_teachers_compose(tmp_path):
    _, taught = fit(tmp_path, networks(), teacher_view="plain", teacher_blend=TeacherBlend(average="logits"))
    given = data()
    given.keeps_plain = True
    given.setup("fit")
    batch = next(iter(given.train_dataloader()))
    plain = given.mix(batch, given.batch_generator(0, 0)).plain[0]
    first, second = networks()
    with torch.no_grad():
        seen = [first(plain.batch.inputs), second(plain.batch.inputs).logits]
    expected = blend_answers([blend_plain(logits, plain, T) for logits in seen], None, T, "logits")
    torch.testing.assert_close(taught[0].teacher_logits, expected)


def write(path, seed, classes=10, **metadata):
    torch.manual_seed(seed)
    network = build_model("test_resnet", num_classes=classes, in_channels=1)
    save_file(network.state_dict(), path, metadata)
    return network


NAMES = {"class_names": json.dumps(list("abcd"))}


@pytest.mark.parametrize(
    ("teacher", "options", "message"),
    [
        ([], {}, "teacher: expected one or more teachers, got an empty list"),
        ([3], {}, "teacher: expected a timm name or a module, got int 3"),
        ([["a", "b"]], {}, "teacher: expected teachers in the list, got a list within it"),
        ([TinyNet()], {"teacher_checkpoint": "a.pt"}, "teacher_checkpoint: expected none beside a list of teachers"),
        ([Teacher(TinyNet(), view="plain")], {}, "teacher: expected view once for all teachers, beside the list"),
        ([TinyNet()] * 2, {"teacher_blend": {"weights": [1, -1]}}, "teacher_blend.weights: expected numbers >= 0"),
        ([TinyNet()] * 2, {"teacher_blend": {"weights": [0, 0]}}, "teacher_blend.weights: expected numbers >= 0, not"),
        ([TinyNet()] * 2, {"teacher_blend": {"weights": [1]}}, "teacher_blend.weights: expected 2, one for every"),
        (
            [TinyNet()] * 2,
            {"teacher_blend": {"trust": "order"}},
            "teacher_blend.trust: expected one of violation, got",
        ),
        ([TinyNet()], {"teacher_blend": {"avrage": "logits"}}, "teacher_blend: expected some of .*'average'"),
        (TinyNet(), {"teacher_blend": TeacherBlend()}, "teacher_blend: expected it with a list of teachers, got one"),
        (TinyNet(), {"teacher_view": "clean"}, "teacher_view: expected one of mixed, plain, plain_logits, mirrored"),
        (TinyNet(), {"teacher_image_input": {"mean": [0]}}, "teacher_image_input: expected mean and std of every"),
        (TinyNet(), {"teacher_classes": [1, 1]}, "teacher_classes: expected different numbers >= 0 or names"),
    ],
)
def test_teachers_that_cannot_be_are_refused_at_once(teacher, options, message):
    with pytest.raises(InputError, match=message):
        DistillationModule(teacher, TinyNet(), 4, 1, 8, **options)


def test_teachers_of_other_classes_are_named(tmp_path):
    with pytest.raises(InputError, match=r"teacher TinyNet.2: teacher: expected logits of the student's 4 classes"):
        fit(tmp_path, [TinyNet(), TinyNet(5)])
    files = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for seed, (file, names) in enumerate(zip(files, ("abcd", "abdc"), strict=True)):
        write(file, seed, 4, class_names=json.dumps(list(names)), image_input=json.dumps([[0.0], [1.0], 8]))
    entries = [Teacher("test_resnet", checkpoint=file) for file in files]
    module = DistillationModule(entries, TinyNet(), 4, 1, 8)
    with pytest.raises(
        InputError, match=r"teacher test_resnet-b: expected the classes of test_resnet-a, a, b, c, d, g"
    ):
        module.teacher.prepare(None, ImageInput((0.0,), (1.0,), 8))
    with pytest.raises(InputError, match=r"teacher test_resnet-a: teacher_checkpoint: expected the classes of the da"):
        module.teacher.prepare(list("xbcd"))


def test_views_need_data_that_know_their_images(tmp_path, blobs):
    module = DistillationModule(TinyNet(), TinyNet(), 4, 1, 8, teacher_view="plain")
    blobs.setup("fit")
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(torch.randn(8, 1, 8, 8), torch.arange(8) % 4), batch_size=4
    )
    with pytest.raises(InputError, match=r"teacher_view: expected a MixingDataModule, whose batches .*, got loaders"):
        trainer(tmp_path).fit(module, loader)


def test_influence_cannot_choose_between_teachers(tmp_path):
    selection = DataSelectionCallback("influence", folder=str(tmp_path), influence=Influence(network="teacher"))
    with pytest.raises(InputError, match=r"influence.network: expected student with 2 teachers, got teacher"):
        fit(tmp_path, networks(), [selection])


def test_resuming_with_another_teacher_in_the_list_is_refused(tmp_path):
    module, _ = fit(tmp_path, networks())
    module.trainer.save_checkpoint(tmp_path / "last.ckpt")
    others = [networks()[0], WithLogits(TinyNet(width=4)).eval()]
    with pytest.raises(InputError, match="teacher: expected the weights that this run was started with"):
        fit(tmp_path, others, ckpt_path=tmp_path / "last.ckpt", max_epochs=2)


YAML = """
trainer: {max_epochs: 1, limit_train_batches: 1, limit_val_batches: 1, enable_progress_bar: false,
  enable_model_summary: false, log_every_n_steps: 1}
model:
  class_path: DistillationModule
  init_args:
    teacher:
      - {network: test_resnet, checkpoint: a.safetensors}
      - network: test_resnet
        checkpoint: b.safetensors
        image_input: {mean: [0.5], std: [0.25], size: 16}
        classes: [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]
    teacher_blend: {weights: [2, 1], trust: violation}
    teacher_view: plain
    student: test_resnet
data: {class_path: DigitsDataModule, init_args: {image_size: 8}}
"""


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_lists_work_from_yaml_and_come_back_from_kept_configs(capsys):
    Path("fit.yaml").write_text(YAML)
    save = [write(f"{name}.safetensors", seed) for seed, name in enumerate("ab")]
    main(["fit", "--config", "fit.yaml"])
    kept = yaml.safe_load(Path("outputs/lightning_logs/version_0/config.yaml").read_text())["model"]["init_args"]
    assert [entry["checkpoint"] for entry in kept["teacher"]] == ["a.safetensors", "b.safetensors"]
    assert kept["teacher_blend"] == {
        "weights": [2, 1],
        "average": "probabilities",
        "correct": "after",
        "trust": "violation",
    }
    assert (kept["teacher_view"], kept["teacher"][1]["classes"]) == ("plain", [*range(9, -1, -1)])
    main(["fit", "--config", "outputs/lightning_logs/version_0/config.yaml", "--model.teacher_blend.average=logits"])
    (checkpoint,) = Path("outputs/lightning_logs/version_1/checkpoints").glob("*.ckpt")
    module = DistillationModule.load_from_checkpoint(checkpoint, weights_only=True)
    assert module.teacher.options == TeacherBlend([2, 1], "logits", trust="violation")
    module.teacher.prepare(None, ImageInput((0.5,), (0.25,), 8))
    assert [member.fingerprint for member in module.teacher.members] == [fingerprint(network) for network in save]
    Path("b.safetensors").unlink()
    with pytest.raises(SystemExit):
        main(["fit", "--config", "fit.yaml"])
    assert "teacher_checkpoint: expected a weight file, found nothing at b.safetensors" in capsys.readouterr().err
