"""Everything that the package uses of Lightning and that Lightning does not promise."""

from __future__ import annotations

import lightning as L


def attached_trainer(module: L.LightningModule) -> L.Trainer | None:
    """Return the Trainer that a module is attached to, None if it is to none."""
    return module._trainer
