"""What users name is text wherever it is shown: in pictures, Markdown, CSV and HTML."""

import csv
import io

import pytest
import torch

from ida_lightning import LabelMix
from ida_lightning.plots import plain_text, plot_corrections, shortened
from ida_lightning.studies.tables import csv_table, markdown_table
from ida_lightning.texts import csv_text, markdown_text, printable

NAMES = ["$^$", "_under_", "a|b", "<img src=x>", "=cmd|' /C calc'!A0", "\udcff", "**bold**", r"\frac{$"]


def test_class_names_are_no_formulas_in_pictures(tmp_path):
    probs = torch.full((2, len(NAMES)), 1 / len(NAMES))
    mix = LabelMix.pair(torch.tensor([0, 7]), torch.tensor([1, 5]), 0.7)
    for others in (None, 3):
        figure = plot_corrections(torch.rand(2, 1, 8, 8), mix, probs, probs, NAMES, "$in$ x_1 $", others)
        figure.savefig(tmp_path / "picture.png")
    labels = [label.get_text() for label in figure.axes[2].get_xticklabels()]
    assert labels[:2] == ["$^$", "_under_"]
    assert plain_text(figure) is figure
    assert shortened("$" * 20, 14) == "$" * 13 + "…"


def test_markdown_cells_stay_in_their_column():
    lines = markdown_table(["name", "value"], [[name, "+0.1 [-0.1, 0.3] *"] for name in NAMES])
    assert all(line.replace(r"\|", "").count("|") == 3 for line in lines)
    assert len({len(line) for line in lines}) == 1
    assert "+0.1 [-0.1, 0.3] *" in lines[-1]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("kd_aug", "kd_aug"),
        ("_x_", r"\_x\_"),
        ("**b**", r"\*\*b\*\*"),
        ("<b>", r"\<b\>"),
        ("[a](http://b)", r"\[a](http://b)"),
        ("a\nb", "a b"),
        ("$x$ `c` ~d~", r"\$x\$ \`c\` \~d\~"),
    ],
)
def test_markup_is_escaped_and_nothing_else(text, shown):
    assert markdown_text(text) == shown


def test_csv_cells_are_no_formulas():
    rows = list(
        csv.reader(io.StringIO(csv_table([{"name": name, "value": -0.5} for name in ["=1+1", "@x", "-1.5", "a"]])))
    )
    assert rows[1:] == [["'=1+1", "-0.5"], ["'@x", "-0.5"], ["-1.5", "-0.5"], ["a", "-0.5"]]
    assert csv_text("+tab") == "'+tab"


def test_halves_of_surrogates_can_be_written(tmp_path):
    (tmp_path / "names.txt").write_text(printable("cat\udcff"), encoding="utf-8")
    assert printable("a\r\nb") == "a b"
