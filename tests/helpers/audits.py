"""A config for audits of small teachers, and readers of what an audit leaves."""

import json
from pathlib import Path

import pytest

from ida_lightning.__main__ import main

OUT = Path("outputs/audit")
CONFIG = """
trainer:
  accelerator: cpu
  enable_progress_bar: false
  callbacks: [{class_path: IsotonicSoftLabelCallback, init_args: {space: probabilities}}]
model:
  class_path: DistillationModule
  init_args:
    teacher: {class_path: tests.helpers.colours.%s}
    student: no_such_network
    temperature: 2.0
data:
  class_path: tests.helpers.colours.ColoursDataModule
  init_args: {batch_size: 16, mixing: {kind: %s}}
"""


def audit(teacher, *more, mixing="cutmix"):
    """Audit a teacher of the colours; everything that ``audit.json`` holds."""
    Path("config.yaml").write_text(CONFIG % (teacher, mixing))
    main(["audit", "--config", "config.yaml", *more])
    return json.loads((OUT / "audit.json").read_text())


def values_of(content, mixing, rows="all"):
    found = [each for each in content["measurements"] if (each["mixing"], each["bin"]) == (mixing, rows)]
    return {each["metric"]: each["value"] for each in found}


def complaint_of(args, capsys):
    with pytest.raises(SystemExit) as stop:
        main(args)
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    return line
