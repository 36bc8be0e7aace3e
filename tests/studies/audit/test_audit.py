"""The command ``audit``: right and wrong teachers, its four files, and what mistakes look like."""

import csv
import json
import math
from collections import defaultdict
from html.parser import HTMLParser
from pathlib import Path

import matplotlib.image
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint  # noqa: F401 (the configs name it)
from safetensors.torch import save_file

from ida_lightning import revise_soft_labels, violated_rows
from ida_lightning.__main__ import main
from ida_lightning.isotonic import correct_soft_labels
from ida_lightning.mixing import Mixing
from ida_lightning.models import build_model
from ida_lightning.studies.audit.figure import draw
from ida_lightning.studies.audit.verdict import least_accuracy, percent
from tests.helpers.audits import CONFIG, OUT, audit, complaint_of, values_of
from tests.helpers.colours import ColoursDataModule, ConfusedTeacher
from tests.helpers.command_line import CONFIGS

SPACES = ["softened", "probabilities", "logits"]


def test_a_teacher_that_is_right_needs_no_correction(capsys):
    content = audit("RightTeacher", mixing="both")
    for mixing in ("clean", "mixup", "cutmix", "both"):
        values = values_of(content, mixing)
        for metric in ("mix_reversed", "rest_above", "violated"):
            assert values[metric] == 0, (mixing, metric)
        assert values["tau"] == pytest.approx(1, abs=0.01)  # below only where CutMix covers less than a pixel
        assert values["accuracy"] == values["covers_any"] == 1
        moved = [value for name, value in values.items() if name.startswith(("moved_mass", "correction_kl", "to_"))]
        assert len(moved) == 2 * 4 * 5
        assert not any(moved)
    assert values_of(content, "clean")["tau"] == 1
    assert content["verdict"]["code"] == "own_answers"
    told = capsys.readouterr().out
    assert "Teach its answers as they are: on mixup/CutMix images" in told
    assert "in all but 0.0 % of the rows" in told
    page = (OUT / "audit.html").read_text()
    assert "Correcting would change no soft label of the 192 mixup/CutMix images." in page
    assert page.count("<img") == 1


def test_an_untrained_teacher_is_recognised():
    network = build_model("test_resnet", num_classes=10, in_channels=1)
    save_file(network.state_dict(), "teacher.safetensors")
    common = [
        *("--config", str(CONFIGS / "digits" / "kd_cutmix.yaml"), "--trainer.enable_progress_bar=false"),
        *("--model.teacher=test_resnet", "--model.teacher_checkpoint=teacher.safetensors", "--data.image_size=8"),
    ]
    main(["audit", *common, "--batches=3", "--out=elsewhere"])
    content = json.loads(Path("elsewhere/audit.json").read_text())
    values = values_of(content, "cutmix")
    assert values["violated"] > 0.9
    assert content["verdict"]["code"] == "teacher_first"
    assert "close to chance" in content["verdict"]["headline"]
    assert "strength 0" in " ".join(content["verdict"]["reasons"])
    short = ["max_epochs=1", "limit_train_batches=3", "limit_val_batches=2", "log_every_n_steps=1"]
    with pytest.warns(UserWarning, match="close to chance"):
        main(["fit", *common, *(f"--trainer.{option}" for option in short)])
    with Path("outputs/lightning_logs/version_0/metrics.csv").open() as file:
        (rate,) = [row["train/violation_rate"] for row in csv.DictReader(file) if row["train/violation_rate"]]
    assert values["violated"] == pytest.approx(float(rate), abs=1e-6)


