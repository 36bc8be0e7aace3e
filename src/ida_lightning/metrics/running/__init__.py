"""Metrics that add up over batches and processes, for torchmetrics and Lightning.

What they hold are sums (for the standard deviation its moments), so batches and processes may differ in size. Every
row that is shown counts: a sampler that repeats rows to even out processes is the caller's business.
"""

from ida_lightning.metrics.running.networks import AgreementMetrics, CalibrationError
from ida_lightning.metrics.running.order import OrderMetrics
from ida_lightning.metrics.running.stddev import TeacherStddev

__all__ = ["AgreementMetrics", "CalibrationError", "OrderMetrics", "TeacherStddev"]
