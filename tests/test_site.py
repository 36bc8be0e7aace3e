"""The site: every page is reachable, every public name documented, and what pages show works as shown."""

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

import ida_lightning
from ida_lightning import LossMethod, Mixing, Supervision, SupervisionMethod, as_mixed_batch, methods, mix_batch
from ida_lightning.__main__ import main

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
SITE = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
METHOD_PAGES = sorted(page for page in (DOCS / "methods").glob("*.md") if page.name != "index.md")
HEADINGS = ["What it does", "When", "In YAML", "In your own loop", "What it did here", "Caveats"]


def blocks(page, language):
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(), re.DOTALL)


def pages_of(nav):
    for entry in nav:
        if isinstance(entry, str):
            yield entry
        else:
            for value in entry.values():
                yield from [value] if isinstance(value, str) else pages_of(value)


def test_every_page_is_in_the_navigation_once():
    pages = sorted(str(page.relative_to(DOCS)) for page in DOCS.rglob("*.md"))
    assert sorted(pages_of(SITE["nav"])) == pages, "nav of mkdocs.yml"


def test_every_public_name_has_one_entry_in_the_reference():
    stub = (ROOT / "src" / "ida_lightning" / "__init__.pyi").read_text()
    public = sorted(re.findall(r" as (\w+)", stub))
    pages = {page.name: page.read_text() for page in (DOCS / "api").glob("*.md")}
    entries = re.findall(r"^::: ida_lightning\.(\w+)$", "\n".join(pages.values()), re.MULTILINE)
    assert sorted(entries) == public, "::: ida_lightning.NAME in a page of docs/api/, and the name in its index.md"
    for page, text in pages.items():
        for name in re.findall(r"^::: ida_lightning\.(\w+)$", text, re.MULTILINE):
            (line,) = [line for line in pages["index.md"].splitlines() if f"[`{name}`][ida_lightning.{name}]" in line]
            assert f"({page})" in line, "the table of the reference names it beside its page"


def test_every_method_has_a_page():
    shown = "\n".join(page.read_text() for page in [*METHOD_PAGES, DOCS / "losses.md"] if page.is_file())
    for name in methods.__all__:
        kind = getattr(methods, name)
        if isinstance(kind, type) and issubclass(kind, (SupervisionMethod, LossMethod)) and name.endswith("Callback"):
            assert f"[`{name}`][ida_lightning.{name}]" in shown or f"`{name}`" in shown, name
    table = (DOCS / "methods" / "index.md").read_text()
    for page in METHOD_PAGES:
        assert f"]({page.name})" in table


@pytest.mark.parametrize("page", METHOD_PAGES, ids=lambda page: page.stem)
def test_a_method_page_answers_the_same_questions(page):
    text = page.read_text()
    assert re.findall(r"^## (.+)$", text, re.MULTILINE) == HEADINGS
    measured = text[text.index("## What it did here") : text.index("## Caveats")]
    assert re.search(r"\d|Not measured yet", measured)


def built(part):
    """Build what a callback's entry in YAML names; nested classes too."""
    if isinstance(part, str) and hasattr(ida_lightning, part):
        return getattr(ida_lightning, part)()
    if isinstance(part, dict) and "class_path" in part:
        arguments = {key: built(value) for key, value in part.get("init_args", {}).items()}
        return getattr(ida_lightning, part["class_path"])(**arguments)
    return part


def test_yaml_of_the_pages_names_what_there_is():
    count = 0
    for page in [*METHOD_PAGES, DOCS / "how_much_truth.md"]:
        for text in blocks(page, "yaml"):
            config = yaml.safe_load(text)
            callbacks = [built(entry) for entry in config["trainer"]["callbacks"]]
            assert callbacks
            assert all(isinstance(callback, methods.Method) for callback in callbacks), page.name
            for key, value in config.get("data", {}).get("init_args", {}).items():
                ida_lightning.DigitsDataModule(**{key: Mixing(**value) if key == "mixing" else value})
            count += 1
    assert count == len(METHOD_PAGES) + 1


@pytest.fixture
def names():
    """What the blocks of a method page are given: a Supervision of clean rows and their mixes, and student logits."""
    import numpy as np

    clean = as_mixed_batch((torch.rand(8, 3, 8, 8), torch.arange(8) % 5))._replace(index=torch.arange(8))
    mix = mix_batch(Mixing("cutmix").draw(8, (8, 8), np.random.default_rng(0)), clean)
    batch = ida_lightning.stack_pool(clean, [mix])
    return {
        "taught": Supervision.from_teacher(batch, 3 * torch.randn(16, 5), temperature=4.5),
        "student_logits": torch.randn(16, 5, requires_grad=True),
    }