def test_numbers_are_those_of_a_slow_computation():
    content = audit("ConfusedTeacher", "--batches=3")
    data = ColoursDataModule(batch_size=16, mixing=Mixing("cutmix"), seed=0)
    data.setup("fit")
    teacher = ConfusedTeacher().double()
    sums, pairs = defaultdict(list), defaultdict(list)
    for number, loaded in zip(range(3), data.train_dataloader(), strict=False):
        batch = data.mix(loaded, data.batch_generator(0, number))
        logits = teacher(batch.inputs.double()).detach()
        hard = batch.label_mix.dense(6).double()
        mix = type(batch.label_mix)(batch.label_mix.labels, batch.label_mix.weights.double())
        for temperature in (2.0, 1.0):
            soft = (logits / temperature).softmax(1)
            for space in SPACES:
                after = correct_soft_labels(soft, mix, temperature, space, "weak_order")
                for row in range(16):
                    mass = sum(abs(float(after[row, c] - soft[row, c])) for c in range(6)) / 2
                    kl = sum(float(after[row, c] * (after[row, c].log() - soft[row, c].log())) for c in range(6))
                    name = f"{space}/T{temperature:g}"
                    sums[f"moved_mass/{name}"].append(mass)
                    sums[f"correction_kl/{name}"].append(kl)
                    rest = hard[row] == 0
                    sums[f"to_rest/{name}"].append(float((after - soft)[row, rest].sum()))
        for row in range(16):
            known = [(a, b) for a in range(6) for b in range(6) if hard[row, a] > hard[row, b]]
            signs = {(a, b): math.copysign(1, float(logits[row, a] - logits[row, b])) for a, b in known}
            mix_pairs = [pair for pair in known if hard[row, pair[1]] > 0]
            sums["mix_reversed"].append(any(signs[pair] < 0 for pair in mix_pairs))
            sums["violated"].append(min(signs.values()) < 0)
            sums["tau"].append(sum(signs.values()) / len(known))
            present = sorted(c for c in range(6) if hard[row, c] > 0)
            sums["missed"].append(int(logits[row].argmax()) not in present)
            sums["missed_by_guessing"].append(1 - len(present) / 6)
            sums["covers_any"].append(any(int((logits[row] > logits[row, c]).sum()) < 2 for c in present))
            if len(present) == 2:
                mass = sums["moved_mass/probabilities/T2"][16 * number + row]
                pairs[tuple(ColoursDataModule.class_names[c] for c in present)].append(mass)
    values = values_of(content, "cutmix")
    assert 0.1 < values["mix_reversed"] < values["violated"] < 1, "no trivial case"
    for name, found in sums.items():
        assert values[name] == pytest.approx(sum(found) / 48, abs=1e-5), name
    share = min(1, (sum(sums["missed"]) / sum(sums["missed_by_guessing"])) ** 2)
    assert 0 < share < 1
    assert f'TruthBlendCallback(share="auto") takes {share:.2f} for it.' in " ".join(content["verdict"]["reasons"])
    worst = content["worst_pairs"]["cutmix"]
    enough = {pair: sum(found) / len(found) for pair, found in pairs.items() if len(found) >= 5}
    assert (worst["pairs"], worst["judged"]) == (len(pairs), len(enough))
    expected = sorted(enough.items(), key=lambda item: -item[1])
    assert [(*pair["classes"], pair["rows"]) for pair in worst["by_moved_mass"]] == [
        (*pair, len(pairs[pair])) for pair, _ in expected
    ]
    assert [pair["moved_mass"] for pair in worst["by_moved_mass"]] == pytest.approx([m for _, m in expected], abs=1e-5)


SYSTEMS = """
trainer:
  callbacks:
    - {class_path: LabelRevisionCallback, init_args: {eta: 0.6, space: probabilities}}
    - {class_path: DataSelectionCallback, init_args: {score: %s, fraction: 0.25, folder: scores}}
"""


