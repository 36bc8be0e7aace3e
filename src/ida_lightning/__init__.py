"""Isotonic data augmentation for knowledge distillation.

Everything that a user names is here. The numerics, for any training loop, are imported with the package; the Lightning
modules, methods, callbacks and data modules when they are first asked for, so that ``import ida_lightning`` loads no
Lightning.
"""

import lazy_loader

from ida_lightning.adapters import as_mixed_batch
from ida_lightning.blending import blend_answers, blend_plain, in_order, trust_by_order
from ida_lightning.errors import InputError
from ida_lightning.isotonic import (
    KernelTrial,
    correct_soft_labels,
    isotonic_regression_tree,
    isotonic_soft_labels,
    isotonic_softmax,
    kernel_trials,
)
from ida_lightning.label_mix import LabelMix, LabelOrder
from ida_lightning.losses import (
    DIST,
    DKD,
    KL,
    MLKD,
    NKD,
    CorrelationDistance,
    DistillationLoss,
    LogitStandardisation,
    correlation_loss,
    dist_loss,
    distillation_loss,
    dkd_loss,
    logit_loss,
    mixed_cross_entropy,
    multi_level_loss,
    nkd_loss,
    order_penalty,
    probability_loss,
    standardise_logits,
)
from ida_lightning.metrics import (
    OrderStatistics,
    expected_calibration_error,
    fit_temperature,
    kl_divergence,
    moved_mass,
    order_statistics,
    prediction_agreement,
    prediction_entropy,
    violated_rows,
)
from ida_lightning.mixing import (
    InnerPlan,
    MixedBatch,
    Mixing,
    MixPlan,
    PlainImages,
    draw_cutmix,
    draw_mixup,
    draw_mosaic,
    mix_batch,
    mix_images,
    mix_inputs,
    mix_labels,
    mix_rows,
    plan_batch,
    stack_pool,
    with_plain,
)
from ida_lightning.picking import label_by_teacher, pick_rows, score_pool, split_pool
from ida_lightning.revision_selection import (
    revise_soft_labels,
    revision_label_loss,
    revision_logit_loss,
    revision_probability_loss,
    teach_trusted_rows,
    trusted_rows,
)
from ida_lightning.supervision import Supervision, SupervisionHook, add_soft_labels, blend_soft_labels, weighted_losses
from ida_lightning.truth import blend_with_truth, exchange_values, isotonic_with_margin, missed_rows, truth_needed

__version__ = "0.2.0"

# The stub beside this file says where the other names are.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
