"""Which solver ``auto`` is: the kernel where a trial on the device says that it works, and what the trials said."""

from __future__ import annotations

import warnings
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor

from ida_lightning.isotonic.kernel.plan import IN_REGISTERS
from ida_lightning.isotonic.threshold import threshold_solver
from ida_lightning.label_mix import LabelMix

Form = Literal["plain", "softmax", "margin"]
Chosen = Literal["threshold", "triton"]

# What the ahead-of-time report covers (benchmarks/results/ahead_of_time.md). Longer rows wait for a figure of a GPU.
_MOST_RANKED = 4
_TRIED_ON = {"cuda"}
_TRIAL_ROWS, _MARGIN, _TEMPERATURE = 5, 0.3, 2.0


class KernelTrial(NamedTuple):
    """What came of a trial of the kernel.

    Attributes:
        device: on which, such as ``cuda:0``.
        dtype: of the values.
        form: ``plain``, ``softmax`` (fused with it) or ``margin``.
        classes: of a row.
        ranked: classes that a label could name.
        reason: why ``threshold`` is taken instead; None where the kernel is.
    """

    device: str
    dtype: str
    form: str
    classes: int
    ranked: int
    reason: str | None


_TRIALS: dict[tuple[object, ...], KernelTrial] = {}


def kernel_trials() -> list[KernelTrial]:
    """Return the outcomes of the trials that ``solver="auto"`` has made in this process, in their order.

    On an accelerator the kernel needs more than Triton: a driver that it knows, and on NVIDIA a C compiler and Python's
    headers when it is first launched. So ``auto`` tries: once for every device, dtype and kind of launch, on a few
    rows, compared with ``threshold``. On a CPU nothing is tried, and the list is empty.

    Example:
        >>> kernel_trials()
        []
    """
    return list(_TRIALS.values())


def describe_trials() -> str:
    """Say in one line what the trials came to.

    Example:
        >>> describe_trials()
        'isotonic solver: threshold (the kernel was not tried: nothing was computed on an accelerator)'
    """
    if not _TRIALS:
        return "isotonic solver: threshold (the kernel was not tried: nothing was computed on an accelerator)"
    failed = [trial for trial in _TRIALS.values() if trial.reason is not None]
    if not failed:
        return f"isotonic solver: triton (agreed with threshold in {len(_TRIALS)} of {len(_TRIALS)} trials)"
    return f"isotonic solver: threshold (the kernel failed {len(failed)} of {len(_TRIALS)} trials: {failed[0].reason})"


def choose(values: Tensor, label_mix: LabelMix, form: Form = "plain") -> Chosen:
    """Return the solver that ``auto`` is for these rows; the first call of a kind makes a trial.

    Args:
        values: ``(batch, classes)``.
        label_mix: ``(batch, k)``.
        form: what the kernel would compute.
    """
    if not tries_on(values) or values.dtype == torch.float64:
        return "threshold"
    classes, ranked = int(values.shape[1]), int(label_mix.labels.shape[1])  # a traced size is made a number
    if classes > IN_REGISTERS or ranked > _MOST_RANKED:
        return "threshold"
    return "triton" if _works(values.device, values.dtype, form, classes, ranked) else "threshold"


def tries_on(values: Tensor) -> bool:
    """Whether ``auto`` tries the kernel where ``values`` are; elsewhere there is nothing to choose."""
    return values.device.type in _TRIED_ON


def _works(device: torch.device, dtype: torch.dtype, form: Form, classes: int, ranked: int) -> bool:
    key = (device, dtype, form, classes, ranked)
    if key not in _TRIALS:
        if _cannot_try(device):
            return False
        reason = torch.compiler.disable(try_kernel)(  # type: ignore[no-untyped-call]
            device, dtype, form, classes, ranked
        )
        name = str(dtype).removeprefix("torch.")
        _TRIALS[key] = KernelTrial(str(device), name, form, classes, ranked, reason)
        if reason is not None:
            warnings.warn(
                f"isotonic: the kernel fails on {device} ({name}, {form}, {classes} classes, {ranked} ranked): "
                f"{reason}; solver auto takes threshold from here on",
                stacklevel=2,
            )
    return _TRIALS[key].reason is None


# A compiled graph holds the outcome: the trial itself is not traced. This is torch.compiler.assume_constant_result,
# which would load the whole compiler, and Triton with it, when this package is imported.
_works._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _cannot_try(device: torch.device) -> bool:
    """Whether nothing can be computed now: values are fake, or a CUDA graph is being recorded."""
    if isinstance(torch.empty(0, device=device), FakeTensor):
        return True
    return torch.cuda.is_available() and torch.cuda.is_current_stream_capturing()


def try_kernel(device: torch.device, dtype: torch.dtype, form: Form, classes: int, ranked: int) -> str | None:
    """Launch the kernel on a few rows and compare it with ``threshold``; return why it cannot be used, or None.

    Some rows are in order, some are wrong; no random numbers are drawn.
    """
    try:
        # Where Triton or the driver is missing or too old, whatever is raised is the reason.
        with torch.no_grad(), torch.inference_mode(False):
            values, mix = _rows(classes, ranked)
            found, expected = _compared(values.to(device, dtype), LabelMix(*(field.to(device) for field in mix)), form)
            found, expected = found.float().cpu(), expected.float().cpu()
    except Exception as error:  # noqa: BLE001
        said = " ".join(str(error).split())
        return f"{type(error).__name__}: {said if len(said) <= 200 else said[:199] + '…'}"
    if found.shape == expected.shape and bool(torch.isfinite(found).all()):
        off = float((found - expected).abs().max())
        if off <= 1e-5 + 2 * torch.finfo(dtype).eps * (dtype != torch.float32):
            return None
        return f"its result is off by {off:.2g}"
    return "its result is not finite"


def _rows(classes: int, ranked: int) -> tuple[Tensor, LabelMix]:
    places = torch.arange(_TRIAL_ROWS * classes, dtype=torch.float64).view(_TRIAL_ROWS, classes)
    logits = 2 * torch.sin(places * 12.9898) + torch.cos(places * 4.1414)
    labels = (torch.arange(_TRIAL_ROWS)[:, None] * 7 + torch.arange(ranked) * 3) % classes
    weights = torch.arange(ranked, 0, -1, dtype=torch.float32).expand(_TRIAL_ROWS, -1)
    logits[0].scatter_(0, labels[0], 9.0 + weights[0].double())  # in order
    return logits.softmax(1), LabelMix(labels, weights / weights.sum(1, keepdim=True))


def _compared(values: Tensor, mix: LabelMix, form: Form) -> tuple[Tensor, Tensor]:
    """What the kernel and the solver to compare with make of the rows."""
    from ida_lightning.isotonic.kernel import operators

    exact = values.double()
    if form == "softmax":
        logits = (values + 1e-3).log()
        softened = (logits.double() / _TEMPERATURE).softmax(1)
        return operators.launch(logits, *mix, _TEMPERATURE), threshold_solver(softened, mix)
    if form == "margin":
        lead = _MARGIN * mix.dense(values.shape[1])
        found = operators.launch(values, *mix, margin=_MARGIN)
        # Where no mass falls below 0, the projection of isotonic_with_margin changes nothing.
        ordered = threshold_solver(exact - lead, mix)
        kept = (ordered >= 0).all(1, keepdim=True)
        return torch.where(kept, found, 0), torch.where(kept, ordered + lead, 0)
    return operators.launch(values, *mix), threshold_solver(exact, mix)
