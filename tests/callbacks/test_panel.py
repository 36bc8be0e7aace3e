"""Panels: what they show, when, where they go, and that training does not notice them."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import matplotlib.image
import pytest
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger

from ida_lightning import InputError, LabelMix, Mixing, Supervision
from ida_lightning.callbacks import PanelCallback, SpeedCallback, panel
from ida_lightning.methods import IsotonicSoftLabelCallback
from ida_lightning.modules import ClassificationModule, DistillationModule
from ida_lightning.plots import plot_corrections
from tests.helpers.data import BlobsDataModule
from tests.helpers.devices import DEVICES, never_waiting
from tests.helpers.networks import TinyNet
from tests.helpers.trainers import trainer

pytestmark = pytest.mark.filterwarnings("ignore:teacher. .* is close to chance")  # a random teacher is enough here


class FakeTensorBoard(Logger):
    """What is used of TensorBoardLogger, which cannot even be imported without tensorboard."""

    name = version = ""

    def __init__(self):
        super().__init__()
        self.figures = []
        self.experiment = SimpleNamespace(add_figure=self.add_figure)

    def add_figure(self, tag, figure, global_step=None, close=True, walltime=None):
        self.figures.append((tag, global_step, figure))

    def log_metrics(self, metrics, step=None):
        pass

    def log_hyperparams(self, *args, **kwargs):
        pass


class FakeWandb(FakeTensorBoard):
    """WandbLogger's log_image, beside an experiment of its own."""

    def log_image(self, key, images, step=None, **kwargs):
        (figure,) = images
        self.figures.append((key, step, figure))


def fit(tmp_path, *callbacks, data=None, module=None, ckpt_path=None, **options):
    torch.manual_seed(1)
    module = module or DistillationModule(TinyNet(), TinyNet(), 4, 1, 8)
    run = trainer(tmp_path, callbacks=list(callbacks), **options)
    run.fit(module, data or BlobsDataModule(batch_size=16, mixing=Mixing("cutmix")), ckpt_path=ckpt_path)
    return module


def panels(tmp_path):
    """Every picture and every stray file, wherever it is."""
    found = [*tmp_path.rglob("*.png"), *tmp_path.rglob(".unfinished*")]
    return sorted(str(path.relative_to(tmp_path)) for path in found)


def bars_of(figure):
    """Per image: title, class names below, and the heights of the three kinds of bars."""
    half = len(figure.axes) // 2
    for picture, bars in zip(figure.axes[:half], figure.axes[half:], strict=True):
        names = [label.get_text() for label in bars.get_xticklabels()]
        heights = torch.tensor([bar.get_height() for bar in bars.patches], dtype=torch.float64)
        yield picture.get_title(), names, heights.view(3, len(names)).float()


def test_pictures_show_the_image_classes_and_the_best_others():
    names = ["ant", "bee", "cat", "dog", "eel", "a wolf in sheep's clothing"]
    mix = LabelMix(torch.tensor([[3, 1], [2, 2]]), torch.tensor([[0.25, 0.75], [0.5, 0.5]]))
    before = torch.tensor([[0.05, 0.1, 0.0, 0.3, 0.15, 0.4], [0.1, 0.2, 0.3, 0.4, 0.0, 0.0]])
    after = torch.tensor([[0.05, 0.3, 0.0, 0.2, 0.2, 0.25], [0.0, 0.1, 0.3, 0.2, 0.0, 0.4]])
    figure = plot_corrections(torch.rand(2, 3, 8, 8), mix, before, after, names, "above", 2)
    (title, shown, heights), (other_title, other_shown, other_heights) = bars_of(figure)
    assert title == "0.75 × “bee” + 0.25 × “dog”"
    assert shown == ["bee", "dog", "a wolf in sheep's…", "eel"]
    assert torch.equal(heights, torch.stack((mix.dense(6), before, after))[:, 0, [1, 3, 5, 4]])
    # An equal pair is one class, and a class that only the corrected soft label favours is among the best.
    assert other_title == "1.00 × “cat”"
    assert other_shown == ["cat", "dog", "a wolf in sheep's…"]
    assert torch.equal(other_heights, torch.stack((mix.dense(6), before, after))[:, 1, [2, 3, 5]])
    assert figure.get_suptitle() == "above"
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["hard label", "teacher's soft label", "corrected soft label"]
    assert all(axes.get_ylim()[1] >= 1 for axes in figure.axes[2:])


