"""Small data modules and networks of inputs that are no square pictures in colour, learnt in a few steps."""

import torch
from torch import nn

from ida_lightning import InMemoryInputs, LabelledDataModule, Mixing

CLASSES = 3


class Vectors(nn.Sequential):
    """A network of vectors ``(batch, 6)``."""

    def __init__(self):
        super().__init__(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, CLASSES))


class Steps(nn.Module):
    """A recurrent network of sequences ``(batch, 5, 4)``."""

    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(4, 8, batch_first=True)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, steps):
        return self.head(self.gru(steps)[0].mean(1))


class Sounds(nn.Sequential):
    """A network of spectrograms ``(batch, 1, 8, 12)``."""

    def __init__(self):
        super().__init__(
            nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, CLASSES)
        )


class Sentences(nn.Module):
    """A network of token ids and their mask, ``(batch, 7)`` each, which it takes by name."""

    def __init__(self, words=20):
        super().__init__()
        self.embedding = nn.Embedding(words, 8)
        self.body = nn.Linear(8, 8)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, ids, mask):
        states = self.body(self.embedding(ids)) * mask[:, :, None]
        return {"logits": self.head(states.sum(1) / mask.sum(1, keepdim=True).clamp_min(1))}


NETWORKS = {"vectors": Vectors, "sequences": Steps, "spectrograms": Sounds, "tokens": Sentences}
SHAPES = {"vectors": (6,), "sequences": (5, 4), "spectrograms": (1, 8, 12)}


class KindsDataModule(LabelledDataModule):
    """Three classes of inputs of a kind, one of the keys of :data:`NETWORKS`.

    Tokens are not mixed, whatever was asked for, unless ``mixing`` is given.
    """

    class_names = ["low", "middle", "high"]  # noqa: RUF012

    def __init__(self, kind="vectors", batch_size=8, mixing: Mixing | None = None, seed=None, pool=0):
        self.kind = kind
        super().__init__(batch_size, mixing or Mixing("none" if kind == "tokens" else "mixup"), seed, pool=pool)

    def load(self):
        return {"train": self.part(24, 0), "val": self.part(16, 1), "test": self.part(12, 2)}

    def part(self, rows, number):
        draws = torch.Generator().manual_seed(number)
        labels = torch.arange(rows) % CLASSES
        if self.kind != "tokens":
            shape = SHAPES[self.kind]
            level = labels.float().reshape(-1, *[1] * len(shape)) - 1
            return InMemoryInputs(level + 0.1 * torch.randn(rows, *shape, generator=draws), labels)
        ids = torch.randint(1, 7, (rows, 7), generator=draws) + 6 * labels[:, None]
        mask = torch.arange(7) < torch.randint(3, 8, (rows, 1), generator=draws)
        return InMemoryInputs({"ids": ids * mask, "mask": mask}, labels)
