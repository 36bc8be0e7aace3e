"""The command ``ida-lightning export``: a network in the files of other programs, checked against itself."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from contextlib import nullcontext
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from ida_lightning.checks import require_extra
from ida_lightning.cli import Parser
from ida_lightning.cli.help import COMMANDS
from ida_lightning.errors import InputError, at_least, non_negative, one_of
from ida_lightning.files import replacing_set, writable_folder
from ida_lightning.locks import OutputLock
from ida_lightning.remote import is_address
from ida_lightning.studies.console import print_line, quiet
from ida_lightning.studies.export.formats import FORMATS, Network, require_packages
from ida_lightning.studies.export.parity import Parity, as_report, compare_answers
from ida_lightning.studies.export.source import Source, pictures_for, read_run, read_source
from ida_lightning.studies.export.texts import FILES as TEXT_FILES
from ida_lightning.studies.export.texts import TextSource
from ida_lightning.studies.network_file import add_network_arguments
from ida_lightning.studies.tables import render

_PACKAGES = ("ida-lightning", "torch", "timm", "onnx", "onnxscript", "onnxruntime", "transformers", "tokenizers")


def export_network(args: Sequence[str]) -> None:
    """Write a network in another format, run that on images, and compare the answers; all or nothing.

    Args:
        args: of the command line, after ``export``.

    Raises:
        InputError: for arguments and files that cannot be used, and where a logit differs by more than the tolerance.
    """
    options = read_options(args)
    to, pixels = one_of("to", options["to"], (*FORMATS, "transformers")), options["preprocess"] == "inside"
    tolerance, count = non_negative("tolerance", options["tolerance"]), at_least("images", options["images"], 1)
    if to == "transformers":
        _export_texts(options, tolerance, count)
        return
    kind = FORMATS[to]
    if pixels and not kind.takes_pixels:
        raise InputError(f"preprocess: expected outside for {to}, which holds weights and no program, got inside")
    require_packages(to)
    out = options["out"] if is_address(options["out"]) else writable_folder("out", options["out"])
    with quiet(), nullcontext() if is_address(out) else OutputLock("out", out):
        run = read_run(options["config"])
        source = read_source(options, run)
        pictures = pictures_for(source, run, count)
        network = Network(source, pixels).eval()
        with replacing_set(out, (kind.file, kind.report, *kind.others)) as folder:
            parity = compare_answers(network, kind.write(network, source, folder), pictures)
            _require_parity(parity, tolerance)
            report = {
                **{"parity": as_report(parity, tolerance), "preprocessing": _preprocessing(source, pixels)},
                **{"description": source.description.content(), "versions": _versions()},
            }
            (folder / kind.report).write_text(json.dumps(report, indent=1) + "\n")
            if to == "hub":
                (folder / "README.md").write_text(_card(source, parity, str(options["license"])))
    print_line(f"exported: {out}/{kind.file}\n{parity}\nreport: {out}/{kind.report}")


def _export_texts(options: dict[str, Any], tolerance: float, count: int) -> None:
    """Write the folder of transformers; see :func:`export_network`."""
    require_extra("to", "text", "transformers", "transformers")
    out = writable_folder("out", options["out"])
    with quiet(), OutputLock("out", out):
        source = TextSource(options, read_run(options["config"]))
        with replacing_set(out, (*TEXT_FILES, "parity.json")) as folder:
            source.write(folder)
            parity = source.compare(folder, count)
            _require_parity(parity, tolerance)
            facts = {"description": source.description.content(), "versions": _versions()}
            report = {"parity": as_report(parity, tolerance), **facts}
            (folder / "parity.json").write_text(json.dumps(report, indent=1) + "\n")
    print_line(f"exported: {out / TEXT_FILES[0]}\n{parity}\nreport: {out / 'parity.json'}")


def _require_parity(parity: Parity, tolerance: float) -> None:
    if not parity.largest_difference <= tolerance:
        raise InputError(
            f"tolerance: expected logits that differ by at most {tolerance:g}, got {parity}; nothing is written"
        )


def _preprocessing(source: Source, pixels: bool) -> dict[str, Any]:
    """Return what must be done to a picture before the file gets it."""
    said = source.description
    seen = said.image_input
    assert seen is not None
    steps = [
        f"resize the short side to {round(seen.size / (said.crop or 1.0))} pixels ({said.interpolation}, antialias), "
        f"take the {seen.size} x {seen.size} in the middle",
        "divide 8-bit values by 255",
    ]
    if not pixels:
        steps.append(f"subtract {list(seen.mean)} and divide by {list(seen.std)}, per channel")
    return {
        "input": f"images: float32 (batch, {len(seen.mean)}, {seen.size}, {seen.size}), any batch",
        "output": f"logits: float32 (batch, {said.num_classes})",
        "inside": ["normalise"] if pixels else [],
        "outside": steps,
    }


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _card(source: Source, parity: Parity, license_name: str) -> str:
    """Return the model card."""
    return render(
        Path(__file__).with_name("card.md.j2"),
        said=source.description,
        config=json.dumps(dict(source.description.recipe), indent=1, sort_keys=True),
        parity=parity,
        license=json.dumps(license_name),
        preprocessing=_preprocessing(source, False),
    )


def read_options(args: Sequence[str]) -> dict[str, Any]:
    """Read the arguments; see :func:`export_network`."""
    parser = Parser(prog="ida-lightning export", description=COMMANDS["export"])
    parser.add_argument("--checkpoint", type=str, required=True, help="a checkpoint, or an exported safetensors")
    parser.add_argument(
        "--to",
        type=Literal["safetensors", "onnx", "torch_export", "hub", "transformers"],
        required=True,
        help="format; transformers is for texts",
    )
    parser.add_argument("--out", type=str, required=True, help="the folder that gets the files")
    parser.add_argument("--config", type=str | None, default=None, help="of the fit, whose images check the export")
    parser.add_argument(
        "--preprocess",
        type=Literal["outside", "inside"],
        default="outside",
        help="whether onnx and torch_export normalise pixel values from 0 to 1 themselves",
    )
    parser.add_argument("--tolerance", type=float, default=1e-3, help="the largest difference of a logit that passes")
    parser.add_argument("--images", type=int, default=256, help="how many images check the export")
    parser.add_argument("--license", type=str, default="unknown", help="of the weights, for a hub card")
    add_network_arguments(parser)
    return dict(parser.parse_args(list(args)).as_dict())
