"""last.ckpt is the last epoch, best.ckpt the best, and a second run replaces both."""

from pathlib import Path

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from torch.utils.data import DataLoader

from ida_lightning.callbacks import CheckpointCallback, checkpoint
from ida_lightning.errors import InputError
from tests.helpers.trainers import trainer

SCORES = [0.1, 0.5, 0.2, 0.9, 0.3]  # of the epochs: the fourth is the best, the fifth the last


class Scripted(L.LightningModule):
    """Its validation accuracy is written down beforehand; its weight counts the steps."""

    def __init__(self, scores=SCORES):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.scores = scores
        self.epochs = []

    def training_step(self, batch, batch_idx):
        if batch_idx == 0:
            self.epochs.append(self.current_epoch)
        return -self.weight

    def validation_step(self, batch, batch_idx):
        self.log("student/val_acc", self.scores[self.current_epoch])

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=1.0)


def fit(tmp_path, scores=SCORES, resume=None, others=(), trainer_options=(), **options):
    """Four steps an epoch."""
    keep = CheckpointCallback(tmp_path / "kept", **options)
    settings = {"max_epochs": len(scores), "enable_checkpointing": True, **dict(trainer_options)}
    module = Scripted(scores)
    fitting = trainer(tmp_path, callbacks=[*others, keep], **settings)
    fitting.fit(module, DataLoader(range(4)), DataLoader(range(2)), ckpt_path=resume, weights_only=True)
    return fitting, module


def saved(tmp_path, name):
    return torch.load(tmp_path / "kept" / f"{name}.ckpt", weights_only=True)


def steps_of(content):
    return int(content["state_dict"]["weight"])


@pytest.mark.parametrize("scores", [SCORES, [0.1, float("nan"), 0.2], [0.9, 0.1], [0.1, 0.9], [0.5, 0.5]])
def test_last_is_the_last_epoch_and_best_the_best(tmp_path, scores):
    fit(tmp_path, scores)
    last, best = saved(tmp_path, "last"), saved(tmp_path, "best")
    assert last["epoch"] == len(scores) - 1
    assert last["global_step"] == steps_of(last) == 4 * len(scores)
    assert best["epoch"] == max(range(len(scores)), key=lambda epoch: (scores[epoch] == scores[epoch], scores[epoch]))
    assert steps_of(best) == 4 * (best["epoch"] + 1)
    assert {path.name for path in (tmp_path / "kept").iterdir()} == {"best.ckpt", "last.ckpt"}


def test_a_resumed_run_repeats_no_epoch_and_knows_the_best(tmp_path):
    fit(tmp_path)
    fitting, module = fit(tmp_path, [*SCORES, 0.8, 0.7], resume=tmp_path / "kept" / "last.ckpt")
    assert module.epochs == [5, 6]
    assert saved(tmp_path, "best")["epoch"] == 3, "0.9 is still better"
    assert saved(tmp_path, "last")["epoch"] == 6
    assert fitting.checkpoint_callback.best_model_score == pytest.approx(0.9)
    fit(tmp_path, [*SCORES, 0.8, 0.7, 1.0], resume=tmp_path / "kept" / "last.ckpt")
    assert saved(tmp_path, "best")["epoch"] == saved(tmp_path, "last")["epoch"] == 7


@pytest.mark.filterwarnings("ignore:.* could not find the monitored key")  # without validation there is none
@pytest.mark.parametrize(
    ("options", "best"),
    [
        ({"check_val_every_n_epoch": 2}, 3),
        ({"val_check_interval": 0.5}, 3),
        ({"limit_val_batches": 0}, None),
        ({"max_steps": 18, "max_epochs": -1}, 3),
    ],
)
def test_whenever_validation_comes_last_is_the_last(tmp_path, options, best):
    _, module = fit(tmp_path, trainer_options=options)
    last = saved(tmp_path, "last")
    assert last["global_step"] == steps_of(last) == int(module.weight) == options.get("max_steps", 20)
    assert (tmp_path / "kept" / "best.ckpt").is_file() == (best is not None)
    if best is not None:
        assert saved(tmp_path, "best")["epoch"] == best


