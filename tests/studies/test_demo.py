"""The main job, with shortened training."""

from pathlib import Path

import matplotlib.image
import pytest
import torch

from ida_lightning import LabelMix
from ida_lightning.plots import plot_corrections
from ida_lightning.studies import demo

pytestmark = pytest.mark.filterwarnings(
    "ignore:teacher. .* is close to chance",  # two batches make no teacher
    "ignore:Checkpoint directory .* exists and is not empty",  # the second run of the demo
)


def test_demo_writes_a_table_and_a_picture_and_can_rerun(capsys):
    short = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--trainer.log_every_n_steps=1"]
    # What an interrupted earlier run may have left.
    Path("outputs/digits").mkdir(parents=True)
    Path("outputs/digits/.unfinished-1-teacher.safetensors").write_bytes(b"half")
    demo.main(short)
    printed = capsys.readouterr().out
    table = Path("outputs/demo/table.md").read_text()
    assert table.strip() in printed
    rows = {
        cells[1].strip(): [cell.strip() for cell in cells]
        for line in table.splitlines()
        if len(cells := line.split("|")) > 2
    }
    assert list(rows)[2:] == ["teacher", "student alone", "student, KD", "student, KD-i"]
    before, after = (float(cell.rstrip("%")) for cell in rows["student, KD"][5:7])
    assert before == after > 0
    assert float(rows["student, KD-i"][6].rstrip("%")) == 0
    picture = matplotlib.image.imread("outputs/demo/corrections.png")
    assert picture.shape[1] > 1000
    assert picture[..., :3].std() > 0.1
    first = Path("outputs/demo/corrections.png").read_bytes()
    Path("outputs/demo/corrections.png").unlink()
    demo.main(short)
    assert Path("outputs/demo/corrections.png").read_bytes() == first, "same seed, same picture"


def test_shipped_configs_are_found(configs):
    assert demo.config_folder() == configs


def test_picture_shows_all_three_labels_of_every_class():
    soft_labels = torch.tensor([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1]])
    corrected = torch.tensor([[1 / 3, 1 / 3, 1 / 3], [0.6, 0.3, 0.1]])
    mix = LabelMix.pair(torch.tensor([0, 1]), torch.tensor([1, 1]), 0.75)
    figure = plot_corrections(torch.rand(2, 3, 8, 8), mix, soft_labels, corrected, ["ant", "bee", "cat"], "title")
    first, second = figure.axes[2:]
    assert figure.axes[0].get_title() == "0.75 × “ant” + 0.25 × “bee”"
    assert figure.axes[1].get_title() == "1.00 × “bee”"
    heights = [bar.get_height() for bar in first.patches]
    assert heights == pytest.approx([0.75, 0.25, 0, 0.2, 0.3, 0.5, 1 / 3, 1 / 3, 1 / 3])
    assert [label.get_text() for label in second.get_xticklabels()] == ["ant", "bee", "cat"]
