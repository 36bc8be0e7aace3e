"""The main job on the embedded digits: teacher, student alone, distilled without and with correction.

``ida-lightning demo`` runs four shipped configs through the command line's own code, tests what came
out, and leaves a table and a picture in ``outputs/demo``. Further arguments go to every fit, for example
``--trainer.max_epochs=2``.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ida_lightning.cli import IDACLI, Parser
from ida_lightning.cli.help import COMMANDS
from ida_lightning.data import MixingDataModule
from ida_lightning.files import replacing
from ida_lightning.inputs import as_pictures
from ida_lightning.isotonic import correct_soft_labels
from ida_lightning.methods import IsotonicSoftLabelCallback
from ida_lightning.metrics import moved_mass, violated_rows
from ida_lightning.mixing import MixedBatch
from ida_lightning.modules import DistillationModule
from ida_lightning.plots import plot_corrections
from ida_lightning.studies.console import print_line, quiet
from ida_lightning.studies.tables import markdown_table

_OUT = Path("outputs/demo")
_JOBS = {
    "teacher": ("teacher", "hard labels, plain images"),
    "student": ("student alone", "hard labels, plain images"),
    "kd_cutmix": ("student, KD", "teacher on CutMix images"),
    "ida_cutmix": ("student, KD-i", "teacher on CutMix images, corrected"),
}
_SHOWN = 5


class Result(NamedTuple):
    """One line of the table; rates are None where no teacher taught."""

    name: str
    taught_by: str
    test_acc: float
    test_nll: float
    violation_rate: float | None
    violation_rate_corrected: float | None
    seconds: float


def config_folder() -> Path:
    """Return the folder of the shipped configs: inside the installed package, or at the root of the repository."""
    here = Path(__file__).resolve()
    packaged = here.parents[1] / "configs"
    return packaged if packaged.is_dir() else here.parents[3] / "configs"


def run_job(job: str, extra: list[str]) -> tuple[Result, IDACLI]:
    """Fit one shipped digits config, then test its network."""
    start = time.perf_counter()
    cli = IDACLI(["fit", "--config", str(config_folder() / "digits" / f"{job}.yaml"), *extra])
    cli.run()
    seconds = time.perf_counter() - start
    fitted = cli.trainer.callback_metrics
    rates = (fitted.get("train/violation_rate"), fitted.get("train/violation_rate_corrected"))
    (tested,) = cli.trainer.test(cli.model, cli.datamodule, verbose=False)
    owner = cli.model.owner
    violation_rate, corrected = (None if rate is None else float(rate) for rate in rates)
    accuracy, nll = (tested[f"{owner}/test_{name}"] for name in ("acc", "nll"))
    return Result(*_JOBS[job], accuracy, nll, violation_rate, corrected, seconds), cli


def table(results: list[Result], images: int) -> str:
    """Return the results as a Markdown table with what one may read out of it."""

    def percent(rate: float | None) -> str:
        return "" if rate is None else f"{rate:.1%}"

    columns = ["model", "taught by", "test accuracy", "test NLL", "violation rate, before", "after", "seconds"]
    rows = []
    for r in results:
        error = math.sqrt(r.test_acc * (1 - r.test_acc) / images)
        rates = (percent(r.violation_rate), percent(r.violation_rate_corrected))
        accuracy = f"{r.test_acc:.1%} ± {error:.1%}"
        rows.append([r.name, r.taught_by, accuracy, f"{r.test_nll:.3f}", *rates, f"{r.seconds:.0f}"])
    lines = [
        *markdown_table(columns, rows),
        "",
        "Violation rate: share of the last epoch's CutMix images whose soft label broke the order of the hard label.",
        f"One seed, {images} test images (± is one standard error): this shows that the method works as described,",
        "not that it makes students better. Differences in accuracy of a point or two here are noise.",
    ]
    return "\n".join(lines)


def draw_picture(data: MixingDataModule, module: DistillationModule, correction: IsotonicSoftLabelCallback) -> Path:
    """Save the most corrected images of one training batch as ``corrections.png``."""
    module.cpu()
    loaded: MixedBatch = next(iter(data.train_dataloader()))
    batch = data.mix(loaded, data.batch_generator(epoch=0, batch=0))
    soft_labels = (module.teacher(batch.inputs) / module.temperature).softmax(1)
    corrected = correct_soft_labels(
        soft_labels, batch.label_mix, module.temperature, correction.space, correction.solver
    )
    violations = int(violated_rows(soft_labels, batch.label_mix).sum())
    shown = moved_mass(soft_labels, corrected).topk(min(_SHOWN, len(soft_labels))).indices
    figure = plot_corrections(
        data.denormalise(as_pictures("data", batch.inputs)[shown]),
        batch.label_mix.select(shown),
        soft_labels[shown],
        corrected[shown],
        data.class_names,
        f"The {len(shown)} most corrected of one batch of {len(soft_labels)} CutMix images "
        f"({violations} break the order; T = {module.temperature:g}, {correction.space} space)",
    )
    path = _OUT / "corrections.png"
    with replacing(path) as unfinished:
        figure.savefig(unfinished, dpi=110)
    return path


def run_demo(args: Sequence[str]) -> None:
    """Run the demo from the command line.

    Args:
        args: after ``demo``: ``--help``, or what goes to every fit.
    """
    if any(arg in ("-h", "--help", "--help_all") for arg in args):
        Parser(prog="ida-lightning demo", description=COMMANDS["demo"]).print_help()
        return
    main(list(args))


@quiet()
def main(extra: list[str] | None = None) -> None:
    """Run the four jobs; print and save the table, save the picture."""
    if extra is None:
        extra = sys.argv[1:]
        sys.argv[1:] = []  # LightningCLI would take them for its own
    results = []
    for number, job in enumerate(_JOBS, start=1):
        print_line(f"\n[{number}/{len(_JOBS)}] {_JOBS[job][0]}: ida-lightning fit --config configs/digits/{job}.yaml")
        result, cli = run_job(job, extra)
        results.append(result)
    images = len(cli.datamodule.splits["test"])
    callbacks = cli.trainer.callbacks
    correction = next(c for c in callbacks if isinstance(c, IsotonicSoftLabelCallback))
    picture = draw_picture(cli.datamodule, cli.model, correction)
    text = table(results, images)
    with replacing(_OUT / "table.md") as unfinished:
        unfinished.write_text(text + "\n")
    print_line(f"\n{text}\n\nPicture: {picture}\nTable:   {_OUT / 'table.md'}")


if __name__ == "__main__":
    main()
