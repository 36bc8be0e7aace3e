"""Lightning modules: train a classifier, distil a student from a teacher."""

from ida_lightning.modules.classification import ClassificationModule
from ida_lightning.modules.distillation import DistillationModule
from ida_lightning.modules.hooks import SupervisionHooks
from ida_lightning.modules.options import Loss, Optimisation, Student, Teacher

__all__ = [
    "ClassificationModule",
    "DistillationModule",
    "Loss",
    "Optimisation",
    "Student",
    "SupervisionHooks",
    "Teacher",
]