@pytest.mark.parametrize("score", ["influence", "violation"])
def test_revision_and_selection_are_those_of_a_slow_computation(score, capsys):
    Path("systems.yaml").write_text(SYSTEMS % score)
    content = audit("ConfusedTeacher", "--config", "systems.yaml", "--batches=12")
    data = ColoursDataModule(batch_size=16, mixing=Mixing("cutmix"), seed=0)
    data.setup("fit")
    teacher = ConfusedTeacher()

    def check(name, logits, mix):
        values = values_of(content, name)
        for temperature in (2.0, 1.0):
            soft = (logits / temperature).softmax(1)
            after = revise_soft_labels(soft, mix, 0.6, "wrong", temperature, "probabilities")
            moved = (after - soft).abs().sum(1) / 2
            found = values[f"moved_mass/revision/T{temperature:g}"]
            assert found == pytest.approx(float(moved.mean()), abs=1e-5)
            assert found > values[f"moved_mass/softened/T{temperature:g}"] > 0
        assert values["violated"] == pytest.approx(float(violated_rows(logits, mix).float().mean()))
        return violated_rows(logits, mix)

    with torch.no_grad():
        for split, name in (("train", "clean"), ("val", "validation")):
            everything = data.splits[split].__getitems__(range(len(data.splits[split])))
            logits = teacher(data.normalise(everything.inputs))
            wrong = check(name, logits, everything.label_mix)
            if split == "train":
                wrong_in_training, probs = wrong, logits.softmax(1)
    labels = data.splits["train"].labels[:, None]
    selection = content["selection"]
    assert selection["teacher_wrong"] == pytest.approx(float(wrong_in_training.float().mean()))
    assert selection["trusted"] == 48 / 192
    wrong = selection["teacher_wrong"]
    whole = wrong * selection["trusted_where_wrong"] + (1 - wrong) * selection["trusted_where_right"]
    assert whole == pytest.approx(0.25)
    if score == "violation":
        lead = (probs.gather(1, labels) - probs.scatter(1, labels, 0).amax(1, keepdim=True))[:, 0]
        best = lead.topk(48).indices
        assert selection["trusted_where_wrong"] * int(wrong_in_training.sum()) == int(wrong_in_training[best].sum())
    printed = capsys.readouterr().out
    assert "Label revision (eta 0.6, probabilities space, T = 2): the teacher is wrong about the order of" in printed
    assert f"Data selection ({score}): the teacher teaches 25.0 % of the training images" in printed


def test_a_selection_by_the_student_is_not_guessed(capsys):
    Path("systems.yaml").write_text(
        SYSTEMS.replace("fraction", "influence: {network: student}, fraction") % "influence"
    )
    content = audit("ConfusedTeacher", "--config", "systems.yaml")
    assert "trusted" not in content["selection"]
    assert "Data selection looks at the student, whom an audit does not train." in capsys.readouterr().out
    assert audit("ConfusedTeacher")["selection"] is None


def test_bins_share_out_all_rows():
    content = audit("ConfusedTeacher", "--data.mixing.images=3", mixing="mixup")

    def rows(mixing, name):
        keys = ("mixing", "bin", "metric")
        found = [e["rows"] for e in content["measurements"] if tuple(e[k] for k in keys) == (mixing, name, "violated")]
        return found[0] if found else 0

    shares = ["0.5-0.6", "0.6-0.7", "0.7-0.8", "0.8-0.9", "0.9-1"]
    for mixing in ("mixup", "cutmix"):
        several = sum(rows(mixing, name) for name in ["below 0.5", *shares])
        assert several == rows(mixing, "several classes") < rows(mixing, "all") == 192
        assert several + rows(mixing, "one class") == 192
    assert rows("mixup", "below 0.5") > 0 == rows("cutmix", "below 0.5")
    assert rows("clean", "one class") == 192


