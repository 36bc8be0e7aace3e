"""A moving average of the weights that suits short runs and long ones."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import lightning as L
import torch
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from ida_lightning.errors import share_below_one


class EMACallback(WeightAveraging):
    """Averages the weights over the latest steps, and validates, tests, keeps and exports the average.

    After n steps the decay is ``min(decay, (1 + n) / (10 + n))``, so that the average is over about the last ninth of
    the run until ``decay`` is reached, at 0.999 after some 9,000 steps. With a decay that is constant, as that of
    Lightning's ``EMAWeightAveraging``, a run of fewer steps than ``1 / (1 - decay)`` ends with an average that is
    mostly the network it began with.

    Buffers are those of the trained network: BatchNorm's statistics are moving averages already, and the average of
    averages lags so far behind that runs of two epochs lost 5 points. A checkpoint has the average as ``state_dict``
    and the network that is being trained as ``current_model_state``; resuming goes on with both.

    Args:
        decay: share of the average that stays from step to step, at most; from 0 to below 1.

    Raises:
        InputError: for another share.

    Example:
        >>> from lightning import Trainer
        >>> trainer = Trainer(callbacks=[EMACallback()], logger=False)
    """

    def __init__(self, decay: float = 0.999) -> None:
        self.decay = share_below_one("decay", decay)
        super().__init__(use_buffers=False, multi_avg_fn=partial(_update, self.decay))

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Put the average in the place of the trained network, and say so."""
        super().on_train_end(trainer, pl_module)
        steps = trainer.global_step
        span = 1 / (1 - decay_after(steps, self.decay)) if steps else 0
        rank_zero_info(
            f"EMA: what is exported and tested is the average over about the last {span:.0f} of {steps} steps; "
            "checkpoints have the trained network as current_model_state"
        )


def decay_after(steps: int, decay: float) -> float:
    """Return the decay after so many steps: small at first, so that the start is soon forgotten.

    Example:
        >>> [round(decay_after(steps, 0.999), 3) for steps in (0, 10, 100, 1000, 100_000)]
        [0.1, 0.55, 0.918, 0.991, 0.999]
    """
    return min(decay, (1 + steps) / (10 + steps))


@torch.no_grad()
def _update(decay: float, averages: Sequence[Tensor], weights: Sequence[Tensor], updates: Tensor | int) -> None:
    """Move averages towards weights, in place."""
    towards = 1 - decay_after(int(updates), decay)
    for average, weight in zip(averages, weights, strict=True):
        average.lerp_(weight, towards)
