"""Callbacks that observe a run: checkpoints, panels, speed, the exported network, predictions."""

from ida_lightning.callbacks.checkpoint import CheckpointCallback
from ida_lightning.callbacks.export import ExportCallback
from ida_lightning.callbacks.panel import PanelCallback
from ida_lightning.callbacks.predictions import PredictionsCallback
from ida_lightning.callbacks.speed import SpeedCallback

__all__ = ["CheckpointCallback", "ExportCallback", "PanelCallback", "PredictionsCallback", "SpeedCallback"]