class Tags(HTMLParser):
    """Raises unless tags are balanced."""

    def __init__(self):
        super().__init__()
        self.open, self.seen, self.text, self.loaded = [], set(), [], []

    def handle_starttag(self, tag, attrs):
        self.seen.add(tag)
        self.loaded += [value for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.mark.draws
def test_the_four_files_agree_and_the_page_needs_nothing_else(capsys):
    content = audit("ConfusedTeacher")
    verdict = content["verdict"]
    assert (verdict["code"], content["configured"]["space"]) == ("blend", "probabilities")
    with (OUT / "audit.csv").open() as file:
        lines = list(csv.DictReader(file))
    run = content["run"]
    assert [line.pop("run") for line in lines] == [run] * len(lines)
    assert [{**line, "value": float(line["value"]), "rows": int(line["rows"])} for line in lines] == content[
        "measurements"
    ]
    page = (OUT / "audit.html").read_text()
    assert f"all of run {run}" in page
    assert f"Run {run}".encode() in (OUT / "audit.png").read_bytes()
    tags = Tags()
    tags.feed(page)
    tags.close()
    assert not tags.open
    assert not {"i", "script", "link"} & tags.seen, "class names are text"
    assert [source[:22] for source in tags.loaded] == ["data:image/png;base64,"] * 2
    assert "http://" not in page
    assert "https://" not in page
    text = " ".join(tags.text)
    printed = capsys.readouterr().out
    for sentence in (verdict["headline"], *verdict["reasons"], *verdict["thresholds"]):
        assert sentence in text
        assert sentence in printed
    for mixing in ("clean", "mixup", "cutmix", "both"):
        values = values_of(content, mixing)
        assert percent(values["violated"]) in tags.text
        for space in SPACES:
            shown = f"{percent(values[f'moved_mass/{space}/T2'])}; {values[f'correction_kl/{space}/T2']:.4f}"
            assert shown in tags.text
    assert percent(values_of(content, "cutmix")["moved_mass/probabilities/T2"]) in " ".join(verdict["reasons"])
    assert f"a share of truth of {verdict['truth']['share']:.2f}" in verdict["headline"]
    points, low, high = verdict["truth"]["over_labels"]
    assert f"{round(points)} points [{round(low)}, {round(high)}] over labels alone" in verdict["headline"]
    assert "<i>cat</i> & $dog$" in text
    picture = matplotlib.image.imread(OUT / "audit.png")
    assert picture.shape[1] > 1000
    assert picture[..., :3].std() > 0.1
    assert content["config"]["model"]["init_args"]["student"] == "no_such_network"
    assert len(content["teacher"]["fingerprint"]) == 64
    assert sorted(path.name for path in Path().iterdir()) == ["config.yaml", "outputs"]
    assert [path.name for path in Path("outputs").iterdir()] == ["audit"], "nothing was logged or trained"


def test_the_picture_has_tau_and_coverage(monkeypatch):
    drawn = []
    monkeypatch.setattr("ida_lightning.studies.audit.run.draw", lambda *args: drawn.append(draw(*args)) or drawn[-1])
    content = audit("ConfusedTeacher")
    panels = {panel.get_title(): [bar.get_height() for bar in panel.patches] for panel in drawn[0].axes}

    def values(metric):
        return [values_of(content, mixing)[metric] for mixing in ("clean", "mixup", "cutmix", "both", "validation")]

    assert panels["Kendall's tau over the pairs whose order is known"] == pytest.approx(values("tau"))
    covered = [100 * value for metric in ("covers_any", "covers_all") for value in values(metric)]
    assert panels["Classes of the image among the teacher's top 2"] == pytest.approx(covered)


def test_same_config_same_numbers():
    first, again, other = (audit("ConfusedTeacher", f"--seed_everything={seed}") for seed in (0, 0, 1))
    for content in (first, again):
        content.pop("date")
    assert json.dumps(first) == json.dumps(again)
    assert first["measurements"] != other["measurements"]


def test_more_batches_than_an_epoch_go_on_with_the_next():
    one, two = (audit("ConfusedTeacher", f"--batches={batches}") for batches in (12, 24))
    assert [content["data"]["rows"] for content in (one, two)] == [192, 384]
    assert values_of(one, "clean") == pytest.approx(values_of(two, "clean")), "every image twice"
    assert values_of(one, "cutmix") != pytest.approx(values_of(two, "cutmix")), "but mixed anew"


@pytest.mark.parametrize(
    "options",
    [
        ["--trainer.precision=bf16-mixed"],
        pytest.param(["--trainer.precision=bf16-true"], marks=pytest.mark.slow),
        ["--trainer.devices=2", "--trainer.strategy=ddp"],
        pytest.param(["--model.temperature=1"], marks=pytest.mark.slow),
        ["--data.mixing.kind=none"],
        ["--data.mixing.kind=mosaic"],
        ["--model.compile_args={backend: inductor}"],
    ],
    ids=lambda options: options[0],
)
def test_any_trainer_and_any_mixing(options):
    exact, content = audit("ConfusedTeacher"), audit("ConfusedTeacher", *options)
    for name in ("violated", "tau", "moved_mass/logits/T1"):
        for mixing in ("clean", "both"):
            expected = values_of(exact, mixing)[name]
            assert values_of(content, mixing)[name] == pytest.approx(expected, abs=0.04 if "bf16" in options[0] else 0)
    kind = {"none": "clean", "mosaic": "mosaic"}.get(options[0].rpartition("=")[2], "cutmix")
    assert content["configured"]["mixing"] == kind
    assert values_of(content, kind)


def test_teacher_from_any_kind_of_weight_file():
    fit = [f"--trainer.{option}" for option in ("max_epochs=1", "limit_train_batches=2", "limit_val_batches=2")]
    quiet = ["--trainer.enable_progress_bar=false", "--data.image_size=8"]
    teacher = ["--config", str(CONFIGS / "digits" / "teacher.yaml"), "--model.model=test_resnet"]
    main(["fit", *teacher, *quiet, *fit, "--trainer.log_every_n_steps=1"])
    found = []
    for file in ("teacher.safetensors", "teacher/best.ckpt"):
        main(
            [
                *("audit", "--config", str(CONFIGS / "digits" / "ida_cutmix.yaml"), *quiet, "--batches=2"),
                *("--model.teacher=test_resnet", f"--model.teacher_checkpoint=outputs/digits/{file}"),
            ]
        )
        found.append(json.loads((OUT / "audit.json").read_text()))
    assert found[0]["measurements"] == found[1]["measurements"]
    assert found[0]["teacher"]["fingerprint"] == found[1]["teacher"]["fingerprint"]


def test_rows_without_an_answer_are_left_out_and_counted(capsys):
    content = audit("BrokenTeacher")
    left_out = content["data"]["nonfinite_rows"]
    assert left_out["clean"] == 0 < left_out["cutmix"]
    values = [each for each in content["measurements"] if each["mixing"] == "cutmix" and each["bin"] == "all"]
    assert {each["rows"] for each in values} == {192 - left_out["cutmix"]}
    assert f"Left out: {left_out['cutmix']}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("teacher", "more", "complaint"),
    [
        ("RightTeacher", ["--model.teacher=test_resnet"], "teacher_checkpoint: expected a weight file"),
        ("RightTeacher", ["--batches=0"], "batches: expected at least 1, got 0"),
        ("ExplodedTeacher", [], "teacher: expected finite logits, got NaN or infinity in all 192 clean images"),
        ("RightTeacher", ["--model.teacher_checkpoint=no.ckpt"], "teacher_checkpoint: expected a weight file, found"),
    ],
)
def test_mistakes_are_one_line(teacher, more, complaint, capsys):
    Path("config.yaml").write_text(CONFIG % (teacher, "cutmix"))
    assert complaint in complaint_of(["audit", "--config", "config.yaml", *more], capsys)
    assert not OUT.exists()


