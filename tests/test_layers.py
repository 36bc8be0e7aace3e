"""Data flows one way: which part of the package may import which."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "ida_lightning"
LAYERS = [
    {"addressing", "errors"},
    {"remote"},
    {"checks", "files", "inputs", "label_mix", "texts"},
    {"isotonic", "mixing", "losses"},
    {"supervision"},
    {"metrics", "models", "plots", "adapters", "augment"},
    {"blending", "picking", "revision_selection", "truth", "lightning_internals", "checkpoint_io", "locks", "trackers"},
    {"data_facts", "teacher_outputs"},
    {"data", "modules"},
    {"methods"},
    {"callbacks"},
    {"run_checks"},
    {"cli"},
    {"studies"},
    {"__main__"},
]
NUMERICS = (
    LAYERS[0]
    | LAYERS[1]
    | LAYERS[2]
    | LAYERS[3]
    | LAYERS[4]
    | {"metrics", "revision_selection", "picking", "truth", "blending"}
)


# What Lightning's documentation does not promise, as attributes, methods that are overridden and imports.
PRIVATE = {
    *("_active_loop", "_batches_that_stepped", "_data_connector", "_instantiator", "_logger_connector", "_results"),
    *("_LRCallback", "_combined_loader_states_to_load", "_data_fetcher", "_load_combined_loader_states"),
    *(
        "_enable_version_counter",
        "_given_hyperparameters",
        "_parse_ckpt_path",
        "_parser",
        "_rewrite_with_new_header",
        "_run_subcommand",
        "_trainer",
    ),
    *("batch_progress", "epoch_loop", "epoch_progress", "fit_loop", "validate_loop", "test_loop", "predict_loop"),
    *("batch_to_device", "convert_input", "convert_module", "forward_context", "precision_plugin"),
    *("Tqdm", "extract_batch_size", "is_enabled", "log_every_n_steps", "progress_bar_callback", "SIGTERMException"),
}


def part_of(file):
    relative = file.relative_to(SOURCE)
    return relative.parts[0].removesuffix(".py")


def imports_of(file):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            yield node.module


FILES = sorted(file for file in SOURCE.rglob("*.py") if file != SOURCE / "__init__.py")


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_imports_go_downwards_only(file):
    height = {part: level for level, parts in enumerate(LAYERS) for part in parts}
    own = part_of(file)
    for name in imports_of(file):
        if not name.startswith("ida_lightning"):
            continue
        other = name.split(".")[1]
        if other != own:
            assert height[other] < height[own], f"{own} imports {other}"


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_outside_packages_stay_where_they_belong(file):
    own, roots = part_of(file), {name.split(".")[0] for name in imports_of(file)}
    if own in NUMERICS:
        state = {"torchmetrics"} if own == "metrics" else set()  # its classes hold sums for it
        assert not roots & {"lightning", "torchmetrics", "timm", "torchvision", "matplotlib"} - state
    assert "wandb" not in roots
    if own not in ("cli", "__main__", "studies"):
        assert not any(name.startswith(("lightning.pytorch.cli", "jsonargparse")) for name in imports_of(file))


def names_in(tree):
    """Every attribute, imported name and function that is defined; ``trainer.training = ...`` as ``training=``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield node.attr
            if isinstance(node.ctx, ast.Store) and ast.unparse(node.value).endswith("trainer"):
                yield f"{node.attr}="
        elif isinstance(node, ast.ImportFrom):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.FunctionDef):
            yield node.name


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_private_names_of_lightning_are_in_one_file(file):
    relative = str(file.relative_to(SOURCE))
    used = PRIVATE.union({"training=", "validating=", "testing="}).intersection(names_in(ast.parse(file.read_text())))
    if relative == "lightning_internals.py":
        assert used
    else:
        assert not used, f"{relative}: {', '.join(sorted(used))}"


BENCHMARKS = sorted((SOURCE.parents[1] / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("file", [*FILES, *BENCHMARKS], ids=lambda file: str(file.relative_to(SOURCE.parents[1])))
def test_files_stay_readable_in_one_sitting(file):
    assert len(file.read_text().splitlines()) <= 300


def test_importing_the_package_loads_no_lightning():
    code = (
        "import sys, ida_lightning; print(*{'lightning', 'triton', 'wandb', 'timm', 'matplotlib'} & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_fast_tests_cover_the_numerics():
    makefile = (SOURCE.parents[1] / "Makefile").read_text()
    listed = re.search(r"^NUMERICS := \$\(addprefix src/ida_lightning/,((?:.*\\\n)*.*)\)$", makefile, re.MULTILINE)[1]
    assert {name.removesuffix(".py") for name in listed.split()} >= NUMERICS


def test_public_names():
    import ida_lightning

    for name in set(ida_lightning.__all__) - {"SupervisionHook", "__version__"}:  # a type alias, a text
        assert getattr(ida_lightning, name).__doc__, name
    assert {"DistillationModule", "IsotonicSoftLabelCallback", "MixingDataModule", "SupervisionMethod"} <= set(
        ida_lightning.__all__
    )


def test_the_stub_and_the_package_name_the_same():
    stub = ast.parse((SOURCE / "__init__.pyi").read_text())
    direct = ast.parse((SOURCE / "__init__.py").read_text())
    named, imported = (
        {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) for alias in node.names}
        for tree in (stub, direct)
    )
    assert imported <= named


def test_no_init_file_holds_code():
    for file in SOURCE.rglob("__init__.py"):
        kinds = {type(node).__name__ for node in ast.parse(file.read_text()).body}
        assert kinds <= {"Expr", "Import", "ImportFrom", "Assign"}, file
