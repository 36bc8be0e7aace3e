"""Classes of one's own on the command line: found in the working directory, or one line that says why not."""

import sys
from pathlib import Path

import pytest

from ida_lightning.cli import read_fit_config
from ida_lightning.cli.messages import importing_from_here
from ida_lightning.errors import InputError
from tests.helpers.command_line import CONFIGS, fit

OWN = """
from pathlib import Path
from lightning import Callback
class Note(Callback):
    def __init__(self, text: str) -> None:
        self.text = text
    def on_fit_start(self, trainer, pl_module):
        Path("note.txt").write_text(self.text)
"""


@pytest.fixture(autouse=True)
def _as_the_console_script(monkeypatch):
    """The working directory is not on the path, and modules of other tests are forgotten."""
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if folder not in ("", str(Path.cwd()))])
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.startswith("own_"):
            del sys.modules[name]


def test_a_class_beside_the_config_is_found(monkeypatch):
    Path("own_note.py").write_text(OWN)
    path = list(sys.path)
    fit("digits/student", "--trainer.callbacks+=own_note.Note", "--trainer.callbacks.text=hello")
    assert Path("note.txt").read_text() == "hello"
    assert sys.path == path


def test_nothing_is_added_that_is_there_or_forbidden(monkeypatch):
    here = str(Path.cwd())
    with importing_from_here():
        assert sys.path[0] == here
        with importing_from_here():
            assert sys.path.count(here) == 1
        assert sys.path[0] == here
    assert here not in sys.path


CASES = {
    "own_nowhere.Net": "cannot import 'own_nowhere.Net': found no module 'own_nowhere' in {here} or among what is "
    "installed; start from the folder that it is in, or set PYTHONPATH to that folder",
    "own_lacking.Net": "cannot import 'own_lacking.Net': it needs the module 'no_such_module', which is not installed",
    "own_other.Nett": "cannot import 'own_other.Nett': {here}/own_other.py has no 'Nett'; did you mean Net?",
}
FAILING = {
    "own_syntax.Net": "cannot import 'own_syntax.Net': SyntaxError: ",
    "own_failing.Net": "cannot import 'own_failing.Net': RuntimeError: out of luck ({here}/own_failing.py, line 1)",
}


@pytest.mark.parametrize(
    ("option", "key"),
    [
        ("trainer.callbacks+", "trainer.callbacks"),
        ("model", "model"),
        ("data", "data"),
        ("model.optimizer", "model.optimizer"),
        ("model.lr_scheduler", "model.lr_scheduler"),
        ("model.student.class_path", "model.student"),
    ],
)
@pytest.mark.parametrize("given", [*CASES, *FAILING])
def test_an_import_that_fails_is_one_line(option, key, given):
    Path("own_lacking.py").write_text("import no_such_module\nclass Net: ...")
    Path("own_other.py").write_text("class Net: ...")
    Path("own_syntax.py").write_text("class Net(")
    Path("own_failing.py").write_text("raise RuntimeError('out of luck')")
    expected = {**CASES, **FAILING}[given].format(here=Path.cwd())
    config = ["--config", str(CONFIGS / "digits" / "kd_cutmix.yaml")]
    with importing_from_here(), pytest.raises(InputError) as error:
        read_fit_config([*config, f"--{option}={given}"])
    line = str(error.value)
    assert "\n" not in line
    if given in CASES:
        assert line == f"{key}: {expected}"
    else:  # how much of the reason is left depends on where jsonargparse meets it
        assert line.startswith(f"{key.partition('.')[0]}")
        assert f"cannot import '{given}'" in line


@pytest.mark.parametrize(
    ("option", "line"),
    [
        ("model=own_other.Net", "model: expected a class of the kind LightningModule, got own_other.Net"),
        (
            "trainer.callbacks=own_other.Net",
            "trainer.callbacks: expected a class of the kind Callback, got own_other.Net",
        ),
        (
            "model.optimizer=own_other.Net",
            "model.optimizer: expected a class or function that gives an Optimizer, got own_other.Net",
        ),
    ],
)
def test_a_class_of_another_kind_is_one_line(option, line):
    Path("own_other.py").write_text("class Net: ...")
    with importing_from_here(), pytest.raises(InputError) as error:
        read_fit_config(["--config", str(CONFIGS / "digits" / "kd_cutmix.yaml"), f"--{option}"])
    assert str(error.value) == line
