"""Training steps on clean rows and mixes of them, and their losses as plain numbers."""

import math

import torch

from ida_lightning import Mixing
from ida_lightning.modules import DistillationModule
from tests.helpers.data import BlobsDataModule
from tests.helpers.networks import TinyNet

T, SOFT, HARD = 4.0, 0.9, 0.1


class Taught:
    """What a module with callbacks teaches on one batch of clean rows and mixes, without a trainer."""

    def __init__(self, *callbacks, pool=1, options=None, **more):
        torch.manual_seed(0)
        weights = {"temperature": T, "soft_weight": SOFT, "hard_weight": HARD}
        self.module = DistillationModule(TinyNet(), TinyNet().eval(), 4, 1, 8, **{**weights, **more})
        self.module.setup("fit")
        self.module.log_dict = lambda values, **options: None
        for callback in callbacks:
            callback.setup(None, self.module, "fit")
        data = BlobsDataModule(batch_size=12, mixing=Mixing(**options or {}), pool=pool)
        data.setup("fit")
        self.batch = data.mix(next(iter(data.train_dataloader())), data.batch_generator(0, 0))
        self.teach()

    def teach(self):
        self.supervision = self.module.supervise(self.batch)
        self.logits = self.module.student(self.supervision.inputs)
        self.parts = self.module.loss_parts(self.logits, self.supervision)


def log_softmax(logits):
    highest = max(logits)
    total = math.log(sum(math.exp(z - highest) for z in logits)) + highest
    return [z - total for z in logits]


def soft_and_hard(student, teacher, hard):
    """T^2 KL and cross-entropy of one row, as plain numbers."""
    q, p = (log_softmax([z / T for z in logits]) for logits in (student, teacher))
    soft = T * T * sum(math.exp(b) * (b - a) for a, b in zip(q, p, strict=True))
    return soft, -sum(y * z for y, z in zip(hard, log_softmax(student), strict=True))


def mean(values):
    return sum(values) / len(values)
