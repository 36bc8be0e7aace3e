"""Label revision and data selection (LR + DS, arXiv 2404.03693): the numerics."""

from ida_lightning.revision_selection.revision import revise_soft_labels

__all__ = ["revise_soft_labels"]
