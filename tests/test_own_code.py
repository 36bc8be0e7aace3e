"""The blocks of docs/own_code.md, run in their order as one file."""

import math
import re
from pathlib import Path

import pytest
import torch

from ida_lightning import methods, violated_rows

TEXT = (Path(__file__).parents[1] / "docs" / "own_code.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
pytestmark = [
    pytest.mark.filterwarnings("ignore:Found .* module.s. in eval mode"),  # the teacher, as the page says
    pytest.mark.filterwarnings("ignore:.*`val_dataloader` but have no `validation_step`"),
]


@pytest.fixture
def names():
    """Return what the blocks up to a number leave behind; the trainers are quiet."""

    def run(count):
        namespace = {}
        for block in BLOCKS[:count]:
            exec(block.replace("logger=False,", "logger=False, enable_progress_bar=False,"), namespace)
        return namespace

    return run


def test_the_module_is_as_short_as_it_should_be():
    assert len([line for line in BLOCKS[0].splitlines() if line.strip()]) <= 16


def test_the_module_takes_every_method(names):
    metrics = names(2)["trainer"].callback_metrics
    assert metrics["train/violation_rate"] > 0.5
    assert metrics["train/violation_rate_corrected"] == 0


def test_the_methods_of_the_module_change_its_loss(names):
    space = names(2)
    batch = next(iter(space["trainer"].datamodule.train_dataloader()))
    space["trainer"].datamodule.trainer = None
    batch = space["trainer"].datamodule.on_after_batch_transfer(batch, 0)
    module = space["OwnDistillation"](space["teacher"], space["student"])

    def loss():
        return float(module.training_step(batch, 0).detach())

    before = loss()
    module.register_loss_term("one", lambda logits, supervision: torch.ones(len(logits)))
    assert loss() == pytest.approx(before + 1)
    module.register_loss_term("other", lambda logits, supervision: torch.zeros(len(logits)), replaces="kd_loss")
    assert loss() < before + 1 - 0.01


def test_the_loop_takes_every_method_as_a_function(names):
    space = names(3)

    def losses(*chosen):
        torch.manual_seed(0)
        return space["train"](space["network"](), space["teacher"], space["loader"], chosen)

    plain = losses()
    assert len(plain) == 9
    for name in space["METHODS"]:
        changed = losses(name)
        assert all(map(math.isfinite, changed))
        assert all(before != after for before, after in zip(plain, changed, strict=True)), name
    # Each callback that changes what is taught has its function there.
    functions = {
        "AddedTermCallback": "added term",
        **dict.fromkeys(["AttentionCallback", "CRDCallback", "HintCallback", "RKDCallback", "SimilarityCallback"]),
        "AuthorsIsotonicCallback": None,  # the released code's choices, for reproduction
        "CutMixPickCallback": "CutMixPick",
        "DataSelectionCallback": "data selection",
        "InnerMixingCallback": None,  # hooks in the networks
        "IsotonicSoftLabelCallback": "isotonic correction",
        "LabelRevisionCallback": "label revision",
        "OrderPenaltyCallback": None,  # a term: sigma
        "RevisionLossCallback": None,  # terms: named in the text
        "SmoothingControlCallback": None,  # an experiment's control
        "TeacherLabelCallback": "teacher labels",
        "TruthBlendCallback": "blend with the truth",
        "ValueExchangeCallback": "exchange of values",
    }
    assert functions.keys() == {name for name in methods.__all__ if name.endswith("Callback")}
    assert {name for name in functions.values() if name} <= space["METHODS"].keys()


def test_the_functions_do_what_their_names_say(names):
    space = names(3)
    seen = {}

    def keep(supervision):
        seen["last"] = supervision
        return supervision

    space["METHODS"]["keep"] = keep
    for name in ("isotonic correction", "correction with a margin", "exchange of values"):
        space["train"](space["network"](), space["teacher"], space["loader"], [name, "keep"])
        assert not violated_rows(seen["last"].soft_labels, seen["last"].label_mix).any(), name
    space["train"](space["network"](), space["teacher"], space["loader"], ["CutMixPick", "keep"])
    assert len(seen["last"].soft_labels) == 64 + 32
    space["train"](space["network"](), space["teacher"], space["loader"], ["data selection", "keep"])
    untrusted = ~space["trusted"][seen["last"].index]
    assert untrusted.any()
    assert torch.equal(seen["last"].soft_weight == 0, untrusted)


def test_the_own_correction_and_the_audit_run(names, capsys):
    space = names(5)
    assert 0 < space["trainer"].callback_metrics["train/OnlyShown/moved_mass"] < 1
    assert space["verdict"].code == "teacher_first"
    assert space["report"].facts["not_measured"] == ["OnlyShown"]
    assert "Not measured, though configured: OnlyShown" in capsys.readouterr().out
    assert Path("outputs/audit/audit.html").is_file()
