"""Lightning modules: train a classifier, distil a student from a teacher."""

from ida_lightning.modules.classification import ClassificationModule
from ida_lightning.modules.distillation import DistillationModule
from ida_lightning.modules.hooks import SupervisionHooks
from ida_lightning.modules.options import Loss, Optimisation, Student, Teacher, TeacherBlend, TeacherOutputs
from ida_lightning.modules.schedules import SequenceLR

__all__ = [
    "ClassificationModule",
    "DistillationModule",
    "Loss",
    "Optimisation",
    "SequenceLR",
    "Student",
    "SupervisionHooks",
    "Teacher",
    "TeacherBlend",
    "TeacherOutputs",
]
