"""Callbacks that observe a run: checkpoints, panels, speed, time per step, the exported network, predictions."""

from ida_lightning.callbacks.averaging import EMACallback
from ida_lightning.callbacks.checkpoint import CheckpointCallback
from ida_lightning.callbacks.export import ExportCallback
from ida_lightning.callbacks.panel import PanelCallback
from ida_lightning.callbacks.predictions import PredictionsCallback
from ida_lightning.callbacks.speed import SpeedCallback
from ida_lightning.callbacks.step_timer import StepTimer

__all__ = [
    "CheckpointCallback",
    "EMACallback",
    "ExportCallback",
    "PanelCallback",
    "PredictionsCallback",
    "SpeedCallback",
    "StepTimer",
]
