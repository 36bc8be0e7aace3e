"""How far two distributions over the classes are apart, and how undecided one is."""

from typing import NamedTuple

import torch
from torch import Tensor

from ida_lightning.errors import (
    InputError,
    can_look,
    float_matrix,
    floats_like,
    not_nan,
    sum_tolerance,
    sums_of_one,
)


def moved_mass(before: Tensor, after: Tensor) -> Tensor:
    """Compute the share of every row's probability that a correction moved: total variation, from 0 to 1.

    Args:
        before: probabilities ``(batch, classes)``. On the CPU it is checked that rows sum to 1.
        after: the same after the correction.

    Returns:
        ``(batch,)``.

    Raises:
        InputError: if shapes differ (they would broadcast to a wrong result), or rows do not sum to 1.

    Example:
        >>> moved_mass(torch.tensor([[0.2, 0.8]]), torch.tensor([[0.5, 0.5]]))
        tensor([0.3000])
    """
    float_matrix("before", before)
    floats_like("after", after, "before", before)
    for name, rows in (("before", before), ("after", after)):
        if can_look(rows):
            sums_of_one(name, rows, least_tolerance=0.01)
    return (after - before).abs().sum(1) / 2


def kl_divergence(log_probs: Tensor, reference_log_probs: Tensor) -> Tensor:
    """Compute how far a distribution is from its reference: ``KL(probs || reference)`` of every row.

    From logarithms, so that a probability too small for its dtype still counts. A class without probability adds 0,
    also where the reference has none either; one that only the reference rules out makes the row infinite.

    Args:
        log_probs: ``(batch, classes)``, such as a ``log_softmax``; minus infinity for probability 0.
        reference_log_probs: the same of the reference.

    Returns:
        ``(batch,)`` in nats, at least 0 in spite of rounding; float32, or float64 if both are.

    Raises:
        InputError: if shapes differ (they would broadcast to a wrong result) and, on the CPU, for values that are no
            log-probabilities. Rows with a NaN are NaN.

    Example:
        >>> kl_divergence(torch.tensor([[0.5, 0.5, 0.0]]).log(), torch.tensor([[0.25, 0.75, 0.0]]).log())
        tensor([0.1438])
    """
    _log_probabilities("log_probs", log_probs)
    floats_like("reference_log_probs", reference_log_probs, "log_probs", log_probs)
    _log_probabilities("reference_log_probs", reference_log_probs)
    both_double = log_probs.dtype == reference_log_probs.dtype == torch.float64
    dtype = torch.float64 if both_double else torch.float32
    log_probs, reference_log_probs = log_probs.to(dtype), reference_log_probs.to(dtype)
    probs = log_probs.exp()
    # Not probs > 0: a NaN must stay one.
    terms = torch.where(probs == 0, 0, probs * (log_probs - reference_log_probs))
    return terms.sum(1).clamp_min(0)


def prediction_entropy(logits: Tensor) -> Tensor:
    """Compute how undecided a network is: the entropy of ``softmax(logits)`` of every row, at temperature 1.

    From log-probabilities: a probability too small for its dtype adds 0, not NaN.

    Args:
        logits: ``(batch, classes)``, finite; half types are computed in float32.

    Returns:
        ``(batch,)`` in nats, from 0 to log(classes).

    Raises:
        InputError: if ``logits`` is no floating point matrix and, on the CPU, for NaN.

    Example:
        >>> prediction_entropy(torch.tensor([[0.0, 0.0], [200.0, 0.0]]))
        tensor([0.6931, 0.0000])
    """
    float_matrix("logits", logits)
    not_nan("logits", logits)
    log_probs = logits.log_softmax(1, dtype=torch.promote_types(logits.dtype, torch.float32))
    return (log_probs.exp() * -log_probs).sum(1)


class Agreement(NamedTuple):
    """What :func:`prediction_agreement` finds in every row; both ``(batch,)``.

    Attributes:
        same: bool: student and teacher name the same class.
        kl: ``KL(teacher || student)`` at temperature 1, in nats.
    """

    same: Tensor
    kl: Tensor


def prediction_agreement(student_logits: Tensor, teacher_logits: Tensor) -> Agreement:
    """Compare what a student and its teacher say; a student can be as accurate and still make other mistakes.

    Args:
        student_logits: ``(batch, classes)``; computed in float32, in float64 if both are.
        teacher_logits: ``(batch, classes)``.

    Returns:
        Equal predictions and the divergence from the teacher, per row. Among equal logits the first class is named.

    Raises:
        InputError: if shapes or devices differ.

    Example:
        >>> found = prediction_agreement(torch.tensor([[2.0, 1.0]]), torch.tensor([[4.0, 1.0]]))
        >>> found.same, found.kl
        (tensor([True]), tensor([0.1698]))

    References:
        Stanton et al., Does Knowledge Distillation Really Work?, NeurIPS 2021, arXiv 2106.05945.
    """
    float_matrix("student_logits", student_logits)
    floats_like("teacher_logits", teacher_logits, "student_logits", student_logits)
    same = student_logits.argmax(1) == teacher_logits.argmax(1)
    student, teacher = (
        logits.log_softmax(1, dtype=torch.promote_types(logits.dtype, torch.float32))
        for logits in (student_logits, teacher_logits)
    )
    return Agreement(same, kl_divergence(teacher, student))


def _log_probabilities(name: str, value: Tensor) -> None:
    """Raise :class:`InputError` unless ``value`` is ``(batch, classes)`` and, on the CPU, rows of log-probabilities."""
    if not len(float_matrix(name, value)) or not can_look(value):
        return
    sums = value.detach().float().logsumexp(1)
    # NaN is let through: it is the answer for its row.
    wrong = sums.exp().sub(1).abs() > sum_tolerance(value.dtype, least=0.01)
    if bool(wrong.any()):
        found = float(sums[wrong][0].exp())
        raise InputError(f"{name}: expected log-probabilities, got a row whose probabilities sum to {found:g}")
