"""Schedules: warm-up, steps or epochs, sequences, and warnings where one does not end with the run."""

from functools import partial
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch.callbacks import Callback
from torch.optim import lr_scheduler as torch_schedules

from ida_lightning import InputError
from ida_lightning.__main__ import main
from ida_lightning.modules import ClassificationModule, Optimisation, SequenceLR
from tests.helpers.networks import TinyNet
from tests.helpers.trainers import trainer

STEPS = 4  # an epoch


class Rates(Callback):
    """The learning rate of every step, of every run since it was emptied."""

    seen = []  # noqa: RUF012 (the command line makes the object)

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.seen.append(trainer.optimizers[0].param_groups[0]["lr"])


@pytest.fixture
def rates(tmp_path, blobs):
    """Fit with a schedule at rate 1 and return the rates of all steps."""

    def fit(epochs, *, resume=None, options=(), **fields):
        Rates.seen.clear()
        module = ClassificationModule(TinyNet(), 4, 1, 8, optimizer=partial(torch.optim.SGD, lr=1.0), **fields)
        fitting = trainer(tmp_path, max_epochs=epochs, callbacks=[Rates()], **dict(options))
        fitting.fit(module, blobs, ckpt_path=resume, weights_only=None if resume is None else True)
        fitting.save_checkpoint(tmp_path / "after.ckpt")
        return list(Rates.seen)

    return fit


def one_cycle(optimizer, steps=12):
    return torch_schedules.OneCycleLR(optimizer, max_lr=1.0, total_steps=steps)


def sequence(optimizer, last=2):
    rise = partial(torch_schedules.LinearLR, start_factor=0.5, total_iters=2)
    return SequenceLR(optimizer, [rise, partial(torch_schedules.CosineAnnealingLR, T_max=last)], [2])


@pytest.mark.parametrize(("warmup", "rising"), [(0.0, 0), (0.25, 3), (0.5, 6)])
def test_warm_up_is_as_long_as_asked(rates, warmup, rising):
    seen = rates(3, warmup=warmup)
    assert seen.index(max(seen)) == rising
    assert max(seen) == pytest.approx(1.0)
    assert seen[:rising] == pytest.approx([(step + 1) / (rising + 1) for step in range(rising)])
    assert seen[-1] < 0.2


def test_a_schedule_that_counts_steps_is_stepped_every_step(rates):
    seen = rates(3, lr_scheduler=one_cycle)
    assert len(set(seen)) == 12
    assert seen[-1] < 1e-3 < max(seen)


