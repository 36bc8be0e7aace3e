"""Methods: callbacks that change what the student is taught, or add a term to its loss."""

from ida_lightning.methods.added_term import AddedTermCallback
from ida_lightning.methods.authors_isotonic import AuthorsIsotonicCallback
from ida_lightning.methods.base import LossMethod, Method, SupervisionMethod
from ida_lightning.methods.crd import Contrast, CRDCallback
from ida_lightning.methods.cutmix_pick import CutMixPickCallback
from ida_lightning.methods.data_selection import DataSelectionCallback, Influence
from ida_lightning.methods.feature_loss import FeatureLoss
from ida_lightning.methods.feature_losses import AttentionCallback, HintCallback, RKDCallback, SimilarityCallback
from ida_lightning.methods.inner_mixing import InnerMixingCallback
from ida_lightning.methods.isotonic import IsotonicSoftLabelCallback
from ida_lightning.methods.label_revision import LabelRevisionCallback
from ida_lightning.methods.order_penalty import OrderPenaltyCallback
from ida_lightning.methods.ramp import Ramp
from ida_lightning.methods.revision_loss import RevisionLossCallback
from ida_lightning.methods.smoothing_control import SmoothingControlCallback
from ida_lightning.methods.teacher_labels import TeacherLabelCallback
from ida_lightning.methods.truth_blend import TruthBlendCallback
from ida_lightning.methods.value_exchange import ValueExchangeCallback

__all__ = [
    "AddedTermCallback",
    "AttentionCallback",
    "AuthorsIsotonicCallback",
    "CRDCallback",
    "Contrast",
    "CutMixPickCallback",
    "DataSelectionCallback",
    "FeatureLoss",
    "HintCallback",
    "Influence",
    "InnerMixingCallback",
    "IsotonicSoftLabelCallback",
    "LabelRevisionCallback",
    "LossMethod",
    "Method",
    "OrderPenaltyCallback",
    "RKDCallback",
    "Ramp",
    "RevisionLossCallback",
    "SimilarityCallback",
    "SmoothingControlCallback",
    "SupervisionMethod",
    "TeacherLabelCallback",
    "TruthBlendCallback",
    "ValueExchangeCallback",
]
