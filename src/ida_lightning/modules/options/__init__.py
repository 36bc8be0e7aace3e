"""The arguments of the modules in groups: teacher, student, loss, optimisation."""

from ida_lightning.modules.options.loss import Loss, plain_loss
from ida_lightning.modules.options.networks import Student, built_for, check_args, check_network
from ida_lightning.modules.options.optimisation import (
    Layout,
    LRSchedulerCallable,
    Optimisation,
    OptimizerCallable,
    default_optimizer,
    picklable,
)
from ida_lightning.modules.options.teacher import Precision, Strategy, Teacher, TeacherBlend, TeacherOutputs, View

__all__ = [
    "LRSchedulerCallable",
    "Layout",
    "Loss",
    "Optimisation",
    "OptimizerCallable",
    "Precision",
    "Strategy",
    "Student",
    "Teacher",
    "TeacherBlend",
    "TeacherOutputs",
    "View",
    "built_for",
    "check_args",
    "check_network",
    "default_optimizer",
    "picklable",
    "plain_loss",
]
