"""A day with an own LightningModule: W&B offline, two processes, a run that is cut off and goes on.

    ida-lightning fit --config configs/digits/teacher.yaml
    python examples/day3_own_module.py --epochs 3
    python examples/day3_own_module.py --epochs 6 --resume outputs/day3/last.ckpt

The step is the module's own, the methods are those of the package. ``--processes 2`` trains with DDP, gloo on CPUs. The
runs lie in outputs/day3/wandb until ``wandb sync`` sends them.
"""

import argparse
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import WandbLogger
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from ida_lightning import (
    CheckpointCallback,
    DigitsDataModule,
    IsotonicSoftLabelCallback,
    MixedBatch,
    OrderPenaltyCallback,
    Supervision,
    SupervisionHooks,
    build_model,
    load_network,
)


class OwnDistillation(SupervisionHooks):
    """Teaches a student by a frozen teacher; methods take part through the hooks.

    Args:
        teacher: is not trained, and not in checkpoints either.
        student: is trained and validated.
    """

    def __init__(self, teacher: nn.Module, student: nn.Module) -> None:
        super().__init__()
        self.student = student
        self.teachers = [teacher.eval().requires_grad_(False)]  # a list: no submodule, so neither saved nor in DDP
        self.accuracy = MulticlassAccuracy(10, average="micro")

    def on_fit_start(self) -> None:
        """Move the teacher, which Lightning does not see."""
        self.teachers[0].to(self.device)

    def training_step(self, batch: MixedBatch, batch_idx: int) -> Tensor:
        """Teach one batch."""
        with torch.no_grad():
            taught = Supervision.from_teacher(batch, self.teachers[0](batch.inputs), temperature=4.5)
        taught = self.apply_supervision_hooks(taught)
        parts = self.loss_parts(self.student(taught.inputs), taught)
        self.log_dict({f"train/{name}": value.detach() for name, value in parts.items()})
        return torch.stack(list(parts.values())).sum()

    def validation_step(self, batch: MixedBatch, batch_idx: int) -> None:
        """Count how often the student is right."""
        self.accuracy(self.student(batch.inputs), batch.label_mix.labels[:, 0])
        self.log("student/val_acc", self.accuracy)

    def configure_optimizers(self) -> Any:
        """Train the student and what methods bring."""
        return torch.optim.AdamW([*self.student.parameters(), *self.method_networks.parameters()], lr=2e-3)


def main() -> None:
    """Do the day."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default="outputs/digits/teacher.safetensors", help="an export")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--resume", help="a checkpoint to go on from")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", default="outputs/day3")
    options = parser.parse_args()
    L.seed_everything(0)
    Path(options.out).mkdir(parents=True, exist_ok=True)
    trainer = L.Trainer(
        accelerator="cpu",
        devices=options.processes,
        strategy="ddp" if options.processes > 1 else "auto",
        max_epochs=options.epochs,
        logger=WandbLogger(project="day3", save_dir=options.out, offline=True),
        callbacks=[
            IsotonicSoftLabelCallback(),
            OrderPenaltyCallback(sigma=0.5),
            CheckpointCallback(options.out, monitor="student/val_acc"),
        ],
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=5,
    )
    student = build_model("test_resnet", num_classes=10, in_channels=1)
    module = OwnDistillation(load_network(options.teacher).network, student)
    trainer.fit(module, DigitsDataModule(batch_size=32), ckpt_path=options.resume, weights_only=True)
    if trainer.is_global_zero:
        figures = {name: round(float(value), 4) for name, value in trainer.callback_metrics.items()}
        print(f"epochs {trainer.current_epoch}, steps {trainer.global_step}: {figures}")


if __name__ == "__main__":
    main()