@pytest.mark.parametrize("page", METHOD_PAGES, ids=lambda page: page.stem)
def test_code_of_a_method_page_runs(page, names):
    before = names["taught"]
    code = blocks(page, "python")
    assert code or "There is no function" in page.read_text()
    for block in code:
        exec(block, names)
    if "loss" in names:
        assert names["loss"].requires_grad
    elif code:
        after = names["taught"]
        same = len(after.soft_labels) == len(before.soft_labels) and all(
            torch.equal(getattr(before, field), getattr(after, field))
            for field in ("soft_labels", "soft_weight", "hard_weight")
        )
        assert not same, "what is taught changes"


@pytest.mark.filterwarnings("ignore:Found .* module.s. in eval mode")
@pytest.mark.filterwarnings("ignore:teacher. .* is close to chance")
@pytest.mark.filterwarnings("ignore:The number of training batches")
@pytest.mark.parametrize("page", ["kd_with_lightning", "fabric", "from_timm", "audit", "other_inputs"])
def test_code_of_a_recipe_runs(page):
    names = {}
    for block in blocks(DOCS / f"{page}.md", "python"):
        exec(block.replace("logger=False,", "logger=False, enable_progress_bar=False,"), names)
    if page == "kd_with_lightning":
        assert not [key for key in names["module"].state_dict() if "teacher" in key]
        assert names["trainer"].callback_metrics["train/violation_rate"] > 0.5
        plain = names["Distillation"](names["network"](64), names["network"](16))
        assert all(key.startswith("student.") for key in plain.state_dict())
        assert not plain.train()._teacher[0].training
    if page == "fabric":
        assert torch.isfinite(names["loss"])
    if page == "from_timm":
        torch.testing.assert_close(names["soft_labels"].sum(1), torch.ones(8))


def test_code_that_needs_other_packages_is_python():
    (block,) = blocks(DOCS / "optuna.md", "python")
    compile(block, "search.py", "exec")


@pytest.mark.parametrize("page", ["from_timm", "from_the_authors"])
def test_options_of_a_migration_exist(page, capsys):
    spans = re.findall(r"`([^`]+)`", (DOCS / f"{page}.md").read_text())
    options = [
        re.findall(r"--(?:model|data|trainer)\.[\w.+]+='[^']*'|--(?:model|data|trainer)\.\S+=\S+", s) for s in spans
    ]
    wanted = [option.replace("'", "") for found in options for option in found if "DIR" not in option]
    assert len(wanted) >= 5
    config = str(ROOT / "configs" / "digits" / "kd_cutmix.yaml")
    with pytest.raises(SystemExit) as stop:
        main(["fit", "--config", config, *wanted, "--print_config"])
    assert stop.value.code == 0, capsys.readouterr().err


def test_the_pictures_are_those_that_the_command_draws():
    tree = (ROOT / "tools" / "pictures.py").read_text()
    drawn = set(re.findall(r'^    "(\w+)": draw_', tree, re.MULTILINE))
    assert drawn == {file.stem for file in (DOCS / "images").iterdir()}
    shown = "\n".join(page.read_text() for page in DOCS.rglob("*.md"))
    assert {name for name in drawn if f"images/{name}.png" in shown} == drawn


@pytest.mark.slow
def test_the_pictures_can_be_drawn(tmp_path):
    from tools.pictures import main as draw

    draw(tmp_path)
    assert {file.name for file in tmp_path.iterdir()} == {file.name for file in (DOCS / "images").iterdir()}


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("zensical"), reason="pip install '.[docs]'")
@pytest.mark.parametrize(
    ("broken", "complaint"),
    [
        ("", None),
        ("[a](nowhere.md)", "nowhere.md"),
        ("[a](data.md#no-such-heading)", "anchor does not exist"),
        ("[a][ida_lightning.NoSuchName]", "NoSuchName"),
    ],
)
def test_the_site_is_built_strictly(tmp_path, broken, complaint):
    for name in ("docs", "src", "tools"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    with (tmp_path / "docs" / "faq.md").open("a") as file:
        file.write(f"\n{broken}\n")
    done = subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--strict"], cwd=tmp_path, capture_output=True, text=True
    )
    said = re.sub(r"\x1b\[[\d;]*m", "", done.stdout + done.stderr)
    assert (done.returncode == 0) == (complaint is None), said
    assert complaint is None or complaint in said
    if complaint is None:
        for page in (tmp_path / "site").rglob("*.html"):
            for source in re.findall(r'<img [^>]*src="(?!data:|http)([^"]+)"', page.read_text()):
                assert (page.parent / source).is_file(), f"{page}: {source}"
            assert not re.search(r":(?:class|func|meth):", page.read_text()), page
