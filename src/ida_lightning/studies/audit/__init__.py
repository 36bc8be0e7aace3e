"""Before a run is spent: does a teacher break the label order, and would correcting it change anything?

``ida-lightning audit --config ...`` takes the config of a distillation run, shows its teacher training images, clean
and mixed, and trains nothing. :class:`AuditTrainer` is the same from Python.
"""

from ida_lightning.studies.audit.report import Measurement, Report
from ida_lightning.studies.audit.trainer import AuditTrainer
from ida_lightning.studies.audit.verdict import Verdict

__all__ = ["AuditTrainer", "Measurement", "Report", "Verdict"]
