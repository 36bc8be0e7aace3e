"""Student beside teacher, and calibration, over many batches."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from ida_lightning.errors import InputError
from ida_lightning.metrics.calibration import calibration_bins, error_of_bins
from ida_lightning.metrics.distance import prediction_agreement


class AgreementMetrics(Metric):
    """How often student and teacher name the same class, and how far apart their predictions are, over all rows.

    Update with ``(student_logits, teacher_logits)``, see :func:`~ida_lightning.metrics.prediction_agreement`; computes
    ``agreement``, a share, and ``teacher_kl``, the mean KL(teacher || student) in nats. NaN without rows.

    Example:
        >>> metric = AgreementMetrics()
        >>> metric.update(torch.tensor([[2.0, 1.0], [2.0, 1.0]]), torch.tensor([[2.0, 1.0], [1.0, 2.0]]))
        >>> metric.compute()
        {'agreement': tensor(0.5000), 'teacher_kl': tensor(0.2311)}
    """

    full_state_update = False
    same: Tensor
    kl: Tensor
    rows: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("same", torch.tensor(0), "sum")
        self.add_state("kl", torch.tensor(0.0), "sum")
        self.add_state("rows", torch.tensor(0), "sum")

    def update(self, student_logits: Tensor, teacher_logits: Tensor) -> None:
        """Take in one batch: logits ``(batch, classes)`` of both."""
        found = prediction_agreement(student_logits, teacher_logits)
        self.same += found.same.sum()
        self.kl += found.kl.float().sum()
        self.rows += len(student_logits)

    def compute(self) -> dict[str, Tensor]:
        """The means over rows."""
        return {"agreement": self.same / self.rows, "teacher_kl": self.kl / self.rows}


class CalibrationError(Metric):
    """How far a network's confidence is from how often it is right, over all rows: expected calibration error.

    See :func:`~ida_lightning.metrics.expected_calibration_error`. ``torchmetrics`` keeps every confidence; this keeps
    two numbers per bin.

    Args:
        bins: of equal width, from 0 to 1.
        **kwargs: for ``torchmetrics.Metric``.

    Raises:
        InputError: for fewer than one bin; in ``update`` for shapes or dtypes that do not fit.

    Example:
        >>> metric = CalibrationError()
        >>> metric.update(torch.tensor([[0.9, 0.1], [0.9, 0.1]]), torch.tensor([0, 1]))
        >>> metric.update(torch.tensor([[0.4, 0.6]]), torch.tensor([1]))
        >>> metric.compute()
        tensor(0.4000)
    """

    full_state_update = False
    rows: Tensor
    gaps: Tensor

    def __init__(self, bins: int = 15, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if bins < 1:
            raise InputError(f"bins: expected at least 1, got {bins}")
        self.bins = bins
        self.add_state("rows", torch.zeros(bins, dtype=torch.int64), "sum")
        self.add_state("gaps", torch.zeros(bins), "sum")

    def update(self, probs: Tensor, labels: Tensor) -> None:
        """Take in one batch: probabilities ``(batch, classes)`` and labels ``(batch,)``."""
        rows, gaps = calibration_bins(probs, labels, self.bins)
        self.rows += rows
        self.gaps += gaps

    def compute(self) -> Tensor:
        """The error, ``()``."""
        return error_of_bins(self.rows, self.gaps)
