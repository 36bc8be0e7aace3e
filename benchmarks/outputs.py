"""What stored answers of a teacher take on the disk, and how far the small ones are from the teacher's own.

    python benchmarks/outputs.py --config configs/evidence/kd_cutmix.yaml
    python benchmarks/outputs.py --imagenette DIR --weights lite0.safetensors

The first takes teacher and pictures of a fit config. The second shows photographs of ten ImageNet classes, mixed, to an
ImageNet teacher (timm's tf_efficientnet_lite0; DIR holds train/ with a folder for each synset). Prints Markdown.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np
import timm
import torch
from safetensors.torch import load_file
from timm.data import ImageNetInfo
from torch import Tensor

from ida_lightning import LabelMix, Mixing, isotonic_soft_labels, kl_divergence, violated_rows
from ida_lightning.cli import IDACLI
from ida_lightning.data import ImageFolderDataModule, MixingDataModule
from ida_lightning.methods.isotonic import inexact_rows
from ida_lightning.mixing import MixedBatch
from ida_lightning.models import ImageInput
from ida_lightning.supervision import Supervision
from ida_lightning.teacher_outputs import Encoding

ENCODINGS = {
    "exact": ("exact", None),
    "half": ("half", None),
    "top 64": ("exact", 64),
    "top 64, half": ("half", 64),
    "top 16": ("exact", 16),
    "top 16, half": ("half", 16),
    "top 8, half": ("half", 8),
}
# Images of an epoch, classes, epochs.
RUNS = {
    "CIFAR-100": (50_000, 100, 200),
    "ImageNet-1k": (1_281_167, 1000, 300),
    "ImageNet-21k": (11_797_632, 10_450, 90),
}
Answered = tuple[Tensor, LabelMix]


def of_config(config: str, batches: int) -> tuple[float, Iterator[Answered]]:
    """Return the temperature of a fit config, and its teacher's logits of its first mixed batches."""
    cli = IDACLI(["fit", "--config", config, "--trainer.accelerator=cpu", "--trainer.logger=false"])
    data, module = cli.datamodule, cli.model
    data.setup("fit")
    module.teacher.prepare(list(data.class_names), ImageInput(tuple(data.mean), tuple(data.std), data.image_size))
    return module.temperature, ((module.teacher(batch.inputs), batch.label_mix) for batch in _mixed(data, batches))


def of_imagenet(folder: str, weights: str, batches: int) -> tuple[float, Iterator[Answered]]:
    """Return T = 4.5, and an ImageNet teacher's logits of CutMix images of a few classes."""
    data = ImageFolderDataModule(folder, 224, mean=(0.5,) * 3, std=(0.5,) * 3, batch_size=32, mixing=Mixing("cutmix"))
    data.setup("fit")
    network = timm.create_model("tf_efficientnet_lite0").eval()
    network.load_state_dict(load_file(weights))
    known = ImageNetInfo("imagenet-1k")
    number = {known.index_to_label_name(index): index for index in range(known.num_classes())}
    classes = torch.tensor([number[name] for name in data.class_names])

    def answered() -> Iterator[Answered]:
        for batch in _mixed(data, batches):
            with torch.inference_mode():
                logits = network(batch.inputs)
            yield logits.clone(), batch.label_mix._replace(labels=classes[batch.label_mix.labels])

    return 4.5, answered()


def _mixed(data: MixingDataModule, batches: int) -> Iterator[MixedBatch]:
    for number, plain in enumerate(islice(data.train_dataloader(), batches)):
        yield data.mix(plain, data.batch_generator(0, number))


def lines_of(temperature: float, answered: Sequence[Answered]) -> list[str]:
    """Return a line of a table for every encoding: size, distance of soft labels, order repairs that may differ."""
    classes = answered[0][0].shape[1]
    lines = [
        "| stored | bytes an image | KL at T, nats | same top class | repairs that may differ |",
        "|---|---|---|---|---|",
    ]
    for name, (precision, top_k) in ENCODINGS.items():
        if top_k is not None and top_k >= classes:
            continue
        encoding = Encoding(precision, top_k, temperature)
        size = np.dtype(encoding.fields(128, classes)).itemsize / 128
        kl, same, inexact, violated = (np.zeros(0) for _ in range(4))
        for logits, mix in answered:
            answers = encoding.decode(encoding.encode(logits, mix), len(logits), classes, mix)
            before, after = ((z / temperature).softmax(1) for z in (logits, answers.logits))
            kl = np.append(kl, kl_divergence(before.log(), after.log()).numpy())
            same = np.append(same, (logits.argmax(1) == answers.logits.argmax(1)).numpy())
            wrong = violated_rows(after, mix)
            violated = np.append(violated, wrong.numpy())
            if answers.kept_from is not None:
                ones = torch.ones(len(logits))
                supervision = Supervision(
                    logits, mix, ones.long(), answers.logits, after, ones, ones, temperature, None, answers.kept_from
                )
                rows = inexact_rows(supervision, isotonic_soft_labels(after, mix), wrong)
                inexact = np.append(inexact, rows.numpy())
        differ = f"{inexact.sum() / violated.sum():.1%}" if len(inexact) else "none"
        lines.append(f"| {name} | {size:,.0f} | {kl.mean():.2g} | {same.mean():.1%} | {differ} |")
    rows = sum(len(logits) for logits, _ in answered)
    return [
        *lines,
        "",
        f"{rows} mixed images, {classes} classes, T = {temperature:g}; {violated.mean():.0%} break their order",
    ]


def sizes() -> list[str]:
    """Return a table of what whole runs take, by arithmetic."""
    lines = [f"| a whole run | {' | '.join(ENCODINGS)} |", f"|---|{'---|' * len(ENCODINGS)}"]
    for name, (images, classes, epochs) in RUNS.items():
        cells = []
        for precision, top_k in ENCODINGS.values():
            size = np.dtype(Encoding(precision, top_k).fields(128, classes)).itemsize / 128 + 8  # and the position
            cells.append(f"{images * epochs * size / 1e9:,.0f} GB" if top_k is None or top_k < classes else "")
        lines.append(f"| {name}, {images:,} images, {classes} classes, {epochs} epochs | {' | '.join(cells)} |")
    return lines


def main(argv: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="Size and precision of stored answers.")
    parser.add_argument("--config", help="a fit config")
    parser.add_argument("--imagenette", help="an image folder whose classes are ImageNet synsets")
    parser.add_argument("--weights", help="of tf_efficientnet_lite0")
    parser.add_argument("--batches", type=int, default=16)
    options = parser.parse_args(argv)
    if (options.config is None) == (options.imagenette is None):
        parser.error("give --config, or --imagenette and --weights")
    if options.config is not None:
        temperature, answered = of_config(options.config, options.batches)
    else:
        temperature, answered = of_imagenet(options.imagenette, options.weights, options.batches)
    sys.stdout.write("\n".join([*lines_of(temperature, list(answered)), "", *sizes()]) + "\n")


if __name__ == "__main__":
    main()
