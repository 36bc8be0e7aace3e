"""Export the trained network's weights when training has finished."""

from __future__ import annotations

from pathlib import PurePath

import lightning as L
from lightning.pytorch.utilities import rank_zero_info
from safetensors.torch import save_file

from ida_lightning.checks import path_or_address
from ida_lightning.errors import InputError, is_a
from ida_lightning.files import replacing, writable_file
from ida_lightning.locks import OutputLock
from ida_lightning.models import exportable
from ida_lightning.modules.base import ClassifierBase
from ida_lightning.modules.evaluation import require_finite
from ida_lightning.remote import is_address, is_file
from ida_lightning.trackers import log_artifact


class ExportCallback(L.Callback):
    """Writes the network that was trained as safetensors when ``fit`` comes to its end.

    What is there is a finished network: use it as ``teacher_checkpoint``. A run that was interrupted or crashed, that
    trained nothing (no epochs, no batches), or whose weights are not finite leaves an older file as it was; the last
    two fail with one line. The file appears whole or not at all, its place is tried before training starts, and no
    other run can write it meanwhile. With weight averaging it holds the averaged weights.
    The file describes itself: network and stem, classes, images, the run's config, methods, teacher, metrics and
    versions (:class:`~ida_lightning.models.Description`). If the network has a name, the file alone is enough for
    :func:`ida_lightning.load_student` and ``ida-lightning predict --weights FILE --images FOLDER``. Equal runs write
    equal bytes.

    Args:
        path: file name, ending in ``.safetensors``, also at an address (``s3://bucket/x``); folders are made.
        artifact: whether W&B gets the file too, as an artifact of the run.

    Raises:
        InputError: for another ending; when fitting starts for weights that such a file cannot hold, and for a path
            that cannot be written to or that another run writes; when it ends for a network that was not trained.
    """

    def __init__(self, path: str, artifact: bool = False) -> None:
        self.path = path_or_address("path", path)
        self.artifact = is_a("artifact", artifact, bool)
        if PurePath(self.path).suffix != ".safetensors":
            raise InputError(f"path: expected a name that ends in .safetensors, got {path!r}")
        self._lock: OutputLock | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Try the place and keep other runs from it, on one process."""
        if stage == "fit" and trainer.is_global_zero and not trainer.fast_dev_run:  # type: ignore[attr-defined]
            if is_address(self.path):  # where nothing can be locked: the last whole file stays
                return
            writable_file("path", self.path)
            self._lock = OutputLock("path", self.path).acquire()

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Check before the work that the network can be exported after it."""
        if isinstance(pl_module, ClassifierBase):
            exportable(pl_module.network)

    def on_fit_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the file on one process, if the fit was no trial."""
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        assert isinstance(pl_module, ClassifierBase)
        if trainer.global_step == 0 or trainer.interrupted:
            older = "the older file is as it was" if is_file(self.path) else "nothing is written"
            raise InputError(
                f"path: expected a network that was trained to export to {self.path}, got one after "
                f"{trainer.global_step} steps{' that was interrupted' if trainer.interrupted else ''}; {older}"
            )
        require_finite(pl_module.owner, pl_module.network)
        if not trainer.is_global_zero:
            return
        tensors = exportable(pl_module.network)
        description = pl_module.description()
        with replacing(self.path) as unfinished:
            save_file(tensors, unfinished, description.metadata())
        rank_zero_info(f"exported: {self.path}")
        if self.artifact:
            log_artifact(trainer.loggers, self.path)

    def teardown(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Let other runs write the file."""
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Let other runs write the file; Lightning leaves ``teardown`` out."""
        self.teardown(trainer, pl_module, "fit")
