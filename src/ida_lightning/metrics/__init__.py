"""How often, and how far, soft labels break the order of their hard label; agreement and calibration.

Here are pure functions of one batch, most of them with one value per row. ``ida_lightning.metrics.running`` has
T. stddev, which adds up over batches and processes; only that module loads torchmetrics, which loads matplotlib.
"""

from ida_lightning.metrics.calibration import expected_calibration_error, fit_temperature
from ida_lightning.metrics.distance import (
    Agreement,
    kl_divergence,
    moved_mass,
    prediction_agreement,
    prediction_entropy,
)
from ida_lightning.metrics.order import OrderStatistics, order_statistics, violated_rows

__all__ = [
    "Agreement",
    "OrderStatistics",
    "expected_calibration_error",
    "fit_temperature",
    "kl_divergence",
    "moved_mass",
    "order_statistics",
    "prediction_agreement",
    "prediction_entropy",
    "violated_rows",
]
