"""Callbacks: one file per system that changes what the student is taught, and the files a run leaves."""

from ida_lightning.callbacks.export import ExportCallback
from ida_lightning.callbacks.isotonic import IsotonicSoftLabelCallback
from ida_lightning.callbacks.predictions import PredictionsCallback

__all__ = ["ExportCallback", "IsotonicSoftLabelCallback", "PredictionsCallback"]
