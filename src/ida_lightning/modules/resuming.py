"""Loaders that begin an epoch anew where a run goes on in the middle of it."""

from __future__ import annotations

import lightning as L
from lightning.pytorch.utilities import rank_zero_warn

from ida_lightning.errors import InputError


def check_resumed(trainer: L.Trainer, done: int, allow_inexact: bool) -> None:
    """Refuse to go on in the middle of an epoch with a loader that would show its first batches again.

    Lightning tells a loader where it was by ``load_state_dict``, which the loaders of this package and stateful ones
    have; torch's own DataLoader begins anew, and draws another order.

    Args:
        trainer: of a fit that goes on.
        done: how many batches of the epoch the run had when it stopped.
        allow_inexact: whether to go on with a warning.

    Raises:
        InputError: for such a loader, unless it is allowed.
    """
    loader = trainer.train_dataloader
    if not done or hasattr(loader, "load_state_dict"):
        return
    reason = (
        f"ckpt_path: expected the end of an epoch, or a loader with load_state_dict, got one after {done} batches and "
        f"a {type(loader).__name__}, which begins the epoch anew"
    )
    if not allow_inexact:
        raise InputError(f"{reason}; allow_inexact_resume: true goes on with other batches")
    rank_zero_warn(f"{reason}; going on, some of its images come again and others not at all")