def test_long_titles_are_broken_and_cut():
    mix = LabelMix(torch.arange(6)[None], torch.tensor([[0.3, 0.2, 0.2, 0.1, 0.1, 0.1]]))
    soft = torch.full((1, 6), 1 / 6)
    names = [f"class {number}" for number in range(6)]
    figure = plot_corrections(torch.rand(1, 1, 8, 8), mix, soft, soft, names, "above", 3)
    ((title, shown, _),) = bars_of(figure)
    parts = ["0.30 × “class 0”", "0.20 × “class 1”", "0.20 × “class 2”", "0.10 × “class 3”", "…"]
    assert title == "\n+ ".join(parts)
    assert shown == names


def test_panel_shows_what_is_taught(tmp_path):
    seen = []

    class Watch(Callback):
        def setup(self, trainer, pl_module, stage):
            pl_module.register_supervision_hook(lambda supervision: seen.append(supervision) or supervision)

    logger = FakeTensorBoard()
    data = BlobsDataModule(batch_size=16, mixing=Mixing("cutmix"))
    callbacks = IsotonicSoftLabelCallback(), PanelCallback(rows=5), Watch()
    module = fit(tmp_path, *callbacks, data=data, logger=logger, max_epochs=3)
    ((tag, step, figure),) = logger.figures
    assert (tag, step) == ("train/panel", 0)
    assert figure.get_suptitle() == "What is taught in epoch 0 (T = 4.5)"
    assert len(seen) == 12
    taught = seen[0]
    before = (taught.teacher_logits / module.temperature).softmax(1)
    order, hard = taught.label_mix.order(), taught.label_mix.dense(4)
    changed = 0
    for row, (title, names, heights) in enumerate(bars_of(figure)):
        label = order.labels[row, 0]
        assert title.startswith(f"{hard[row, label]:.2f} × “{data.class_names[label]}”")
        assert sorted(names) == sorted(data.class_names)
        shown = [data.class_names.index(name) for name in names]
        assert torch.equal(heights[0], hard[row, shown])
        assert torch.equal(heights[1], before[row, shown])
        assert torch.equal(heights[2], taught.soft_labels[row, shown])
        # The image's classes come first, heaviest first: corrected bars never rise there, nor above them after.
        present = int(order.present[row].sum())
        corrected = heights[2].tolist()
        assert corrected[:present] == sorted(corrected[:present], reverse=True)
        assert max(corrected[present:]) <= corrected[present - 1]
        changed += not torch.equal(heights[1], heights[2])
        image = torch.tensor(figure.axes[row].images[0].get_array().filled())
        assert torch.equal(image, data.denormalise(taught.inputs)[row, 0])
    assert row == 4
    assert changed > 0


def test_panel_in_front_of_a_correction_shows_the_state_there(tmp_path):
    logger = FakeTensorBoard()
    fit(tmp_path, PanelCallback(), IsotonicSoftLabelCallback(), logger=logger)
    ((_, _, figure),) = logger.figures
    assert all(torch.equal(heights[1], heights[2]) for _, _, heights in bars_of(figure))


def test_pictures_appear_in_the_right_epochs_only(tmp_path):
    fit(tmp_path, PanelCallback(every_n_epochs=2, rows=3), logger=CSVLogger(tmp_path, name="run"), max_epochs=5)
    names = [f"run/version_0/panels/epoch_000{epoch}.png" for epoch in (0, 2, 4)]
    assert panels(tmp_path) == names
    three = matplotlib.image.imread(tmp_path / names[0])
    fit(tmp_path, PanelCallback(rows=1), logger=CSVLogger(tmp_path, name="other"))
    one = matplotlib.image.imread(tmp_path / "other/version_0/panels/epoch_0000.png")
    assert three.shape[0] == one.shape[0]
    assert three.shape[1] == pytest.approx(3 * one.shape[1], abs=3)
    assert three[..., :3].std() > 0.1


