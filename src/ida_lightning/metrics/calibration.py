"""Whether a network is as often right as it says, as it is and after temperature scaling."""

import math

import torch
from torch import Tensor

from ida_lightning.errors import (
    InputError,
    at_least,
    can_look,
    float_matrix,
    int_vector,
    labels_in_range,
    probabilities,
    same_device,
)

# The temperature is looked for from a millionth to a million times the spread of the logits.
_WIDEST = 1e6
_STEPS = 200
# A Newton step this small, relative to where it starts, is the last one: the next would be its square.
_CLOSE = 1e-9


def expected_calibration_error(probs: Tensor, labels: Tensor, bins: int = 15) -> Tensor:
    """Compute how far a network's confidence is from how often it is right.

    Rows are sorted by confidence, the largest probability of a row, into bins of equal width. The error is the mean
    over bins of ``|share of right predictions - mean confidence|``, weighted with the rows in the bin. A small student
    that only says less is better calibrated without knowing more: report it after :func:`fit_temperature`, too.

    A bin holds its lower bound, the last one both. ``torchmetrics`` gives a confidence of exactly 1 a bin of its own,
    so its result can be larger where softmax saturates.

    Args:
        probs: ``(batch, classes)``; counted in float32. On the CPU it is checked that they are probabilities.
        labels: int64 ``(batch,)``.
        bins: how many.

    Returns:
        A number from 0 to 1 as a tensor ``()``; NaN for an empty batch. The host does not wait for it. For more than
        one batch put their rows together first: a mean over batches is biased.

    Raises:
        InputError: for shapes or dtypes that do not fit, fewer than one bin and, on the CPU, values out of range.

    Example:
        >>> probs = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6]])
        >>> expected_calibration_error(probs, torch.tensor([0, 1, 1]))  # (2 * |0.5 - 0.9| + 1 * |1 - 0.6|) / 3
        tensor(0.4000)

    References:
        Guo et al., On Calibration of Modern Neural Networks, ICML 2017, arXiv 1706.04599.
    """
    at_least("bins", bins, 1)
    probabilities("probs", probs)
    _check(probs, labels, "probs")
    if can_look(labels):
        labels_in_range("labels", labels, probs.shape[1])
    confidence, predicted = probs.float().max(1)
    edges = torch.linspace(0, 1, bins + 1, device=probs.device)
    # A sum per bin rather than index_add, whose order of summation is left to chance on CUDA.
    in_bin = torch.bucketize(confidence, edges[1:-1], right=True)[:, None] == torch.arange(bins, device=probs.device)
    gap = (predicted == labels).float() - confidence
    # Share of right predictions minus mean confidence, times the rows of the bin.
    gaps = torch.where(in_bin, gap[:, None], 0).sum(0)
    return gaps.abs().sum() / len(gap)


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Find the temperature at which a network's probabilities fit the labels best: temperature scaling.

    Minimises the mean negative log-likelihood (NLL) of ``softmax(logits / temperature)``. It is convex in
    1 / temperature, so there is one minimum; found by Newton steps on its slope, kept inside a bracket, in float64:
    deterministic up to the order in which the device adds, and exact for saturated logits. Changes no prediction. Fit
    on validation data, report on others.

    Where the likelihood has no best temperature, the end of the range is returned: a millionth of the logits' spread
    (the mean over rows of largest minus smallest) if every row is right, a million times the spread if the logits say
    nothing or the contrary. With a spread of 0 every temperature is the same, and 1 is returned.

    Args:
        logits: ``(batch, classes)``, finite.
        labels: int64 ``(batch,)``, on the same device. The host waits for the device.

    Returns:
        The temperature, > 0. Adding a number to a row of logits does not change it; logits times s have s times it.

    Raises:
        InputError: for shapes, dtypes or devices that do not fit, an empty batch, labels out of range, and logits that
            are NaN or infinite.

    Example:
        >>> logits = torch.tensor([[3.0, 0.0]]).expand(4, 2)
        >>> temperature = fit_temperature(logits, torch.tensor([0, 0, 0, 1]))  # right three times of four
        >>> (logits[0] / temperature).softmax(0)
        tensor([0.7500, 0.2500])

    References:
        Guo et al., On Calibration of Modern Neural Networks, ICML 2017, arXiv 1706.04599, section 4.2.
    """
    _check(logits, labels, "logits")
    if logits.numel() == 0:
        raise InputError(f"logits: expected at least one row and class, got {tuple(logits.shape)}")
    # No float64 on Apple's GPUs.
    device = "cpu" if logits.device.type == "mps" else logits.device
    logits, labels = logits.detach().to(device).double(), labels.to(device)
    if not bool(logits.isfinite().all()):
        raise InputError("logits: expected finite numbers, got NaN or infinity")
    labels_in_range("labels", labels, logits.shape[1])
    # Against the largest logit, so that nothing overflows and constants drop out.
    logits = logits - logits.amax(1, keepdim=True)
    spread = -float(logits.amin(1).mean())
    if spread == 0:
        return 1.0
    # Rows against their own label: the NLL is the mean of log sum exp(inverse * gaps).
    gaps = logits - logits.gather(1, labels[:, None])
    return spread / _root(logits / spread, gaps / spread)


def _root(logits: Tensor, gaps: Tensor) -> float:
    """Find the inverse temperature where the slope of the NLL, which never falls, goes through zero."""
    low, high = 1 / _WIDEST, _WIDEST
    if _slope(low, logits, gaps)[0] >= 0:
        return low
    if _slope(high, logits, gaps)[0] <= 0:
        return high
    inverse, before = 1.0, math.inf
    for _ in range(_STEPS):
        slope, curvature = _slope(inverse, logits, gaps)
        if slope == 0:
            break
        low, high = (inverse, high) if slope < 0 else (low, inverse)
        step = inverse - slope / curvature if curvature > 0 else math.inf
        if abs(step - inverse) <= _CLOSE * inverse:
            return step
        # Newton while it gains; otherwise halve the bracket, on a logarithmic scale.
        gains = low < step < high and abs(slope) <= before / 2
        following = step if gains else math.sqrt(low * high)
        before = abs(slope)
        if following == inverse:
            break
        inverse = following
    return inverse


def _slope(inverse: float, logits: Tensor, gaps: Tensor) -> tuple[float, float]:
    """First and second derivative of the mean NLL by the inverse temperature: mean and variance of the gaps."""
    probs = (inverse * logits).softmax(1)
    mean = (probs * gaps).sum(1)
    variance = (probs * (gaps - mean[:, None]).square()).sum(1)
    slope, curvature = torch.stack((mean.mean(), variance.mean())).tolist()
    return slope, curvature


def _check(values: Tensor, labels: Tensor, name: str) -> None:
    float_matrix(name, values)
    same_device("labels", int_vector("labels", labels, len(values)), name, values)
