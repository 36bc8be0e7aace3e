"""What must hold on a device before anything is timed on it: functions that raise, for machines without pytest."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import lightning as L
import torch
from torch import Tensor

from benchmarks._step_candidates import Pixels
from benchmarks._timing import host_syncs
from ida_lightning.data.in_memory import InMemoryImages
from ida_lightning.isotonic import Solver, isotonic_soft_labels, isotonic_softmax, kernel_trials
from ida_lightning.label_mix import LabelMix
from ida_lightning.methods import IsotonicSoftLabelCallback
from ida_lightning.metrics import violated_rows
from ida_lightning.mixing import Mixing
from ida_lightning.models import build_model
from ida_lightning.modules import DistillationModule, Teacher
from ida_lightning.truth import isotonic_with_margin

# Short rows, one in registers, chunks; odd and even.
SIZES = (2, 10, 33, 100, 1000, 4097, 8192, 8193, 21_841, 65_536)


class CheckFailed(AssertionError):
    """Something does not hold on this device."""


def holds(fine: bool, what: str) -> None:
    """Raise :class:`CheckFailed` unless it is fine."""
    if not fine:
        raise CheckFailed(what)


def rows_of(classes: int, ranked: int, dtype: torch.dtype, device: torch.device, rows: int = 37) -> Any:
    """Soft labels and label mixes with repeats, ties and rows in order among them."""
    random = torch.Generator().manual_seed(classes + ranked)
    logits = 3 * torch.randn(rows, classes, generator=random)
    weights = torch.randint(0, 4, (rows, ranked), generator=random).float()
    weights[:, 0] += 1
    labels = torch.randint(classes, (rows, ranked), generator=random)
    logits[::3].scatter_add_(1, labels[::3], 9 + 3 * weights[::3])
    mix = LabelMix(labels.to(device), (weights / weights.sum(1, keepdim=True)).to(device))
    return logits.softmax(1).to(device, dtype), mix


def close(found: Tensor, expected: Tensor, what: str) -> None:
    """Raise unless two results agree up to the rounding of the first one's type."""
    off = float((found.double() - expected.double()).abs().max()) if found.numel() else 0.0
    limit = 3e-6 + torch.finfo(found.dtype).eps * (found.dtype != torch.float32)
    holds(off <= limit, f"{what}: off by {off:.3g}, expected {limit:.3g} at most")


def solver_agrees(device: torch.device, solver: Solver, largest: int) -> str:
    """Every size, dtype and number of ranked classes against float64 on the CPU; orders exact; memory poisoned."""
    # Every one is a compilation of the kernel: k = 2 at all sizes, the others at one size of each kind.
    cells = [(size, 2) for size in SIZES if size <= largest]
    cells += [(size, k) for size in (10, 1000, 8193) for k in (1, 3, 4) if size <= largest]
    torch.use_deterministic_algorithms(True, warn_only=True)  # fills memory that nobody wrote with NaN
    try:
        for (classes, ranked), dtype in itertools.product(cells, (torch.float32, torch.bfloat16, torch.float16)):
            if dtype != torch.float32 and ranked != 2:
                continue
            values, mix = rows_of(classes, ranked, dtype, device)
            there = LabelMix(*(field.cpu() for field in mix))
            what = f"{solver}, {classes} classes, k {ranked}, {dtype}"
            found = isotonic_soft_labels(values, mix, solver).cpu()
            close(found, isotonic_soft_labels(values.cpu().double(), there, "threshold"), what)
            holds(not violated_rows(found, there).any(), f"{what}: rows break their order")
            again = isotonic_soft_labels(found.to(device), mix, solver).cpu()
            holds(torch.equal(again, found), f"{what}: twice is not once")
            if dtype == torch.float32 and ranked in (2, 4):
                logits = (values + 1e-4).log()
                exact = isotonic_soft_labels((logits.cpu().double() / 4.5).softmax(1), there, "threshold")
                close(isotonic_softmax(logits, mix, 4.5, solver).cpu(), exact, f"{what}, softmax")
                exact = isotonic_with_margin(values.cpu().double(), there, 0.3, "threshold")
                close(isotonic_with_margin(values, mix, 0.3, solver).cpu(), exact, f"{what}, margin")
    finally:
        torch.use_deterministic_algorithms(False)
    return f"{len(cells)} sizes and k; half types, softmax and margin at some"


def bad_rows_are_nan(device: torch.device, solver: Solver) -> str:
    """NaN and labels out of range spoil their own row and nothing else, and the device lives on."""
    for classes in (10, 1000, 9001):
        values, mix = rows_of(classes, 2, torch.float32, device, rows=6)
        values[1, 5] = torch.nan
        labels = mix.labels.clone()
        labels[2, 0], labels[3, 1] = classes, -1
        found = isotonic_soft_labels(values, LabelMix(labels, mix.weights), solver, validate=False)
        bad = found.isnan().all(1).tolist()
        holds(bad == [False, True, True, True, False, False], f"{classes} classes: rows that are NaN: {bad}")
    return "NaN, labels out of range"