def test_missing_teacher_and_a_config_without_one_say_so(capsys):
    line = complaint_of(["audit", "--config", str(CONFIGS / "digits" / "ida_cutmix.yaml")], capsys)
    assert line.endswith(f"train the teacher first: ida-lightning fit --config {CONFIGS / 'digits' / 'teacher.yaml'}")
    line = complaint_of(["audit", "--config", str(CONFIGS / "digits" / "student.yaml")], capsys)
    assert "model: expected a DistillationModule, got ClassificationModule" in line


def test_chance_is_told_from_skill_with_few_classes():
    assert [least_accuracy(classes) for classes in (2, 10, 100)] == [0.75, 0.2, 0.02]
    assert torch.tensor([least_accuracy(classes) for classes in range(2, 50)]).max() < 1


def test_stored_answers_stand_in_for_the_teacher_where_they_fit(monkeypatch, capsys):
    asked = []
    forward = ConfusedTeacher.forward
    monkeypatch.setattr(
        ConfusedTeacher, "forward", lambda self, images: (asked.append(len(images)), forward(self, images))[1]
    )
    live = audit("ConfusedTeacher", "--batches=3")
    counted = len(asked)
    main(["teach", "--config", "config.yaml", "--epochs=1", "--model.teacher_outputs.folder=answers"])
    asked.clear()
    stored = audit("ConfusedTeacher", "--batches=3", "--model.teacher_outputs.folder=answers")
    assert len(asked) == counted - 3, "the three CutMix batches are those of the run"
    assert stored["measurements"] == live["measurements"]
    asked.clear()
    other = audit("ConfusedTeacher", "--batches=3", "--model.teacher_outputs.folder=answers", "--data.seed=5")
    assert len(asked) == counted, "other pictures"
    assert other["measurements"] != live["measurements"]
