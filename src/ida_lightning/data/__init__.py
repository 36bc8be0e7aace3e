"""Data modules that supply mixed batches with label-order metadata."""

from ida_lightning.augment.augmentation import Augmentation
from ida_lightning.data.base import LabelledDataModule
from ida_lightning.data.in_memory import InMemoryInputs
from ida_lightning.data.pictures import MixingDataModule
from ida_lightning.data.sets.cifar import CIFAR10DataModule, CIFAR100DataModule
from ida_lightning.data.sets.digits import DigitsDataModule
from ida_lightning.data.sets.fashion_mnist import FashionMNISTDataModule
from ida_lightning.data.sets.from_datasets import FromDatasetsDataModule
from ida_lightning.data.sets.image_folder import ImageFolderDataModule
from ida_lightning.data.sets.images import ImagesDataModule
from ida_lightning.data.sets.streaming import Crops, StreamingDataModule
from ida_lightning.data.sets.text import TextDataModule
from ida_lightning.data.sets.tiny_imagenet import TinyImageNetDataModule
from ida_lightning.data.streaming import (
    HuggingFaceStream,
    ImageStream,
    LitDataStream,
    StreamedImage,
    StreamShare,
    WebDatasetStream,
)
from ida_lightning.data.text_files import TextFields
from ida_lightning.data.tokens import Tokens

__all__ = [
    "Augmentation",
    "CIFAR10DataModule",
    "CIFAR100DataModule",
    "Crops",
    "DigitsDataModule",
    "FashionMNISTDataModule",
    "FromDatasetsDataModule",
    "HuggingFaceStream",
    "ImageFolderDataModule",
    "ImageStream",
    "ImagesDataModule",
    "InMemoryInputs",
    "LabelledDataModule",
    "LitDataStream",
    "MixingDataModule",
    "StreamShare",
    "StreamedImage",
    "StreamingDataModule",
    "TextDataModule",
    "TextFields",
    "TinyImageNetDataModule",
    "Tokens",
    "WebDatasetStream",
]
