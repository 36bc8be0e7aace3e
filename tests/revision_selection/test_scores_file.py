import json

import pytest
import torch
from safetensors.torch import save_file

from ida_lightning import InputError, trusted_rows
from ida_lightning.revision_selection.selection import read_scores, write_scores

ABOUT = {"score": "random", "seed": 0}


def test_scores_come_back_as_written(tmp_path):
    scores = torch.tensor([0.5, -torch.inf, -1.0])
    write_scores(tmp_path / "s.safetensors", ABOUT, scores)
    assert torch.equal(read_scores(tmp_path / "s.safetensors", ABOUT, 3), scores)


@pytest.mark.parametrize(
    "scores",
    [
        torch.tensor([0.5, torch.nan, 1.0]),
        torch.tensor([0.5, torch.inf, 1.0]),
        torch.tensor([1, 2, 3]),
        torch.tensor([True, False, True]),
        torch.tensor([0.5, 1.0]),
    ],
    ids=["nan", "inf", "int64", "bool", "short"],
)
def test_scores_that_cannot_be_right_are_computed_again(scores, tmp_path):
    save_file({"scores": scores}, tmp_path / "s.safetensors", {"about": json.dumps(ABOUT)})
    assert read_scores(tmp_path / "s.safetensors", ABOUT, 3) is None


def test_nan_scores_trust_nobody():
    with pytest.raises(InputError, match="scores: expected numbers, got NaN"):
        trusted_rows(torch.tensor([0.5, torch.nan]), 0.5)
