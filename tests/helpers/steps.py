"""Training steps of methods, without a trainer."""

from collections import OrderedDict

import torch
from torch import nn

from ida_lightning import (
    LabelMix,
    MixedBatch,
    Supervision,
)
from ida_lightning.mixing import PlainImages
from ida_lightning.modules import DistillationModule
from tests.helpers.networks import TinyNet
from tests.helpers.trainers import OneProcess

T = 4.5


def rows(batch=64, classes=12):
    logits = 4 * torch.randn(batch, classes)
    labels = torch.randint(classes, (2, batch))
    return logits, LabelMix.pair(labels[0], labels[1], torch.rand(batch))


class Recorder(nn.Module):
    """Stands for a LightningModule: takes the hook and what it logs."""

    def __init__(self):
        super().__init__()
        self.hooks, self.logged = OrderedDict(), {}

    def register_supervision_hook(self, hook):
        handle = torch.utils.hooks.RemovableHandle(self.hooks)
        self.hooks[handle.id] = hook
        return handle

    def log_dict(self, values, **options):
        assert options["sync_dist"]
        self.logged = {name: float(value) for name, value in values.items()}


def corrected_by(callback, logits, mix, index=None):
    module = Recorder()
    callback.setup(None, module, "fit")
    ones = torch.ones(len(logits))
    index = torch.arange(len(logits)) if index is None else index
    supervision = Supervision(logits, mix, index, logits, (logits / T).softmax(1), ones, ones, T)
    (hook,) = module.hooks.values()
    after = hook(supervision).soft_labels
    callback.on_train_epoch_end(OneProcess, module)
    return after, module.logged


class Step:
    """One training step of a module with callbacks, without a trainer."""

    def __init__(self, *callbacks, rows=12, teachers=1, **options):
        torch.manual_seed(0)
        teacher = TinyNet() if teachers == 1 else [TinyNet() for _ in range(teachers)]
        self.module = DistillationModule(teacher, TinyNet().eval(), 4, 1, 8, temperature=T, **options)
        self.module.setup("fit")
        self.module.log_dict = lambda values, **options: None
        for callback in callbacks:
            callback.setup(None, self.module, "fit")
        labels = torch.randint(4, (2, rows))
        labels[1, :3] = labels[0, :3]
        self.mix = LabelMix.pair(*labels, torch.rand(rows)).canonical()
        index = torch.arange(rows)
        batch = MixedBatch(torch.randn(rows, 1, 8, 8), self.mix, index, index[:, None])
        if options.get("teacher_view", "mixed").startswith("plain"):
            clean = MixedBatch(torch.randn(rows, 1, 8, 8), LabelMix.unmixed(labels[0]), index, index[:, None])
            two = torch.stack((index, index.roll(1)), 1)
            batch = batch._replace(plain=(PlainImages(clean, two, torch.full((rows, 2), 0.5)),))
        self.supervision = self.module.supervise(batch)
        self.raw = (self.supervision.teacher_logits / T).softmax(1)
        self.logits = self.module.student(self.supervision.inputs)
        self.parts = self.module.loss_parts(self.logits, self.supervision)

    def gradient_of(self, loss):
        return torch.autograd.grad(loss, self.logits, retain_graph=True)[0]


class Weights:
    """A hook that weighs and drops rows at random."""

    def __init__(self, rows):
        self.soft, self.hard = torch.rand(2, rows)
        self.soft[: rows // 4] = 0
        self.hard[rows // 8 : rows // 3] = 0

    def setup(self, trainer, module, stage):
        module.register_supervision_hook(lambda s: s._replace(soft_weight=self.soft, hard_weight=self.hard))