@pytest.mark.parametrize(
    ("interval", "expected"), [(None, 4), ("epoch", 4), ("step", 1)], ids=["by class", "epoch", "step"]
)
def test_the_interval_can_be_chosen(rates, interval, expected):
    seen = rates(2, lr_scheduler=partial(torch_schedules.ExponentialLR, gamma=0.5), lr_interval=interval)
    assert seen == pytest.approx([0.5 ** (step // expected) for step in range(2 * STEPS)])


def test_a_sequence_goes_through_its_parts(rates, tmp_path):
    seen = rates(4, lr_scheduler=sequence)
    assert seen[::STEPS] == pytest.approx([0.5, 0.75, 1.0, 0.5])
    with pytest.warns(UserWarning, match="T_max=2, the run has 3 epochs, 1 from where it begins"):
        rates(3, lr_scheduler=sequence)
    torch.load(tmp_path / "after.ckpt", weights_only=True)
    assert rates(4, lr_scheduler=sequence, resume=tmp_path / "after.ckpt") == pytest.approx(seen[-STEPS:])


def test_a_sequence_with_a_part_that_counts_steps_does_so(rates):
    def parts(optimizer):
        return SequenceLR(optimizer, [torch_schedules.ConstantLR, partial(one_cycle, steps=8)], [4])

    seen = rates(3, lr_scheduler=parts)
    assert len(set(seen[4:])) == 8


@pytest.mark.parametrize(
    ("schedule", "warning"),
    [
        (
            partial(torch_schedules.CosineAnnealingLR, T_max=10),
            "CosineAnnealingLR ends after T_max=10, the run",
        ),
        (partial(torch_schedules.CosineAnnealingLR, T_max=2), None),
        (partial(torch_schedules.CosineAnnealingLR, T_max=1), None),
        (partial(one_cycle, steps=20), "OneCycleLR ends after total_steps=20, the run has 8 steps"),
        (partial(one_cycle, steps=8), None),
        (partial(torch_schedules.PolynomialLR, total_iters=5), "PolynomialLR ends after total_iters=5"),
        (partial(torch_schedules.LinearLR, total_iters=5), "LinearLR ends after total_iters=5"),
        (partial(torch_schedules.LinearLR, total_iters=1), None),
        (
            partial(torch_schedules.MultiStepLR, milestones=[1, 2, 9]),
            r"MultiStepLR never reaches its milestones \[2, 9\]",
        ),
        (partial(torch_schedules.StepLR, step_size=2), "StepLR never reaches its step_size=2"),
        (
            partial(torch_schedules.CosineAnnealingWarmRestarts, T_0=3),
            "CosineAnnealingWarmRestarts ends its cycles after 3, the run",
        ),
        (partial(torch_schedules.CosineAnnealingWarmRestarts, T_0=1), None),
        (sequence, "CosineAnnealingLR would begin after 2, the run has 2 epochs"),
        (partial(torch_schedules.ExponentialLR, gamma=0.9), None),
    ],
)
def test_a_schedule_that_ends_elsewhere_is_said(rates, schedule, warning):
    if warning is None:
        rates(2, lr_scheduler=schedule)
        return
    with pytest.warns(
        UserWarning, match=f"lr_scheduler: {'.*' if warning.startswith('ends') else ''}{warning}"
    ) as said:
        rates(2, lr_scheduler=schedule)
    assert all("\n" not in str(one.message) for one in said)


def test_a_part_is_held_against_what_is_left_for_it(rates):
    with pytest.warns(UserWarning, match="T_max=6, the run has 4 epochs, 2 from where it begins"):
        rates(4, lr_scheduler=partial(sequence, last=6))


def test_a_schedule_that_would_fail_is_refused(rates):
    with pytest.raises(InputError, match="lr_scheduler: OneCycleLR fails after total_steps=5, the run has 8 steps"):
        rates(2, lr_scheduler=partial(one_cycle, steps=5))


@pytest.mark.parametrize(
    ("fields", "warning"),
    [
        ({"warmup": 0.1, "lr_scheduler": partial(torch_schedules.ExponentialLR, gamma=1.0)}, "warmup: belongs to"),
        ({"lr_interval": "epoch"}, "lr_interval: epoch is of lr_scheduler"),
        (
            {"lr_monitor": "train/loss", "lr_scheduler": partial(torch_schedules.ExponentialLR, gamma=1.0)},
            "lr_monitor: belongs to ReduceLROnPlateau",
        ),
    ],
)
def test_an_option_without_effect_is_said(rates, fields, warning):
    with pytest.warns(UserWarning, match=warning):
        rates(1, **fields)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"warmup": 1.0}, "warmup: expected a number from 0 to below 1, got 1"),
        ({"lr_monitor": 3}, "lr_monitor: expected"),
        ({"lr_interval": "batch"}, "lr_interval: expected one of epoch, step, got 'batch'"),
    ],
)
def test_wrong_options_are_named(options, complaint):
    with pytest.raises(InputError, match=complaint):
        Optimisation(**options)


def test_milestones_lie_between_the_parts():
    with pytest.raises(InputError, match="milestones: expected 1, one less than schedulers"):
        SequenceLR(torch.optim.SGD([torch.zeros(1)], lr=1.0), [one_cycle, one_cycle], [1, 2])


FIT = """
trainer: {max_epochs: 3, limit_train_batches: 4, limit_val_batches: 1, accelerator: cpu, logger: false,
  enable_checkpointing: false, enable_progress_bar: false, enable_model_summary: false,
  callbacks: [{class_path: tests.modules.test_schedules.Rates}]}
model:
  class_path: ClassificationModule
  init_args:
    model: test_resnet
    optimizer: {class_path: torch.optim.SGD, init_args: {lr: 1.0}}
data: {class_path: tests.helpers.data.BlobsDataModule, init_args: {batch_size: 16}}
"""
YAML_SEQUENCE = """
class_path: SequenceLR
init_args:
  schedulers:
    - {class_path: LinearLR, init_args: {start_factor: 0.5, total_iters: 2}}
    - {class_path: CosineAnnealingLR, init_args: {T_max: 2}}
  milestones: [1]
"""


def test_schedules_from_yaml_and_the_command_line():
    Path("fit.yaml").write_text(FIT)
    Rates.seen.clear()
    Path("sequence.yaml").write_text(
        yaml.safe_dump({"model": {"init_args": {"lr_scheduler": yaml.safe_load(YAML_SEQUENCE)}}})
    )
    main(["fit", "--config", "fit.yaml", "--config", "sequence.yaml"])
    seen = list(Rates.seen)
    assert seen[::STEPS] == pytest.approx([0.5, 1.0, 0.5])
    Rates.seen.clear()
    cycle = ["--model.lr_scheduler=OneCycleLR", "--model.lr_scheduler.max_lr=1", "--model.lr_scheduler.total_steps=12"]
    main(["fit", "--config", "fit.yaml", *cycle])
    assert len(set(Rates.seen)) == 12
    Rates.seen.clear()
    main(["fit", "--config", "fit.yaml", "--model.warmup=0.5"])
    assert Rates.seen.index(max(Rates.seen)) == 6
