"""Going on in the middle of an epoch with loaders of other people."""

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from ida_lightning import ClassificationModule, InputError
from tests.helpers.networks import TinyNet
from tests.helpers.trainers import trainer

IMAGES, LABELS = torch.randn(32, 1, 8, 8), torch.arange(32) % 4
ROWS = TensorDataset(IMAGES, LABELS)


class Stream(IterableDataset):
    def __iter__(self):
        return iter(zip(IMAGES, LABELS, strict=True))


class Stateful(DataLoader):
    """Goes on where it was, as torchdata's StatefulDataLoader does."""

    had = 0

    def __iter__(self):
        for number, batch in enumerate(super().__iter__()):
            if number >= self.had:
                self.now = number + 1
                yield batch
        self.had = 0

    def state_dict(self):
        return {"had": self.now % 4}

    def load_state_dict(self, state):
        self.had = state["had"]


class Sees(ClassificationModule):
    """Keeps the first pixel of every batch."""

    def training_step(self, batch, batch_idx):
        self.seen = [*vars(self).get("seen", []), float(batch[0][0, 0, 0, 0])]
        return super().training_step(batch, batch_idx)


pytestmark = [
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no `val_dataloader`"),
    pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended"),
    pytest.mark.filterwarnings("ignore:The dirpath has changed"),
]
LOADERS = {
    "plain": lambda: DataLoader(ROWS, 8, shuffle=True),
    "stream": lambda: DataLoader(Stream(), 8),
}


def fit(folder, loader, steps, path=None, **options):
    """Fit for a number of steps, four of which are an epoch; the checkpoints of every second step are in ``folder``."""
    saver = ModelCheckpoint(folder, "{step}", every_n_train_steps=2, save_top_k=-1)
    module = Sees(TinyNet(), num_classes=4, in_channels=1, image_size=8, **options)
    run = trainer(folder, max_epochs=9, max_steps=steps, callbacks=[saver], enable_checkpointing=True)
    run.fit(module, loader, ckpt_path=path, weights_only=True)
    return run


@pytest.mark.parametrize("kind", LOADERS)
def test_a_loader_that_begins_an_epoch_anew_is_refused(kind, tmp_path):
    epoch = 4
    fit(tmp_path, LOADERS[kind](), epoch + 2)
    inside, end = tmp_path / f"step={epoch + 2}.ckpt", tmp_path / f"step={epoch}.ckpt"
    message = "expected the end of an epoch, or a loader with load_state_dict, got one after 2 batches and a DataLoader"
    with pytest.raises(InputError, match=f"ckpt_path: {message}, .*; allow_inexact_resume: true goes on"):
        fit(tmp_path / "refused", LOADERS[kind](), epoch + 4, inside)
    with pytest.warns(UserWarning, match=f"{message}, .* going on"):
        run = fit(tmp_path / "allowed", LOADERS[kind](), epoch + 4, inside, allow_inexact_resume=True)
    assert run.global_step == epoch + 4
    if kind == "plain":  # without a length a checkpoint of an epoch's last step does not know that it is one
        assert fit(tmp_path / "between", LOADERS[kind](), epoch + 2, end).global_step == epoch + 2


def test_a_loader_that_knows_where_it_was_goes_on(tmp_path):
    straight = fit(tmp_path, Stateful(ROWS, 8), 8).lightning_module.seen
    resumed = fit(tmp_path / "on", Stateful(ROWS, 8), 8, tmp_path / "step=6.ckpt").lightning_module.seen
    assert len(set(straight)) == 4
    assert resumed == straight[6:]


def test_the_option_is_true_or_false():
    with pytest.raises(InputError, match="allow_inexact_resume: expected true or false, got 1"):
        ClassificationModule(TinyNet(), num_classes=4, in_channels=1, image_size=8, allow_inexact_resume=1)