def test_every_logger_gets_the_panel_in_its_own_way(tmp_path):
    tensorboard, wandb, csv = FakeTensorBoard(), FakeWandb(), CSVLogger(tmp_path)
    fit(tmp_path, PanelCallback(every_n_epochs=1), logger=[tensorboard, wandb, csv], max_epochs=2)
    for logger in (tensorboard, wandb):
        assert [(tag, step) for tag, step, _ in logger.figures] == [("train/panel", 0), ("train/panel", 4)]
    assert len(panels(tmp_path)) == 2


def test_a_logger_without_a_log_dir_gets_a_folder_of_the_run(tmp_path):
    class Plain(FakeTensorBoard):
        name, version, save_dir = "plain", "7", str(tmp_path / "saved")
        experiment = property(lambda self: None, lambda self, value: None)

    fit(tmp_path, PanelCallback(), logger=Plain())
    assert panels(tmp_path) == ["saved/plain/7/panels/epoch_0000.png"]


@pytest.mark.parametrize("trial", [False, True])
def test_without_a_logger_and_on_trial_nothing_is_drawn(trial, tmp_path, monkeypatch):
    monkeypatch.setattr(panel, "plot_corrections", None)
    fit(tmp_path, PanelCallback(), fast_dev_run=2 * trial, logger=CSVLogger(tmp_path) if trial else False)
    assert panels(tmp_path) == []


def test_weights_do_not_depend_on_panels_and_speed(tmp_path):
    def weights(*callbacks, **options):
        module = fit(tmp_path, IsotonicSoftLabelCallback(), *callbacks, max_epochs=2, **options)
        return module.student.state_dict()

    plain = weights()
    shown = weights(PanelCallback(every_n_epochs=1), SpeedCallback(), logger=CSVLogger(tmp_path))
    assert len(panels(tmp_path)) == 2
    assert plain.keys() == shown.keys()
    assert all(torch.equal(plain[name], shown[name]) for name in plain)


def test_images_of_another_pipeline_are_shown_too(tmp_path):
    module = DistillationModule(TinyNet(channels=2), TinyNet(channels=2), 4, 2, 8)
    rows = torch.utils.data.TensorDataset(100 + 50 * torch.randn(8, 2, 8, 8), torch.arange(8) % 4)
    logger = FakeTensorBoard()
    run = trainer(tmp_path, callbacks=[PanelCallback()], logger=logger)
    loader = torch.utils.data.DataLoader(rows, batch_size=4)
    run.fit(module, loader, loader)
    ((_, _, figure),) = logger.figures
    assert len(figure.axes) == 8, "a batch of four has no six rows"
    for row, (title, names, _) in enumerate(bars_of(figure)):
        assert title == f"1.00 × “{row}”"
        assert sorted(names) == ["0", "1", "2", "3"]
        image = torch.tensor(figure.axes[row].images[0].get_array().filled())
        assert image.shape == (8, 8)
        assert 0 <= image.min() < 0.3 < 0.7 < image.max() <= 1


