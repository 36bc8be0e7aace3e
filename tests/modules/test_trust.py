"""What a run can be trusted with: its teacher, its numbers, its precision, its checkpoints."""

import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from safetensors.torch import save_file
from torch import nn
from torch._dynamo import register_backend
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset
from torchvision.transforms import v2

from ida_lightning import InputError, LabelMix, MixedBatch, Mixing, Supervision
from ida_lightning.callbacks import ExportCallback
from ida_lightning.methods import IsotonicSoftLabelCallback
from ida_lightning.models import ImageInput, describe, fingerprint, load_weights
from ida_lightning.modules import ClassificationModule, DistillationModule
from tests.helpers.data import BlobsDataModule
from tests.helpers.networks import TinyNet
from tests.helpers.trainers import trainer

pytestmark = pytest.mark.filterwarnings("ignore:teacher. .* is close to chance")  # a random teacher is enough here


def module_of(teacher=None, student=None, **options):
    return DistillationModule(teacher or TinyNet(), student or TinyNet(), 4, 1, 8, **options)


class Watching(nn.Module):
    """A network that remembers what it was shown, and in which precision it answered."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(1, 4)
        self.images, self.dtypes = [], []

    def forward(self, images):
        self.images.append(images)
        logits = self.head(images.mean((2, 3)))
        self.dtypes.append((images.dtype, logits.dtype))
        return logits


# --- the teacher sees its own kind of images


def test_a_teacher_gets_the_kind_of_images_it_was_trained_on(tmp_path):
    own = ImageInput((0.6,), (0.4,), 12)
    teacher = Watching()
    metadata = describe(teacher, 4)._replace(image_input=own).metadata()
    save_file(teacher.state_dict(), tmp_path / "teacher.safetensors", metadata)
    module = DistillationModule(teacher, TinyNet(), 4, 1, 8, teacher_checkpoint=str(tmp_path / "teacher.safetensors"))
    data = BlobsDataModule(batch_size=16, mixing=Mixing("mixup"), seed=0)
    seen = []
    module.register_supervision_hook(lambda supervision: seen.append(supervision.inputs) or supervision)
    trainer(tmp_path, limit_train_batches=1, limit_val_batches=0).fit(module, data)
    student_sees, teacher_saw = seen[0], teacher.images[-1]
    picture = student_sees * 0.25 + 0.2
    expected = F.interpolate((picture - own.mean[0]) / own.std[0], (12, 12), mode="bicubic", antialias=True)
    torch.testing.assert_close(teacher_saw, expected, atol=1e-5, rtol=1e-5)


def test_a_pretrained_timm_teacher_gets_what_timm_says(tmp_path, monkeypatch):
    import timm

    # Weights cannot be fetched here; what is tested is the input that goes with them.
    build = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained=False, **more: build(name, **more))
    module = DistillationModule("test_resnet", TinyNet(channels=3), 1000, 3, 8, teacher_args={"pretrained": True})
    module.teacher.prepare(None, ImageInput((0.2,) * 3, (0.25,) * 3, 8))
    seen = []
    module.teacher.network.register_forward_pre_hook(lambda network, inputs: seen.append(inputs[0]))
    images = torch.randn(2, 3, 8, 8)
    module.teacher(images)
    config = module.teacher.network.pretrained_cfg
    mean, std = (torch.tensor(config[key])[:, None, None] for key in ("mean", "std"))
    expected = F.interpolate(
        (images * 0.25 + 0.2 - mean) / std, config["input_size"][1:], mode="bicubic", antialias=True
    )
    torch.testing.assert_close(seen[0], expected, atol=1e-5, rtol=1e-5)


def test_saved_weights_say_what_they_were_trained_on(tmp_path, blobs):
    module = ClassificationModule(TinyNet(), 4, 1, 8)
    run = trainer(tmp_path, callbacks=[ExportCallback(str(tmp_path / "net.safetensors"))])
    run.fit(module, blobs)
    run.save_checkpoint(tmp_path / "net.ckpt")
    for name in ("net.safetensors", "net.ckpt"):
        assert load_weights(tmp_path / name).image_input == ImageInput((0.2,), (0.25,), 8)


def test_undescribed_images_are_passed_on_with_a_warning(tmp_path):
    older = {"class_names": "null", "image_input": "[[0.6], [0.4], 12]"}
    save_file(TinyNet().state_dict(), tmp_path / "t.safetensors", older)
    module = module_of(teacher_checkpoint=str(tmp_path / "t.safetensors"))
    with pytest.warns(UserWarning, match="teacher: was trained on images with .*; the data module does not say"):
        module.teacher.prepare(None, None)
    with pytest.raises(InputError, match="teacher: expected images of 1 channels, as it was trained on, .* gives 3"):
        module.teacher.prepare(None, ImageInput((0.5,) * 3, (0.5,) * 3, 8))


# --- the teacher is known by its weights


def test_fingerprint_is_of_the_weights_and_of_nothing_else():
    torch.manual_seed(0)
    network = TinyNet()
    before = fingerprint(network)
    assert fingerprint(network.train()) == before
    network[1].running_mean[0] += 1e-7
    assert fingerprint(network) != before


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_resuming_with_another_teacher_needs_permission(tmp_path, blobs):
    teacher, other = TinyNet(), TinyNet()

    def run(epochs):
        keep = ModelCheckpoint(tmp_path / "run", save_last=True, enable_version_counter=False)
        logger = CSVLogger(tmp_path)
        return trainer(tmp_path, max_epochs=epochs, callbacks=[keep], enable_checkpointing=True, logger=logger)

    first = run(1)
    first.fit(module_of(teacher), blobs)
    last = tmp_path / "run" / "last.ckpt"
    known = fingerprint(teacher)
    assert torch.load(last, weights_only=True)["teacher_fingerprint"] == known
    assert f"teacher_fingerprint: {known}" in (tmp_path / "lightning_logs" / "version_0" / "hparams.yaml").read_text()
    with pytest.raises(
        InputError, match=f"teacher: expected the weights .*, {known[:12]}, got {fingerprint(other)[:12]}"
    ):
        run(2).fit(module_of(other), blobs, ckpt_path=last)
    again = run(2)
    again.fit(module_of(other, allow_other_teacher=True), blobs, ckpt_path=last)
    assert again.global_step == 8


# --- precision


@pytest.mark.parametrize(
    ("trainers", "own", "expected"),
    [
        ("32-true", None, torch.float32),
        ("bf16-mixed", None, torch.bfloat16),
        ("bf16-mixed", "32", torch.float32),
        ("bf16-true", "32", torch.float32),
        ("32-true", "bf16", torch.bfloat16),
        ("bf16-mixed", "16", torch.float16),
    ],
)
def test_teacher_has_the_precision_of_the_trainer_or_its_own(tmp_path, blobs, trainers, own, expected):
    teacher = Watching()
    run = trainer(tmp_path, precision=trainers, limit_train_batches=2)
    run.fit(module_of(teacher, teacher_precision=own), blobs)
    assert teacher.dtypes[-1][1] == expected
    if own == "32":
        assert teacher.head.weight.dtype == torch.float32


HALF = ["16-mixed"] if torch.cuda.is_available() else []  # Lightning has it for CUDA only


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", *HALF])
def test_correction_and_losses_are_float32_gradients_finite(tmp_path, blobs, precision):
    class Saturated(TinyNet):
        def forward(self, images):
            return 60 * super().forward(images)

    class Look(IsotonicSoftLabelCallback):
        def on_before_optimizer_step(self, run, module, optimizer):
            kinds.append([bool(torch.isfinite(p.grad).all()) for p in module.student.parameters()])

    kinds, dtypes = [], []
    module = module_of(Saturated(), Saturated(), temperature=0.5)

    def watch(supervision):
        dtypes.extend((supervision.soft_labels.dtype, supervision.teacher_logits.dtype))
        return supervision

    module.register_supervision_hook(watch)
    parts = module.loss_parts
    module.loss_parts = lambda *args: dtypes.extend(v.dtype for v in parts(*args).values()) or parts(*args)
    accelerator = "cuda" if precision in HALF else "cpu"
    options = {"accelerator": accelerator, "precision": precision, "callbacks": [Look()], "gradient_clip_val": 1.0}
    trainer(tmp_path, **options).fit(module, blobs)
    assert set(dtypes) == {torch.float32}
    assert len(kinds) == 4
    assert all(map(all, kinds))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_step_is_float32_under_any_autocast(dtype):
    module = module_of(temperature=0.05)
    module.setup("fit")
    labels = torch.arange(6) % 4
    batch = MixedBatch(torch.randn(6, 1, 8, 8), LabelMix.pair(labels, labels.flip(0), 0.7), labels, labels[:, None])
    with torch.autocast("cpu", dtype):
        supervision = module.supervise(batch)
        student_logits = 1e4 * module.student(batch.inputs)
        parts = module.loss_parts(student_logits, supervision)
    assert student_logits.dtype == dtype
    assert {value.dtype for value in (supervision.soft_labels, *parts.values())} == {torch.float32}
    torch.stack(list(parts.values())).sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in module.student.parameters())


# --- compile


class Flat(nn.Sequential):
    """Has a forward of its own: torch 2.11 compiles nothing of one that nn.Sequential brings."""

    def forward(self, images):
        flatten, linear = self
        return linear(flatten(images))


# Dynamo itself looks at the gradient of the logits it is given.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_compiled_training_is_one_graph_each_with_plain_names(tmp_path, blobs):
    graphs = []

    @register_backend(name="counting")
    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    def run(**options):
        torch.manual_seed(3)
        module = module_of(Flat(nn.Flatten(), nn.Linear(64, 4)), Flat(nn.Flatten(), nn.Linear(64, 4)), **options)
        fitted = trainer(tmp_path, limit_val_batches=0, callbacks=[IsotonicSoftLabelCallback()])
        fitted.fit(module, blobs)
        return fitted, module

    _, eager = run()
    fitted, module = run(compile_args={"backend": "counting", "fullgraph": True})
    # Teacher on its trial image and on batches, student, loss: whole, or fullgraph would have refused.
    assert 3 <= len(graphs) <= 5
    for name, tensor in module.student.state_dict().items():
        torch.testing.assert_close(tensor, eager.student.state_dict()[name])
    fitted.save_checkpoint(tmp_path / "compiled.ckpt")
    names = torch.load(tmp_path / "compiled.ckpt", weights_only=True)["state_dict"]
    assert list(names) == ["student.1.weight", "student.1.bias"]


# --- learning rate


def test_learning_rate_follows_the_global_batch_where_asked(tmp_path, blobs):
    def rate(**options):
        module = module_of(optimizer=lambda p: torch.optim.SGD(p, lr=0.1), lr_scheduler=constant, **options)
        run = trainer(tmp_path, accumulate_grad_batches=4, limit_train_batches=4)
        run.fit(module, blobs)
        return run.optimizers[0].param_groups[0]["lr"]

    def constant(optimizer):
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 1.0)

    assert rate() == pytest.approx(0.1)
    assert rate(lr_reference_batch=32) == pytest.approx(0.1 * 16 * 4 / 32)
    with pytest.raises(InputError, match="lr_reference_batch: expected at least 1, got 0"):
        module_of(lr_reference_batch=0)


# --- a loss that is no number


class Breaks(TinyNet):
    """Answers NaN from the third batch on."""

    seen = 0

    def forward(self, images):
        self.seen += 1
        return super().forward(images) * (1 if self.seen < 3 else float("nan"))


def test_a_nan_loss_stops_the_run_and_leaves_a_dump(tmp_path, blobs):
    module = module_of(student=Breaks())
    module.student.seen = -1  # the trial of the teacher's images is not a step; neither is validation below
    run = trainer(tmp_path, limit_val_batches=0)
    with pytest.raises(InputError) as caught:
        run.fit(module, blobs)
    (file,) = tmp_path.glob("loss_step*.pt")
    dump = torch.load(file, weights_only=True)
    rows = dump["batch"]["index"].tolist()
    step = run.global_step
    place = f"loss: nan at step {step} (epoch 0, batch {step}, process 0) on rows "
    assert str(caught.value).startswith(f"{place}{', '.join(map(str, rows[:8]))} and 8 more; weights")
    assert all(torch.isfinite(tensor).all() for tensor in dump["network"].values()), "the weights before the step"
    student = Breaks()
    student.seen = 3
    student.load_state_dict(dump["network"])
    stored = dump["supervision"]
    supervision = Supervision(**{**stored, "label_mix": LabelMix(**stored["label_mix"])})
    again = module.loss_parts(student(supervision.inputs), supervision)
    assert all(value.isnan() for value in again.values())


def test_a_classifier_is_watched_too(tmp_path, blobs):
    with pytest.raises(InputError, match="loss: nan at step 2"):
        trainer(tmp_path, limit_val_batches=0).fit(ClassificationModule(Breaks(), 4, 1, 8), blobs)


# --- other people's pipelines


def test_batches_of_images_and_mixed_targets_are_corrected_too(tmp_path):
    mixer = v2.CutMix(num_classes=4)
    pairs = TensorDataset(torch.randn(64, 1, 8, 8), torch.arange(64) % 4)
    train = DataLoader(pairs, 16, collate_fn=lambda rows: mixer(*map(torch.stack, zip(*rows, strict=True))))
    run = trainer(tmp_path, callbacks=[IsotonicSoftLabelCallback()])
    run.fit(module_of(), train, DataLoader(pairs, 16))
    assert run.callback_metrics["train/violation_rate"] > 0
    assert run.callback_metrics["train/violation_rate_corrected"] == 0
    assert 0 <= run.callback_metrics["student/val_acc"] <= 1
