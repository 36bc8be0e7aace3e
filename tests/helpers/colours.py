"""Images that say which classes they show and how much of each, and teachers that read it off."""

import torch
from torch import nn

from ida_lightning.data import MixingDataModule
from ida_lightning.data.in_memory import InMemoryImages


class ColoursDataModule(MixingDataModule):
    """Every class fills a channel of its own, so that the mean of a channel is the weight of its class, exactly."""

    class_names = ["ant", "bee", "<i>cat</i> & $dog$", "eel", "fly", "gnu"]  # noqa: RUF012
    channels = 6
    image_size = 8
    mean = (0.0,) * 6
    std = (1.0,) * 6

    def load(self):
        def part(images):
            labels = torch.arange(images) % 6
            pixels = torch.zeros(images, 6, 8, 8, dtype=torch.uint8)
            pixels[torch.arange(images), labels] = 255
            return InMemoryImages(pixels, labels)

        return {"train": part(192), "val": part(12), "test": part(12)}


class RightTeacher(nn.Module):
    """Answers the true mixed label."""

    def forward(self, images):
        return (images.mean((2, 3)) + 1e-12).log()


class ConfusedTeacher(nn.Module):
    """Is often right, and far from it where it is not."""

    def __init__(self):
        super().__init__()
        self.mix = nn.Linear(6, 6)
        with torch.no_grad():
            noise = torch.sin(0.7 * torch.arange(36.0).reshape(6, 6) ** 1.5)
            self.mix.weight.copy_(4 * (noise + torch.eye(6)))
            self.mix.bias.zero_()

    def forward(self, images):
        return self.mix(images.mean((2, 3)).to(self.mix.weight.dtype))


class BrokenTeacher(RightTeacher):
    """Has no answer to images of several classes in which the first one is."""

    def forward(self, images):
        share = images.mean((2, 3))
        mixed = (share[:, :1] > 0) & (share[:, :1] < 1)
        return super().forward(images).masked_fill(mixed, torch.nan)


class ExplodedTeacher(RightTeacher):
    """Answers blank images only."""

    def forward(self, images):
        return super().forward(images) / (images.sum((1, 2, 3)) == 0)[:, None]
