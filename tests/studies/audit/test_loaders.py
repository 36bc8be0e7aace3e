"""Audits from Python: any loader, any teacher, and what is said about methods that are not measured."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from ida_lightning import (
    AddedTermCallback,
    DataSelectionCallback,
    InputError,
    IsotonicSoftLabelCallback,
    LabelRevisionCallback,
    Mixing,
    OrderPenaltyCallback,
    TruthBlendCallback,
    ValueExchangeCallback,
    audit_teacher,
)
from ida_lightning.__main__ import main
from ida_lightning.studies.audit.verdict import judge
from tests.helpers.audits import CONFIG
from tests.helpers.colours import ColoursDataModule, ConfusedTeacher, RightTeacher

pytestmark = pytest.mark.filterwarnings("ignore:GPU available but not used")


def batches(count=4, rows=24):
    data = ColoursDataModule(batch_size=rows)
    data.setup("fit")
    images, labels = data.splits["train"].images[: count * rows] / 255, data.splits["train"].labels[: count * rows]
    return list(zip(images.split(rows), labels.split(rows), strict=True))


def test_any_loader_and_teacher_are_audited(capsys):
    teacher = ConfusedTeacher().train()
    report, verdict = audit_teacher(teacher, batches(), temperature=2.0)
    assert teacher.training
    assert all(parameter.requires_grad for parameter in teacher.parameters())
    assert report.value("cutmix", "violated") > 0.1
    assert report.rows("clean") == 96
    assert verdict.headline in capsys.readouterr().out
    written = json.loads(Path("outputs/audit/audit.json").read_text())
    assert written["teacher"]["network"] == "ConfusedTeacher"
    function, _ = audit_teacher(lambda images: teacher(images), batches(), temperature=2.0)
    assert function.measurements == report.measurements


def test_a_right_teacher_needs_no_correction():
    report, verdict = audit_teacher(RightTeacher(), batches(), mixing=Mixing("mixup"))
    assert report.value("mixup", "violated") == 0
    assert verdict.code == "own_answers"


def test_guessing_never_misses_where_images_hold_all_classes():
    report, _ = audit_teacher(RightTeacher(), batches(), mixing=Mixing("mixup"))
    kept = [m for m in report.measurements if not m.metric.startswith("missed")]
    none = [m._replace(value=0.0) for m in report.measurements if m.metric.startswith("missed")]
    verdict = judge(replace(report, measurements=kept + none))  # two classes, both in every image
    assert (verdict.truth["share"], verdict.code) == (0, "own_answers")


def test_a_stream_is_read_as_far_as_asked():
    report, _ = audit_teacher(ConfusedTeacher(), iter(batches()), batches=3)
    assert report.rows("clean") == 72
    same, _ = audit_teacher(ConfusedTeacher(), batches(3))
    assert same.measurements == report.measurements


@pytest.mark.parametrize(
    ("loader", "options", "complaint"),
    [
        (lambda: [], {}, "loader: expected batches, got none"),
        (lambda: iter(batches()), {}, "batches: expected a number for a loader that does not know its length"),
        (lambda: iter(batches(2)), {"batches": 3}, "loader: expected 3 batches, got 2"),
        (lambda: batches(), {"batches": 0}, "batches: expected at least 1, got 0"),
        (
            lambda: [(torch.rand(2, 6, 8, 8), torch.full((2, 6), 1 / 6))],
            {},
            "loader: expected images that are not mixed",
        ),
        (lambda: [torch.rand(2, 6, 8, 8)], {}, "batch: expected a MixedBatch, "),
    ],
    ids=["empty", "no length", "too short", "none asked", "mixed", "no labels"],
)
def test_loaders_that_cannot_be_audited_are_refused(loader, options, complaint):
    with pytest.raises(InputError, match=complaint):
        audit_teacher(ConfusedTeacher(), loader(), **options)


class NamedPixels(torch.utils.data.TensorDataset):
    classes = ("cold", "warm")

    def __init__(self):
        super().__init__(torch.rand(8, 1, 4, 4), torch.arange(8) % 2)


@pytest.mark.parametrize(("width", "complaint"), [(2, None), (3, "teacher: expected the loader's 2 classes, got 3")])
def test_class_names_are_those_of_the_loader(width, complaint):
    loader = torch.utils.data.DataLoader(NamedPixels(), batch_size=4)
    teacher = nn.Sequential(nn.Flatten(), nn.Linear(16, width))
    if complaint is None:
        report, _ = audit_teacher(teacher, loader)
        assert report.worst_pairs["mixup"].pairs == 1
        return
    with pytest.raises(InputError, match=complaint):
        audit_teacher(teacher, loader)


def test_methods_that_are_not_measured_are_said(capsys):
    methods = [
        IsotonicSoftLabelCallback(margin=0.5),
        AddedTermCallback(IsotonicSoftLabelCallback(), name="added"),
        LabelRevisionCallback(),
        TruthBlendCallback(),
        OrderPenaltyCallback(),
        ValueExchangeCallback(name="exchange"),
        DataSelectionCallback("random"),
    ]
    report, _ = audit_teacher(ConfusedTeacher(), batches(), methods)
    expected = [
        "the margin of IsotonicSoftLabelCallback",
        "AddedTermCallback 'added'",
        "TruthBlendCallback",
        "OrderPenaltyCallback",
        "ValueExchangeCallback 'exchange'",
        "DataSelectionCallback",
    ]
    assert report.facts["not_measured"] == expected
    assert f"Not measured, though configured: {', '.join(expected)}" in capsys.readouterr().out
    assert "Not measured, though configured: the margin" in Path("outputs/audit/audit.html").read_text()


def test_the_command_says_what_it_did_not_measure(capsys):
    Path("config.yaml").write_text(CONFIG % ("ConfusedTeacher", "cutmix"))
    main(["audit", "--config", "config.yaml", "--trainer.callbacks+=TruthBlendCallback"])
    assert "Not measured, though configured: TruthBlendCallback" in capsys.readouterr().out
    main(["audit", "--config", "config.yaml"])
    assert "Not measured" not in capsys.readouterr().out
