"""Label revision and data selection (LR + DS, arXiv 2404.03693): the numerics."""

from ida_lightning.revision_selection.influence import influence
from ida_lightning.revision_selection.losses import (
    revision_label_loss,
    revision_logit_loss,
    revision_probability_loss,
)
from ida_lightning.revision_selection.revision import revise_soft_labels
from ida_lightning.revision_selection.selection import teach_trusted_rows, trusted_rows

__all__ = [
    "influence",
    "revise_soft_labels",
    "revision_label_loss",
    "revision_logit_loss",
    "revision_probability_loss",
    "teach_trusted_rows",
    "trusted_rows",
]