def gradients_agree(device: torch.device, solver: Solver) -> str:
    """The gradient on the device against float64 on the CPU."""
    values, mix = rows_of(50, 3, torch.float32, device)
    grad = torch.randn(values.shape, generator=torch.Generator().manual_seed(1))

    def derived(leaf: Tensor, at: LabelMix, by: Solver) -> Tensor:
        leaf = leaf.detach().requires_grad_()
        (found,) = torch.autograd.grad(isotonic_soft_labels(leaf, at, by), leaf, grad.to(leaf))
        return found.cpu()

    close(derived(values, mix, solver), derived(values.cpu().double(), LabelMix(*(f.cpu() for f in mix)), "threshold"),
          "gradient")  # fmt: skip
    return "k 3"


def compiles(device: torch.device, solver: Solver) -> str:
    """One graph under torch.compile, with the result of eager code."""
    values, mix = rows_of(100, 2, torch.float32, device)
    compiled = torch.compile(
        lambda v, m: 2 * isotonic_soft_labels(v, m, solver, validate=False), fullgraph=True,
        backend="inductor" if device.type == "cuda" else "eager",
    )  # fmt: skip
    close(compiled(values, mix), 2 * isotonic_soft_labels(values, mix, solver), "compiled")
    return "fullgraph"


def never_waits(device: torch.device, solver: Solver) -> str:
    """No call makes the host wait."""
    if device.type != "cuda":
        return "no accelerator: nothing to wait for"
    for classes in (100, 9001):
        values, mix = rows_of(classes, 2, torch.float32, device)
        calls: list[Callable[[], Tensor]] = [
            lambda v=values, m=mix: isotonic_soft_labels(v, m, solver),
            lambda v=values, m=mix: isotonic_softmax(v, m, 4.5, solver),
            lambda v=values, m=mix: isotonic_with_margin(v, m, 0.3, solver),
        ]
        for call in calls:
            call()  # compiles
            waited = host_syncs(call)
            holds(waited == 0, f"{classes} classes: the host waited {waited} times")
    return "plain, softmax, margin"


def other_device(device: torch.device, solver: Solver) -> str:
    """Rows on a device that is not the current one."""
    if torch.cuda.device_count() < 2:
        return "one device: nothing to check"
    values, mix = rows_of(100, 2, torch.float32, torch.device("cuda:1"))
    with torch.cuda.device(0):
        found = isotonic_soft_labels(values, mix, solver)
    close(found.cpu(), isotonic_soft_labels(values.cpu(), LabelMix(*(f.cpu() for f in mix)), "threshold"), "cuda:1")
    return "cuda:1 while cuda:0 is current"


def trial_is_passed(device: torch.device) -> str:
    """``auto`` takes the kernel on an accelerator."""
    values, mix = rows_of(100, 2, torch.float32, device)
    isotonic_soft_labels(values, mix)
    reasons = [trial.reason for trial in kernel_trials() if trial.reason]
    holds(not reasons, f"the kernel failed its trial: {reasons[:1]}")
    return f"{len(kernel_trials())} trials"


def fit_ten_steps(
    device: torch.device, kind: Any, precision: str, compile_student: bool, small: bool
) -> dict[str, Any]:
    """Ten steps of KD-i with one kind of mixing; the last loss and how often the host waited in a step."""
    torch.manual_seed(0)
    batch, classes = (16, 10) if small else (128, 100)
    images = torch.randint(256, (12 * batch, 3, 32, 32), dtype=torch.uint8)
    data = Pixels(InMemoryImages(images, torch.randint(classes, (len(images),))), classes, batch)
    data.mixing = Mixing(kind)
    name = "test_resnet" if small else "resnet18"
    teacher, student = (build_model(name, classes, 3, stem="small") for _ in range(2))
    module = DistillationModule(Teacher(teacher), torch.compile(student) if compile_student else student, classes)
    watch = _Losses()
    trainer = L.Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu", devices=1, precision=precision,  # type: ignore[arg-type]
        max_steps=10, limit_val_batches=0, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[IsotonicSoftLabelCallback(), watch],
    )  # fmt: skip
    waited = None
    if device.type == "cuda" and not compile_student:
        waited = host_syncs(lambda: trainer.fit(module, datamodule=data))  # type: ignore[arg-type, return-value]
    else:
        trainer.fit(module, datamodule=data)
    losses = torch.stack(watch.losses).float().cpu()
    holds(len(losses) == 10 and bool(losses.isfinite().all()), f"losses: {losses.tolist()}")
    rate = float(trainer.callback_metrics["train/violation_rate_corrected"])
    holds(rate == 0, f"{rate:.1%} of the corrected rows break their order")
    return {"last loss": round(float(losses[-1]), 4), "host waits in the fit": waited}


class _Losses(L.Callback):
    """Keeps the losses on the device."""

    def __init__(self) -> None:
        self.losses: list[Tensor] = []

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, *_: Any) -> None:
        """Keep the loss of this step."""
        self.losses.append((outputs["loss"] if isinstance(outputs, dict) else outputs).detach())