class Fail(Callback):
    """Fails in a step."""

    def __init__(self, step):
        self.step = step

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == self.step:
            raise RuntimeError("out of luck")


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before the epoch ended")
@pytest.mark.parametrize(
    ("options", "step"),
    [({}, 4), ({"every_n_steps": 3}, 6), ({"save_on_exception": True}, 7), ({"val_check_interval": 0.5}, 6)],
)
def test_what_a_failed_run_leaves(tmp_path, options, step):
    both = {key: options[key] for key in options.keys() & {"val_check_interval"}}
    own = {key: options[key] for key in options.keys() - both.keys()}
    with pytest.raises(RuntimeError, match="out of luck"):
        fit(tmp_path, others=[Fail(7)], trainer_options=both, **own)
    assert saved(tmp_path, "last")["global_step"] == steps_of(saved(tmp_path, "last")) == step
    _, module = fit(tmp_path, resume=tmp_path / "kept" / "last.ckpt", trainer_options=both, **own)
    assert int(module.weight) == 20


def test_a_second_run_says_so_and_replaces_both_files(tmp_path, monkeypatch):
    lines = []
    monkeypatch.setattr(checkpoint, "rank_zero_info", lines.append)
    fit(tmp_path)
    assert lines == []
    (tmp_path / "kept" / "mine.txt").touch()
    with pytest.raises(RuntimeError, match="out of luck"):
        fit(tmp_path, others=[Fail(1)])
    (line,) = lines
    assert "kept has those of an earlier run, which this run replaces" in line
    assert saved(tmp_path, "last")["epoch"] == 4, "a run that came to nothing replaces nothing"
    with pytest.raises(RuntimeError, match="out of luck"):
        fit(tmp_path, others=[Fail(3)], every_n_steps=2)
    assert saved(tmp_path, "last")["global_step"] == 2
    assert {path.name for path in (tmp_path / "kept").iterdir()} == {"last.ckpt", "mine.txt"}, "no best of another run"
    fit(tmp_path, [0.2, 0.1])
    assert [saved(tmp_path, name)["epoch"] for name in ("best", "last")] == [0, 1]


def test_earlier_files_go_when_new_ones_stand(tmp_path, monkeypatch):
    fit(tmp_path)
    write = L.Trainer.save_checkpoint
    names = []

    def watch(self, filepath, *args, **kwargs):
        names.append(sorted(path.name for path in (tmp_path / "kept").iterdir()))
        write(self, filepath, *args, **kwargs)
        if Path(filepath).name == stop:
            raise RuntimeError("killed here")

    monkeypatch.setattr(L.Trainer, "save_checkpoint", watch)
    stop = "best.ckpt"
    with pytest.raises(RuntimeError, match="killed here"):
        fit(tmp_path, [0.2, 0.1])
    assert names == [["best.ckpt", "last.earlier.ckpt"]], "no last of one run beside the best of another"
    assert (saved(tmp_path, "best")["epoch"], saved(tmp_path, "last.earlier")["epoch"]) == (0, 4)
    stop = "last.ckpt"
    with pytest.raises(RuntimeError, match="killed here"):
        fit(tmp_path, [0.2, 0.1])
    assert len(list((tmp_path / "kept").iterdir())) == 3
    stop = None
    fit(tmp_path, [0.2, 0.1], resume=tmp_path / "kept" / "last.ckpt")
    assert {path.name for path in (tmp_path / "kept").iterdir()} == {"best.ckpt", "last.ckpt"}
    assert [saved(tmp_path, name)["epoch"] for name in ("best", "last")] == [0, 1]


def test_a_trial_writes_nothing(tmp_path):
    fit(tmp_path, trainer_options={"fast_dev_run": True}, every_n_steps=1)
    assert not Path(tmp_path, "kept").exists()


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"mode": "most"}, "mode: expected one of max, min, got 'most'"),
        ({"every_n_steps": 0}, "every_n_steps: expected at least 1"),
    ],
)
def test_wrong_arguments_are_named(options, complaint):
    with pytest.raises(InputError, match=complaint):
        CheckpointCallback(**options)
