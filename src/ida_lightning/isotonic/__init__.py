"""Isotonic correction of soft labels: one function to call, several solvers behind it."""

from ida_lightning.isotonic.backward import isotonic_vjp
from ida_lightning.isotonic.choice import KernelTrial, choose, describe_trials, kernel_trials, tries_on
from ida_lightning.isotonic.correction import (
    Solver,
    Space,
    correct_soft_labels,
    isotonic_soft_labels,
    isotonic_softmax,
)
from ida_lightning.isotonic.tree import isotonic_regression_tree

__all__ = [
    "KernelTrial",
    "Solver",
    "Space",
    "choose",
    "correct_soft_labels",
    "describe_trials",
    "isotonic_regression_tree",
    "isotonic_soft_labels",
    "isotonic_softmax",
    "isotonic_vjp",
    "kernel_trials",
    "tries_on",
]
