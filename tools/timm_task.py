"""Train a student by timm's own distillation task, in a plain loop, on the pictures that a fit config shows.

``python -m tools.timm_task configs/evidence/kd_cutmix.yaml --data.val_images=8000 --trainer.max_epochs=120``. Networks,
pictures, their order and mixing, optimiser, precision and number of epochs are those of the config; losses, weights and
temperature are those of ``timm.task.LogitDistillationTask``: by default timm's, or ``--temperature``,
``--soft-weight`` and ``--hard-weight``. ``--cycle 4`` shows the pictures of four epochs again and again and asks the
teacher once about each. Prints one line of JSON with accuracies on validation and test images in the last epoch, and
writes it behind the lines of ``--out``. It is the outside reference of docs/evidence.md.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from timm.loss.cross_entropy import SoftTargetCrossEntropy
from timm.task import LogitDistillationTask
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from ida_lightning.cli import IDACLI
from ida_lightning.data import MixingDataModule
from ida_lightning.models import ImageInput
from ida_lightning.modules import DistillationModule
from ida_lightning.modules.schedules import warmup_and_cosine


def main() -> None:
    """Train what the command line names, and print what came."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("config", help="a fit config")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--soft-weight", type=float, default=1.0)
    parser.add_argument("--hard-weight", type=float, default=1.0)
    parser.add_argument("--cycle", type=int, help="epochs whose pictures are shown; by default all are new")
    parser.add_argument("--out", type=Path, help="a file of such lines")
    given, changes = parser.parse_known_args()
    quiet = ["--trainer.logger=false", "--trainer.accelerator=cpu", "--model.teacher_outputs=null"]
    seed = f"--seed_everything={given.seed}"
    cli = IDACLI(["fit", "--config", given.config, *changes, *quiet, seed, f"--data.seed={given.seed}"])
    data, module = cli.datamodule, cli.model
    data.cycle = given.cycle
    data.setup("fit")
    data.setup("test")
    accuracies = train(module, data, cli.trainer.max_epochs, given, "bf16" in str(cli.trainer.precision))
    told = vars(given) | {"changes": changes, "out": None} | accuracies
    line = json.dumps({name: value for name, value in told.items() if value is not None})
    print(line, flush=True)  # noqa: T201
    if given.out:
        with given.out.open("a", encoding="utf-8") as lines:
            lines.write(line + "\n")


def train(
    module: DistillationModule, data: MixingDataModule, epochs: int, given: argparse.Namespace, half: bool
) -> dict[str, float]:
    """Train the module's student and return its accuracies."""
    module.teacher.prepare(list(data.class_names), ImageInput(tuple(data.mean), tuple(data.std), data.image_size))
    channels_last = module.optimisation.layout == "channels_last"
    layout = torch.channels_last if channels_last else torch.contiguous_format
    module.teacher.lay_out(channels_last)
    student, teacher = module.student.to(memory_format=layout), Remembering(module.teacher)
    task = LogitDistillationTask(
        student,
        teacher,
        SoftTargetCrossEntropy(),  # type: ignore[no-untyped-call]
        distill_loss_weight=given.soft_weight,
        task_loss_weight=given.hard_weight,
        temperature=given.temperature,
        verbose=False,
    ).train()
    # Our teacher makes pictures of its own kind itself; timm would by means and deviations of ImageNet.
    task.teacher.normalize_input = lambda images, *_: images  # type: ignore[method-assign]
    loader: Any = data.train_dataloader()
    optimizer = module._make_optimizer(student.parameters())
    schedule = LambdaLR(optimizer, warmup_and_cosine(epochs * len(loader), module.optimisation.warmup))
    for epoch in range(epochs):
        loader.sampler.set_epoch(epoch)
        shown = epoch % (given.cycle or epochs)
        for number, plain in enumerate(loader):
            batch = data.mix(plain, data.batch_generator(shown, number))
            teacher.place = (shown, number) if given.cycle else None
            assert isinstance(batch.inputs, Tensor)
            images = batch.inputs.contiguous(memory_format=layout)
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                loss = task(images, batch.label_mix.dense(len(data.class_names)))["loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return {name: accuracy(student, data, name, half) for name in ("val", "test")}


class Remembering(nn.Module):
    """A teacher that is asked once about the pictures of a place, an epoch and a batch in it."""

    def __init__(self, teacher: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.teacher = teacher
        self.place: tuple[int, int] | None = None
        self.answers: dict[tuple[int, int], Tensor] = {}

    def forward(self, images: Tensor) -> Tensor:
        """Return logits ``(batch, classes)``."""
        if self.place is None:
            return self.teacher(images)
        if self.place not in self.answers:
            self.answers[self.place] = self.teacher(images)
        return self.answers[self.place]


@torch.no_grad()
def accuracy(student: nn.Module, data: MixingDataModule, part: str, half: bool) -> float:
    """Return the share of a part's images that a network names rightly."""
    right: list[Tensor] = []
    student.eval()
    loader: Any = data.val_dataloader() if part == "val" else data.test_dataloader()
    for loaded in loader:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            named = student(data.normalise(loaded.inputs)).argmax(1)
        right.append(named == loaded.label_mix.labels[:, 0])
    return float(torch.cat(right).float().mean())


if __name__ == "__main__":
    main()
