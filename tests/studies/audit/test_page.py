"""What the audit's page shows first, and how a browser shows it."""

import html
import json
import re
import shutil
import subprocess

import pytest
import torch

from ida_lightning import LabelMix, MixedBatch, correct_soft_labels, violated_rows
from ida_lightning.studies.audit.examples import MostChanged
from tests.helpers.audits import OUT, audit, values_of
from tests.helpers.colours import ColoursDataModule

CHROMIUM = shutil.which("chromium")


def test_the_page_opens_with_the_most_changed_images():
    content = audit("ConfusedTeacher")
    page = (OUT / "audit.html").read_text()
    shown, verdict, figures, fold = (
        page.index(text) for text in ('<img alt="0.', 'class="verdict"', '<img alt="violations', "<details>")
    )
    assert shown < verdict < figures < fold < page.index("<table>"), "tables are folded"
    described = html.unescape(re.search(r'<img alt="(0\.[^"]+)"', page)[1]).split("; ")
    moved = [float(re.search(r", (\S+) % moved$", text)[1]) for text in described]
    assert len(moved) == 6
    assert moved == sorted(moved, reverse=True)
    values = values_of(content, "cutmix")
    assert moved[-1] > 100 * values["moved_mass/probabilities/T2"], "more than the mean"
    names = "|".join(map(re.escape, ColoursDataModule.class_names))
    assert all(re.match(rf"0\.\d\d ({names})( \+ 0\.\d\d ({names}))?, ", text) for text in described)


def test_the_examples_are_those_of_a_slow_computation():
    torch.manual_seed(3)
    look = MostChanged("cutmix", "probabilities", 2.0, list("abcde"), lambda images, rows, inner: images[rows] + 0.5)
    expected = []
    for batch in range(3):
        images = torch.full((16, 1, 2, 2), batch / 10) + torch.arange(16)[:, None, None, None] / 1000
        mix = LabelMix.pair(*torch.randint(5, (2, 16)), torch.rand(16))
        logits = 3 * torch.randn(16, 5)
        logits[0] = torch.nan
        mixed = MixedBatch(images, mix, torch.arange(16), torch.arange(16)[:, None])
        look("cutmix", mixed, logits)
        look("mixup", mixed._replace(inputs=images + 9), logits)
        before = (logits / 2).softmax(1)
        for row in range(1, 16):
            after = correct_soft_labels(before[row : row + 1], mix.select(torch.tensor([row])), 2.0, "probabilities")
            expected.append((float((after[0] - before[row]).abs().sum() / 2), float(images[row, 0, 0, 0]) + 0.5))
    expected.sort(reverse=True)
    assert look.examples.moved.tolist() == pytest.approx([mass for mass, _ in expected[:6]])
    assert look.examples.images[:, 0, 0, 0].tolist() == pytest.approx([pixel for _, pixel in expected[:6]])
    assert not violated_rows(look.examples.corrected, look.examples.label_mix).any()


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM, reason="needs the command chromium (Debian: apt-get install chromium)")
def test_a_browser_shows_the_page_whole(tmp_path):
    audit("ConfusedTeacher", "--stddev_batches=10")
    page = (OUT / "audit.html").read_text()
    look = """<script>addEventListener("load", () => {
      const seen = () => ({
        width: innerWidth, scroll: document.documentElement.scrollWidth,
        broken: [...document.images].filter(image => !image.complete || !image.naturalWidth).length});
      const folded = seen();
      document.querySelectorAll("details").forEach(part => part.open = true);
      document.body.textContent = JSON.stringify([document.images.length, folded, seen()]);
    })</script></body>"""
    (tmp_path / "looked.html").write_text(page.replace("</body>", look))
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--window-size=1200,900", "--virtual-time-budget=5000"]
    command = [CHROMIUM, *options, "--dump-dom", str(tmp_path / "looked.html")]
    dom = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    images, *views = json.loads(html.unescape(re.search(r"<body>(\[.*?\])</body>", dom, re.DOTALL)[1]))
    assert images == 2
    for view in views:
        assert view["width"] == 1200
        assert view["scroll"] <= 1200, "no horizontal scroll"
        assert view["broken"] == 0
