"""timm's distillation task in a plain loop, the outside reference of the evidence."""

import json
from pathlib import Path

import pytest
import torch
from tools import timm_task

from tests.helpers.command_line import CONFIGS, fit, metrics_of

SHORT = ["--trainer.max_epochs=2", "--trainer.precision=32-true"]


@pytest.mark.filterwarnings("ignore:teacher. .* is close to chance")
def test_timm_trains_on_the_pictures_of_a_fit_config(monkeypatch):
    fit("digits/teacher")
    config = str(CONFIGS / "digits" / "kd_cutmix.yaml")
    weights = ["--temperature", "4.5", "--soft-weight", "0.95", "--hard-weight", "0.05"]
    monkeypatch.setattr("sys.argv", ["timm_task", config, *SHORT, *weights, "--out", "timm.jsonl"])
    timm_task.main()
    monkeypatch.setattr("sys.argv", ["timm_task", config, *SHORT, *weights, "--cycle", "1", "--out", "timm.jsonl"])
    timm_task.main()
    new, again = (json.loads(line) for line in Path("timm.jsonl").read_text().splitlines())
    fit("digits/kd_cutmix", *SHORT, "--trainer.limit_train_batches=1.0", "--trainer.limit_val_batches=1.0")
    assert new["val"] == pytest.approx(metrics_of(1)["student/val_acc"][-1], abs=0.03)  # one image
    assert new["changes"] == SHORT
    assert again["val"] != new["val"]


def test_a_remembering_teacher_is_asked_once():
    asked = []
    teacher = timm_task.Remembering(lambda images: asked.append(len(images)) or images.sum((1, 2, 3))[:, None])
    images = torch.rand(4, 1, 2, 2)
    for place in (None, None, (0, 0), (0, 1), (0, 0)):
        teacher.place = place
        teacher(images)
    assert asked == [4] * 4
