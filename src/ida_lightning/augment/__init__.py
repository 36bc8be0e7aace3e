"""Augmentation of image batches on their device."""

from ida_lightning.augment.augmentation import Augmentation

__all__ = ["Augmentation"]
