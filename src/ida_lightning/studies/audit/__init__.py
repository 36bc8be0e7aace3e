"""Before a run is spent: does a teacher break the label order, and would correcting it change anything?

``ida-lightning audit --config ...`` takes the config of a distillation run, shows its teacher training images, clean
and mixed, and trains nothing. :func:`audit` does the same from Python.
"""

from ida_lightning.studies.audit.loaders import audit_teacher
from ida_lightning.studies.audit.report import Measurement, Report
from ida_lightning.studies.audit.run import audit
from ida_lightning.studies.audit.verdict import Verdict

__all__ = ["Measurement", "Report", "Verdict", "audit", "audit_teacher"]
