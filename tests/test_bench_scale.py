"""The arithmetic behind docs/design/scale.md."""

from pathlib import Path

import pytest
from benchmarks import scale
from benchmarks.scale import Cost, Run

PAGE = Path(__file__).parents[1] / "docs" / "design" / "scale.md"


def test_a_network_counts_as_published():
    cost = scale.cost_of("resnet50", 1000)
    assert cost.parameters == 25_557_032
    assert cost.forward == pytest.approx(2 * 4.09e9, rel=0.01), "4.09 billion multiplications and additions"


def test_hours_bytes_and_traffic():
    assert scale.rate(Cost(10.0, 1), 20.0, 100.0) == 2, "three passes of ten and one of twenty"
    assert scale.hours(Run("", 7200, 10, 2), 2.0, 2) == 1
    assert scale.wire(100, 4, 2, 8) == 700
    imagenet = scale.RUNS[0]
    assert scale.stored(imagenet, "exact", None) == imagenet.images * (4000 + 8)
    assert scale.stored(imagenet, "half", 64) < scale.stored(imagenet, "half", None) / 7


@pytest.mark.slow
def test_the_page_has_what_the_program_prints():
    printed = list(scale.lines(62_233, 398, 989e12 * 0.35))
    page = PAGE.read_text()
    assert [line for line in printed if line.startswith("| ImageNet") and line not in page] == []
    assert all(line in page for line in printed if line.startswith("| vit"))
