"""Callbacks: one file per system that changes what the student is taught, and what a run shows and leaves."""

from ida_lightning.callbacks.cutmix_pick import CutMixPickCallback
from ida_lightning.callbacks.data_selection import DataSelectionCallback
from ida_lightning.callbacks.export import ExportCallback
from ida_lightning.callbacks.isotonic import IsotonicSoftLabelCallback
from ida_lightning.callbacks.label_revision import LabelRevisionCallback
from ida_lightning.callbacks.order_penalty import OrderPenaltyCallback
from ida_lightning.callbacks.panel import PanelCallback
from ida_lightning.callbacks.predictions import PredictionsCallback
from ida_lightning.callbacks.revision_loss import RevisionLossCallback
from ida_lightning.callbacks.smoothing_control import SmoothingControlCallback
from ida_lightning.callbacks.speed import SpeedCallback
from ida_lightning.callbacks.teacher_labels import TeacherLabelCallback

__all__ = [
    "CutMixPickCallback",
    "DataSelectionCallback",
    "ExportCallback",
    "IsotonicSoftLabelCallback",
    "LabelRevisionCallback",
    "OrderPenaltyCallback",
    "PanelCallback",
    "PredictionsCallback",
    "RevisionLossCallback",
    "SmoothingControlCallback",
    "SpeedCallback",
    "TeacherLabelCallback",
]
