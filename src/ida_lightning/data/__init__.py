"""Data modules that supply mixed batches with label-order metadata."""

from ida_lightning.data.augment import Augmentation
from ida_lightning.data.base import MixingDataModule
from ida_lightning.data.cifar import CIFAR10DataModule, CIFAR100DataModule
from ida_lightning.data.digits import DigitsDataModule
from ida_lightning.data.fashion_mnist import FashionMNISTDataModule
from ida_lightning.data.from_datasets import FromDatasetsDataModule
from ida_lightning.data.image_folder import ImageFolderDataModule
from ida_lightning.data.tiny_imagenet import TinyImageNetDataModule

__all__ = [
    "Augmentation",
    "CIFAR10DataModule",
    "CIFAR100DataModule",
    "DigitsDataModule",
    "FashionMNISTDataModule",
    "FromDatasetsDataModule",
    "ImageFolderDataModule",
    "MixingDataModule",
    "TinyImageNetDataModule",
]
