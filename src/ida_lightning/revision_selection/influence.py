"""What it does to the validation loss that an image is taught by the teacher: influence on a linear softmax head.

The head maps features ``(rows, features)`` to logits ``features @ weight.T``; a bias is a column of ones among the
features. Its loss is convex in ``weight`` ``(classes, features)``, gradients are outer products of residuals (of the
logits) and features, and the Gauss-Newton matrix is the Hessian itself, so that influence functions are exact for it up
to the first order.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ida_lightning.errors import positive


def teaching_residuals(logits: Tensor, teacher_logits: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Compute how the gradient changes when the teacher's soft label takes the place of the ground truth.

    The gradient of ``T^2 KL(softmax(teacher_logits / T) || softmax(logits / T)) - cross_entropy(logits, labels)`` in
    the logits: ``T (softmax(logits / T) - softmax(teacher_logits / T)) - (softmax(logits) - one_hot(labels))``.

    Args:
        logits: ``(rows, classes)``, of the network whose head is looked at.
        teacher_logits: ``(rows, classes)``; may be the same.
        labels: int64 ``(rows,)``.
        temperature: T.

    Returns:
        ``(rows, classes)``.

    Example:
        >>> logits = torch.tensor([[0.0, 0.0]])
        >>> teaching_residuals(logits, logits, torch.tensor([0]), temperature=4.0)
        tensor([[ 0.5000, -0.5000]])
    """
    taught = temperature * ((logits / temperature).softmax(1) - (teacher_logits / temperature).softmax(1))
    return taught - label_residuals(logits.softmax(1), labels)


def label_residuals(probs: Tensor, labels: Tensor) -> Tensor:
    """Compute the gradient of the cross-entropy in the logits, ``probs - one_hot(labels)``, ``(rows, classes)``."""
    return probs - torch.nn.functional.one_hot(labels, probs.shape[1]).to(probs.dtype)


def gauss_newton_product(features: Tensor, probs: Tensor, direction: Tensor) -> Tensor:
    """Multiply the Hessian of the head's mean cross-entropy, never formed, by a direction ``(classes, features)``.

    ``mean over rows of (diag(probs) - probs probs^T) direction feature feature^T``.
    """
    change = features @ direction.T
    change = probs * (change - (probs * change).sum(1, keepdim=True))
    return change.T @ features / len(features)


def curvature(features: Tensor, probs: Tensor) -> Tensor:
    """Compute the diagonal of that Hessian, ``(classes, features)``."""
    return (probs * (1 - probs)).T @ features.square() / len(features)


class Solution(NamedTuple):
    """What :func:`solve_gauss_newton` found.

    Attributes:
        direction: ``(classes, features)``.
        residual: length of what is left of the right-hand side, as a share of it.
        steps: of conjugate gradients.
    """

    direction: Tensor
    residual: float
    steps: int


def solve_gauss_newton(
    features: Tensor, probs: Tensor, gradient: Tensor, damping: float, tolerance: float = 1e-8, max_steps: int = 1000
) -> Solution:
    """Solve ``(H + damping I) direction = gradient`` for the Hessian H of the head, by conjugate gradients.

    H has (classes * features) squared entries and is never formed: a step costs two products of the size of the head's
    own forward pass over these rows. Preconditioned with the diagonal.

    Args:
        features: ``(rows, features)``, best in float64.
        probs: ``(rows, classes)``, the head's softmax.
        gradient: ``(classes, features)``.
        damping: > 0; added to the diagonal, as an L2 penalty of half of it would.
        tolerance: the residual at which to stop.
        max_steps: after which to stop anyway.

    Raises:
        InputError: for a damping that is not > 0.

    Example:
        >>> features, probs = torch.ones(1, 1).double(), torch.full((1, 2), 0.5).double()
        >>> solve_gauss_newton(features, probs, torch.tensor([[1.0], [-1.0]]).double(), damping=0.5).direction
        tensor([[ 1.],
                [-1.]], dtype=torch.float64)
    """
    positive("damping", damping)
    diagonal = curvature(features, probs) + damping
    direction = torch.zeros_like(gradient)
    left = gradient.clone()
    goal = tolerance * float(gradient.norm())
    search = left / diagonal
    size = (left * search).sum()
    steps = 0
    while steps < max_steps and float(left.norm()) > goal:
        steps += 1
        product = gauss_newton_product(features, probs, search) + damping * search
        length = size / (search * product).sum()
        direction += length * search
        left -= length * product
        scaled = left / diagonal
        size, before = (left * scaled).sum(), size
        search = scaled + (size / before) * search
    norm = float(gradient.norm())
    return Solution(direction, float(left.norm()) / norm if norm > 0 else 0.0, steps)


def influence(direction: Tensor, features: Tensor, residuals: Tensor) -> Tensor:
    """Compute by how much the validation loss falls per unit of weight that a row moves from the truth to the teacher.

    With the head at a minimum of the damped cross-entropy with the ground truth, and ``eps`` times (distillation loss -
    cross-entropy) of one row added, the minimum moves by ``-eps (H + damping I)^-1 delta``, where delta is the row's
    gradient of that difference, and the mean validation loss by its product with the validation gradient g. This is

        ``score = g . (H + damping I)^-1 delta = -d(validation loss) / d(eps)``:

    **positive where the teacher's soft label helps** more than the ground truth, negative where it harms.
    Replacing one of n rows wholly is eps = 1 / n.

    Args:
        direction: ``(H + damping I)^-1 g``, ``(classes, features)``; see :func:`solve_gauss_newton`.
        features: ``(rows, features)``.
        residuals: ``(rows, classes)``; see :func:`teaching_residuals`.

    Returns:
        ``(rows,)``.

    References:
        Koh and Liang, Understanding Black-box Predictions via Influence Functions, ICML 2017, arXiv 1703.04730.
    """
    return ((residuals @ direction) * features).sum(1)
