"""What the README shows works as shown."""

import re
from pathlib import Path

import pytest
import torch
import yaml

from ida_lightning import violated_rows
from ida_lightning.__main__ import main

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


def test_python_example_runs_and_repairs():
    (example,) = blocks("python")
    names = {}
    exec(example, names)
    raw = (names["teacher_logits"] / 4.5).softmax(1)
    assert violated_rows(raw, names["mix"]).any()
    assert not violated_rows(names["soft_labels"], names["mix"]).any()
    torch.testing.assert_close(names["soft_labels"].sum(1), torch.ones(128))


def test_yaml_example_goes_on_top_of_a_shipped_config(capsys):
    (example,) = blocks("yaml")
    assert example.count("\n") == 6
    Path("more.yaml").write_text(example)
    config = str(ROOT / "configs" / "digits" / "kd_cutmix.yaml")
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--config", config, "--config", "more.yaml", "--print_config"])
    assert stop.value.code == 0
    merged = yaml.safe_load(capsys.readouterr().out)
    (callback,) = merged["trainer"]["callbacks"]
    assert callback["class_path"].endswith("TruthBlendCallback")
    assert callback["init_args"] == {"share": 0.1, "rows": "all", "name": None}


def test_readme_is_short_and_in_order():
    assert len(README.split()) <= 900
    headings = re.findall(r"^## (.+)$", README, re.MULTILINE)
    assert headings == ["What helps, and what does not", "In your own loop", "In a config", "Commands", "Links"]
    picture, commands = README.index("!["), README.index("```sh")
    assert picture < commands < README.index("## What helps")
    (example,) = blocks("python")
    assert len(example.strip().splitlines()) <= 10


def test_links_of_the_readme_work_outside_the_repository():
    urls = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    pages, pictures = (
        f"{urls['repo_url']}/blob/main/",
        urls["repo_url"].replace("github.com", "raw.githubusercontent.com"),
    )
    links = re.findall(r"\]\((.+?)\)", README)
    assert len(links) > 15
    for link in links:
        assert link.startswith("https://"), link
        for prefix in (pages, f"{pictures}/main/"):
            if link.startswith(prefix):
                assert (ROOT / link.removeprefix(prefix)).is_file(), link
    metadata = (ROOT / "pyproject.toml").read_text()
    assert f'"{urls["repo_url"]}"' in metadata
    assert f'"{urls["site_url"]}"' in metadata


DESIGN = sorted((ROOT / "docs" / "design").glob("*.md"))
GUARANTEES = ROOT / "docs" / "guarantees.md"
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


def anchors_of(page):
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_and_headings_that_are_named_exist(page):
    text = page.read_text()
    for name in re.findall(r"configs/\S+?\.yaml", text):
        assert (ROOT / name).is_file(), name
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    for link in re.findall(r"\]\((?!http)(.+?)\)", prose):
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        assert target.is_file(), link
        assert not anchor or anchor in anchors_of(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_make_targets_that_are_named_exist(page):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"(?:`|^)make ([a-z-]+)", page.read_text(), re.MULTILINE)) <= targets


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", GUARANTEES, *DESIGN], ids=lambda page: str(page.relative_to(ROOT))
)
def test_code_and_tests_that_are_named_exist(page):
    text = page.read_text()
    for name in re.findall(r"`(src/\S+?)`", text):
        assert (ROOT / name).is_file(), name
    for file, test in re.findall(r"`(tests/\S+?)::(\w+)`", text):
        assert f"def {test}(" in (ROOT / file).read_text(), f"{file}::{test}"


def test_guarantees_name_their_tests():
    assert len(re.findall(r"`tests/\S+?::test_\w+`", GUARANTEES.read_text())) >= 10


@pytest.mark.parametrize("page", [page for page in DESIGN if page.name != "README.md"], ids=lambda page: page.name)
def test_every_design_page_answers_the_same_questions(page):
    text = page.read_text()
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == ["Decision", "Why", "What would break", "Where", "Held by"]
    assert f"({page.name})" in (page.parent / "README.md").read_text()
    assert re.search(r"`tests/\S+?::test_\w+`", text)
