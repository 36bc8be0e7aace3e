"""Data modules that supply mixed batches with label-order metadata."""

from ida_lightning.data.base import MixingDataModule
from ida_lightning.data.cifar import CIFAR100DataModule
from ida_lightning.data.digits import DigitsDataModule

__all__ = ["CIFAR100DataModule", "DigitsDataModule", "MixingDataModule"]
