"""T. stddev of the paper's augmentations, against sums by hand over what the teacher was shown."""

import csv
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from ida_lightning import Mixing
from ida_lightning.__main__ import main
from ida_lightning.models import build_model
from ida_lightning.studies.audit.report import Measurement
from ida_lightning.studies.stddev import AUGMENTATIONS, agreement_with_paper, measure_stddev
from tests.helpers.audits import CONFIG, OUT, complaint_of, values_of
from tests.helpers.command_line import CONFIGS
from tests.helpers.data import BlobsDataModule
from tests.helpers.networks import TinyNet

SHOWN = ["identity", "flip", "crop_flip", "cutout", "randaugment", "mixup", "cutmix", "second"]
QUIET = ["--trainer.enable_progress_bar=false"]


class Recorder:
    """A network that remembers what it saw and said."""

    def __init__(self):
        self.network = TinyNet().eval()
        self.network[-1].weight.data *= 20  # an untrained one says of all images the same
        self.images, self.logits = [], []

    def __call__(self, images):
        with torch.no_grad():
            self.images.append(images)
            self.logits.append(self.network(images))
        return self.logits[-1]


@pytest.fixture(scope="module")
def measured():
    """Teacher, student, and what was found with and without the student; 21 batches, so one is in no vector."""
    torch.manual_seed(0)
    data = BlobsDataModule(batch_size=16, mixing=Mixing("none"), seed=3)
    data.setup("fit")
    teacher, student = Recorder(), Recorder()
    found = measure_stddev(data, 21, teacher, student, torch.device("cpu"))
    return teacher, student, found, measure_stddev(data, 21, teacher.network, None, torch.device("cpu"))


def softmax(logits):
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    return shifted / shifted.sum(1, keepdims=True)