def test_batches_without_rows_are_skipped_clean_rows_come_last():
    module, callback, logger = DistillationModule(TinyNet(), TinyNet(), 4, 1, 8), PanelCallback(), FakeTensorBoard()
    state = {"fast_dev_run": 0, "current_epoch": 0, "global_step": 3, "datamodule": None, "callbacks": []}
    run = SimpleNamespace(is_global_zero=True, loggers=[logger], **state)
    callback.setup(run, module, "fit")
    callback.on_train_batch_start(run, module, None, 0)
    ones, mix = torch.ones(4), LabelMix.unmixed(torch.arange(4))
    teaching = Supervision(torch.rand(4, 1, 8, 8), mix, ones, torch.eye(4), torch.eye(4), ones, ones, 1.0)
    ((hook, _),) = module._supervision_hooks.values()
    for rows, drawn in ((0, 0), (2, 1), (4, 1)):
        hook(teaching.select(torch.arange(rows)))
        assert len(logger.figures) == drawn
    assert len(logger.figures[0][2].axes) == 2 * 2
    # Mixed rows come first.
    callback.on_train_batch_start(run, module, None, 0)
    hook(teaching._replace(mixed=torch.tensor([False, False, False, True])))
    first = next(bars_of(logger.figures[1][2]))
    assert first[0] == "1.00 × “3”"


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`")  # the one that saved it is not needed
def test_an_epoch_resumed_in_its_middle_is_not_drawn_again(tmp_path):
    keep = ModelCheckpoint(tmp_path / "kept", "{step}", every_n_train_steps=2, save_top_k=-1)
    first = CSVLogger(tmp_path, name="first")
    fit(tmp_path, PanelCallback(every_n_epochs=2), keep, logger=first, max_epochs=3, enable_checkpointing=True)
    assert panels(tmp_path) == [f"first/version_0/panels/epoch_000{epoch}.png" for epoch in (0, 2)]
    for step, drawn in ((8, [2, 4]), (10, [4])):  # an epoch has four
        logger, ckpt_path = CSVLogger(tmp_path, name=f"from{step}"), tmp_path / "kept" / f"step={step}.ckpt"
        fit(tmp_path, PanelCallback(every_n_epochs=2), logger=logger, max_epochs=5, ckpt_path=ckpt_path)
        assert panels(Path(logger.log_dir)) == [f"panels/epoch_000{epoch}.png" for epoch in drawn]


@pytest.mark.parametrize("device", DEVICES)
def test_no_other_batch_waits_for_the_accelerator(device):
    module, callback = DistillationModule(TinyNet(), TinyNet(), 4, 1, 8), PanelCallback()
    callback.setup(None, module, "fit")
    ones, mix = torch.ones(4, device=device), LabelMix.unmixed(torch.arange(4, device=device))
    logits = torch.rand(4, 4, device=device)
    teaching = Supervision(torch.rand(4, 1, 8, 8, device=device), mix, ones, logits, logits, ones, ones, 1.0)
    ((hook, _),) = module._supervision_hooks.values()
    with never_waiting(device):
        assert hook(teaching) is teaching


def test_setup_joins_once_and_teardown_leaves():
    callback, module = PanelCallback(), DistillationModule(TinyNet(), TinyNet(), 4, 1, 8)
    callback.setup(None, module, "fit")
    callback.setup(None, module, "fit")  # as after a crash, which skips teardown
    assert len(module._supervision_hooks) == 1
    callback.teardown(None, module, "fit")
    assert not module._supervision_hooks
    callback.setup(None, module, "test")
    assert not module._supervision_hooks


def test_mistakes_are_named(tmp_path, blobs):
    with pytest.raises(InputError, match="every_n_epochs: expected at least 1, got 0"):
        PanelCallback(every_n_epochs=0)
    with pytest.raises(InputError, match="rows: expected at least 1, got -1"):
        PanelCallback(rows=-1)
    with pytest.raises(InputError, match="PanelCallback: .*register_supervision_hook.*got ClassificationModule"):
        fit(tmp_path, PanelCallback(), module=ClassificationModule(TinyNet(), 4, 1, 8), data=blobs)


class Report(Callback):
    """Every process writes down how many panels its first logger got."""

    def on_fit_end(self, trainer, pl_module):
        Path(f"rank{trainer.global_rank}.txt").write_text(str(len(trainer.logger.figures)))


@pytest.mark.skipif(torch.cuda.is_initialized(), reason="Lightning refuses to fork once CUDA is initialised")
@pytest.mark.filterwarnings("ignore:Using `DistributedSampler` with the dataloaders")
def test_one_of_two_processes_draws(tmp_path):
    loggers = [FakeTensorBoard(), CSVLogger(tmp_path, name="run")]
    callbacks = PanelCallback(every_n_epochs=2), SpeedCallback(), Report()
    fit(tmp_path, *callbacks, logger=loggers, max_epochs=3, devices=2, strategy="ddp_fork")
    assert [Path(f"rank{rank}.txt").read_text() for rank in (0, 1)] == ["2", "0"]
    assert panels(tmp_path) == [f"run/version_0/panels/epoch_000{epoch}.png" for epoch in (0, 2)]


def test_callbacks_need_neither_wandb_nor_tensorboard():
    # timm imports wandb where it finds it, so that its absence shows more than sys.modules would.
    code = (
        "import sys; sys.modules.update(wandb=None, tensorboard=None, tensorboardX=None)\n"
        "from ida_lightning.callbacks import PanelCallback, SpeedCallback; PanelCallback(); SpeedCallback()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
