"""Isotonic data augmentation for knowledge distillation.

The numerics are here, for any training loop. The Lightning parts are in ``ida_lightning.data``,
``ida_lightning.modules`` and ``ida_lightning.callbacks``; importing this package does not load Lightning.
"""

from ida_lightning.adapters import as_mixed_batch
from ida_lightning.errors import InputError
from ida_lightning.isotonic import (
    correct_soft_labels,
    isotonic_regression_tree,
    isotonic_soft_labels,
    isotonic_softmax,
)
from ida_lightning.label_mix import LabelMix, LabelOrder
from ida_lightning.losses import distillation_loss, logit_loss, mixed_cross_entropy, order_penalty, probability_loss
from ida_lightning.metrics import (
    OrderStatistics,
    expected_calibration_error,
    fit_temperature,
    kl_divergence,
    moved_mass,
    order_statistics,
    prediction_agreement,
    violated_rows,
)
from ida_lightning.mixing import (
    MixedBatch,
    Mixing,
    MixPlan,
    draw_cutmix,
    draw_mixup,
    draw_mosaic,
    mix_images,
    mix_labels,
)
from ida_lightning.revision_selection.revision import revise_soft_labels
from ida_lightning.supervision import Supervision, SupervisionHook

__version__ = "0.1.0"

__all__ = [
    "InputError",
    "LabelMix",
    "LabelOrder",
    "MixPlan",
    "MixedBatch",
    "Mixing",
    "OrderStatistics",
    "Supervision",
    "SupervisionHook",
    "as_mixed_batch",
    "correct_soft_labels",
    "distillation_loss",
    "draw_cutmix",
    "draw_mixup",
    "draw_mosaic",
    "expected_calibration_error",
    "fit_temperature",
    "isotonic_regression_tree",
    "isotonic_soft_labels",
    "isotonic_softmax",
    "kl_divergence",
    "logit_loss",
    "mix_images",
    "mix_labels",
    "mixed_cross_entropy",
    "moved_mass",
    "order_penalty",
    "order_statistics",
    "prediction_agreement",
    "probability_loss",
    "revise_soft_labels",
    "violated_rows",
]
