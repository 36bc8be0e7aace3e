"""Small networks."""

from torch import nn


class TinyNet(nn.Sequential):
    """A network with BatchNorm and dropout, so that a teacher in train mode is noticed."""

    def __init__(self, classes=4, channels=1, width=8):
        super().__init__(
            nn.Conv2d(channels, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Dropout(0.1),
            nn.Linear(4 * width, classes),
        )