def most_undecided(own, said):
    """Of the rows ``said``, the half in which ``own`` has the highest entropy."""
    probs = softmax(own)
    return said[np.argsort(-(probs * np.log(probs)).sum(1))[len(own) // 2 :]]


def test_it_is_the_deviation_of_means_over_five_steps(measured):
    teacher, student, found, _ = measured
    steps = [
        dict(zip(SHOWN, (each.double().numpy() for each in teacher.logits[8 * step : 8 * step + 8]), strict=True))
        for step in range(21)
    ]
    for step, own in zip(steps, student.logits, strict=True):
        pool = np.concatenate((step["cutmix"], step["second"]))
        step["cutmixpick_teacher"] = most_undecided(pool, pool)
        step["cutmixpick_student"] = most_undecided(own.double().numpy(), pool)
    assert [each.mixing for each in found] == list(AUGMENTATIONS)
    for name, _, metric, value, rows in found:
        vectors = [
            np.mean(
                [softmax(step[view]).mean(0) for step in steps[start : start + 5] for view in ("identity", name)], 0
            )
            for start in range(0, 20, 5)
        ]
        assert value == pytest.approx(np.std(vectors, axis=0, ddof=1).mean(), rel=1e-4), name
        assert (metric, rows) == ("t_stddev", 21 * 16)


def test_the_teacher_is_shown_what_the_names_say(measured):
    teacher, student, *_ = measured
    shown = dict(zip(SHOWN, teacher.images[:8], strict=True))
    clean = shown["identity"]
    flipped = [torch.equal(row, own.flip(2)) for row, own in zip(shown["flip"], clean, strict=True)]
    same = [torch.equal(row, own) for row, own in zip(shown["flip"], clean, strict=True)]
    assert all(one != other for one, other in zip(flipped, same, strict=True))
    assert 0 < sum(flipped) < 16
    covered = (shown["cutout"] != clean).any(1).sum((1, 2))
    assert 0 < covered.max() <= 4, "a square of a quarter of the side"
    for one, other in pairwise(SHOWN):
        assert not torch.equal(shown[one], shown[other])
    for name in ("cutmix", "second"):
        changed = (shown[name] != clean).any(1)
        boxes = [(rows.any(1), rows.any(0)) for rows in changed if rows.any()]
        assert all(torch.equal(box[0], boxes[0][0]) and torch.equal(box[1], boxes[0][1]) for box in boxes), (
            "one a batch"
        )
    assert torch.equal(student.images[0], torch.cat((shown["cutmix"], shown["second"])))


def test_a_student_changes_nothing_but_its_own_line(measured):
    *_, with_student, without = measured
    assert without == [each for each in with_student if each.mixing != "cutmixpick_student"]


def test_agreement_is_one_in_the_papers_order():
    values = dict(zip(AUGMENTATIONS, [5.0, 5.0, 4.0, 3.0, 2.0, 1.0, 0.5, 0.4, 0.3], strict=True))
    found = [Measurement(name, "all", "t_stddev", value, 1) for name, value in values.items()]
    assert agreement_with_paper(found) == pytest.approx(1)
    assert agreement_with_paper([each._replace(value=-each.value) for each in found]) == pytest.approx(-1)
    assert agreement_with_paper(found[2:]) == pytest.approx(1)


def weights_of(name, file):
    save_file(build_model(name, num_classes=10, in_channels=1).state_dict(), file)


def test_one_command_writes_it_to_all_files(capsys):
    for file in ("teacher.safetensors", "student.safetensors"):
        weights_of("test_resnet", file)
    common = [
        *("audit", "--config", str(CONFIGS / "digits" / "cutmixpick.yaml"), *QUIET, "--data.image_size=8"),
        *("--model.teacher=test_resnet", "--model.teacher_checkpoint=teacher.safetensors", "--batches=3"),
    ]
    main([*common, "--stddev_batches=10", "--student_checkpoint=student.safetensors"])
    content = json.loads((OUT / "audit.json").read_text())
    found = {name: values_of(content, name)["t_stddev"] for name in AUGMENTATIONS}
    assert all(value > 0 for value in found.values())
    with (OUT / "audit.csv").open() as file:
        lines = {row["mixing"]: float(row["value"]) for row in csv.DictReader(file) if row["metric"] == "t_stddev"}
    assert lines == found
    page, printed = (OUT / "audit.html").read_text(), capsys.readouterr().out
    for name, value in found.items():
        assert f"<td>{name}</td><td>{value:.5f}</td>" in page
        assert f"{name} {value:.5f}" in printed
    main([*common, "--data.pool=0"])
    without = json.loads((OUT / "audit.json").read_text())
    assert "T. stddev" not in (OUT / "audit.html").read_text() + capsys.readouterr().out
    others = [each for each in content["measurements"] if each["metric"] != "t_stddev"]
    assert without["measurements"] == others, "a pool makes no difference to the rest"


@pytest.mark.parametrize(
    ("more", "complaint"),
    [
        (["--stddev_batches=9"], "stddev_batches: expected at least 10, for two vectors, got 9"),
        (
            ["--student_checkpoint=s.pt", "--model.student=test_resnet"],
            "student_checkpoint: expected stddev_batches with it",
        ),
        (
            ["--stddev_batches=10", "--student_checkpoint=s.pt", "--model.student=test_resnet"],
            "student_checkpoint: expected a weight file, found nothing at s.pt",
        ),
    ],
)
def test_mistakes_are_one_line(more, complaint, capsys):
    Path("config.yaml").write_text(CONFIG % ("RightTeacher", "cutmix"))
    assert complaint in complaint_of(["audit", "--config", "config.yaml", *more], capsys)
    assert not OUT.exists()


def test_images_of_many_channels_have_no_randaugment():
    Path("config.yaml").write_text(CONFIG % ("ConfusedTeacher", "cutmix"))
    main(["audit", "--config", "config.yaml", "--stddev_batches=10"])
    content = json.loads((OUT / "audit.json").read_text())
    found = [each["mixing"] for each in content["measurements"] if each["metric"] == "t_stddev"]
    assert found == [name for name in AUGMENTATIONS if name not in ("randaugment", "cutmixpick_student")]
