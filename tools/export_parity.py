"""Export three networks with both stems to ONNX and torch.export, and write how far their answers are apart.

``python -m tools.export_parity`` trains each network for a few epochs on the digits that scikit-learn ships, runs
``ida-lightning export`` on it, and puts the table into ``docs/export.md``. Nothing is fetched.
"""

from __future__ import annotations

import json
import platform
import sys
import tempfile
from itertools import product
from pathlib import Path

import yaml  # type: ignore[import-untyped]

from ida_lightning.__main__ import main as command
from ida_lightning.studies.console import print_line
from ida_lightning.studies.export.formats import FORMATS
from ida_lightning.studies.tables import markdown_table

PAGE = Path(__file__).parents[1] / "docs" / "export.md"
_BEGIN, _END = "<!-- parity: begin -->", "<!-- parity: end -->"
_NETWORKS = ("resnet18", "mobilenetv3_small_050", "regnetx_002")
_COLUMNS = ("network", "stem", "to", "normalises", "largest difference", "of logits up to", "agreement", "accuracy")
_QUIET = {"enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu", "logger": False}


def train(network: str, stem: str, folder: Path, epochs: int) -> Path:
    """Train a network on digits; returns the config of the fit, which exports ``net.safetensors`` beside it."""
    export = {"class_path": "ExportCallback", "init_args": {"path": str(folder / "net.safetensors")}}
    arguments = {"model": network, "model_args": {"stem": stem}}
    config = {
        "trainer": {**_QUIET, "max_epochs": epochs, "enable_checkpointing": False, "callbacks": [export]},
        "model": {"class_path": "ClassificationModule", "init_args": arguments},
        "data": {"class_path": "DigitsDataModule"},
    }
    path = folder / "fit.yaml"
    path.write_text(yaml.safe_dump(config))
    command(["fit", "--config", str(path)])
    return path


def compare(network: str, stem: str, epochs: int) -> list[list[str]]:
    """Return the lines of the table for one network."""
    lines = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        config = train(network, stem, folder, epochs)
        for to, normalises in (("onnx", "outside"), ("onnx", "inside"), ("torch_export", "outside")):
            given = [f"--checkpoint={folder / 'net.safetensors'}", f"--to={to}", f"--out={folder / 'out'}"]
            command(["export", *given, f"--config={config}", f"--preprocess={normalises}", "--images=1000"])
            report = json.loads((folder / "out" / FORMATS[to].report).read_text())
            figures, versions = report["parity"], report["versions"]
            lines.append(
                [
                    *(network, stem, f"{to} {versions['onnx' if to == 'onnx' else 'torch']}", normalises),
                    *(f"{figures['largest_difference']:.1e}", f"{figures['largest_logit']:.1f}"),
                    f"{figures['agreement']:.2%}",
                    f"{figures['exported_accuracy']:.2%} (PyTorch {figures['accuracy']:.2%})",
                ]
            )
            print_line(" ".join(lines[-1]))
    return lines


def main(epochs: int = 3) -> None:
    """Write the table into the page."""
    pairs = product(_NETWORKS, ("standard", "small"))
    lines = [line for network, stem in pairs for line in compare(network, stem, epochs)]
    machine = f"Digits, test images, {epochs} epochs of training; Python {platform.python_version()}, one CPU."
    text = "\n".join([_BEGIN, machine, "", *markdown_table(_COLUMNS, lines), _END])
    before, _, rest = PAGE.read_text().partition(_BEGIN)
    PAGE.write_text(before + text + rest.partition(_END)[2])
    print_line(text)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]))
