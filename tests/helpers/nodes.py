"""A fit that is stopped, resumed and tested, on one node or several: ``torchrun ... -m tests.helpers.nodes FOLDER``."""

import json
import sys
from pathlib import Path

import torch

from ida_lightning import Mixing
from ida_lightning.callbacks import CheckpointCallback
from ida_lightning.methods import IsotonicSoftLabelCallback
from ida_lightning.modules import DistillationModule
from tests.helpers.data import BlobsDataModule
from tests.helpers.networks import TinyNet
from tests.helpers.trainers import trainer


def fit_resume_and_test(folder: Path, **options):
    """Leave in ``folder`` what every process has at its end."""
    last = folder / "kept" / "last.ckpt"
    for epochs in (1, 2):
        torch.manual_seed(1)
        module = DistillationModule(TinyNet(), TinyNet(), 4, 1, 8)
        data = BlobsDataModule(batch_size=8, mixing=Mixing("cutmix"))
        callbacks = [CheckpointCallback(str(folder / "kept")), IsotonicSoftLabelCallback()]
        run = trainer(folder, max_epochs=epochs, callbacks=callbacks, enable_checkpointing=True, **options)
        run.fit(module, data, ckpt_path=last if epochs == 2 else None, weights_only=True)
    state = torch.load(last, weights_only=True)["state_dict"]
    weights = {name: tensor.double().flatten().tolist() for name, tensor in state.items()}
    (tested,) = trainer(folder, **options).test(module, data, verbose=False)
    content = {"world": run.world_size, "weights": weights, "test": tested}
    (folder / f"rank{run.global_rank}.json").write_text(json.dumps(content))


if __name__ == "__main__":
    fit_resume_and_test(Path(sys.argv[1]), num_nodes=2, devices=1, strategy="ddp")
