"""Losses between features of a student and of its teacher, one value per row."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from ida_lightning.errors import InputError, float_matrix, floats_like, is_tensor, kind_of, non_negative, same_device
from ida_lightning.losses.base import relative_weights


def _wide(*features: Tensor) -> list[Tensor]:
    return [feature.to(torch.promote_types(feature.dtype, torch.float32)) for feature in features]


def _beside(student: Tensor, teacher: Tensor, least: int) -> None:
    for name, feature in (("student", student), ("teacher", teacher)):
        if not is_tensor(name, feature).is_floating_point() or feature.ndim < least or not len(feature):
            raise InputError(f"{name}: expected floating point features of {least} dimensions, got {kind_of(feature)}")
    if len(student) != len(teacher):
        raise InputError(f"teacher: expected {len(student)} rows, as the student has, got {kind_of(teacher)}")
    same_device("teacher", teacher, "student", student)


def hint_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Compute the mean square between projected features of the student and those of the teacher.

    Args:
        student: ``(batch, ...)``, floating point; half types are computed in float32.
        teacher: of the same shape.

    Returns:
        One loss per row, ``(batch,)``.

    Raises:
        InputError: for features of different shapes.

    Example:
        >>> hint_loss(torch.zeros(1, 2), torch.tensor([[1.0, 3.0]]))
        tensor([5.])

    References:
        Romero et al., FitNets, ICLR 2015, arXiv 1412.6550.
    """
    _beside(student, teacher, 2)
    floats_like("teacher", teacher, "student", student)
    student, teacher = _wide(student, teacher)
    return (student - teacher).square().flatten(1).mean(1)


def attention_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Compute how far apart the places are that two networks are active at, whatever the number of channels.

    The map of a row is the mean over its channels of the squares, divided by its length; the loss is the mean over the
    places of the squared difference of two maps, as in the authors' code (the paper has the length of the difference).
    The larger map is averaged down to the size of the smaller one.

    Args:
        student: ``(batch, channels, height, width)``.
        teacher: likewise, of any channels and size.

    Returns:
        One loss per row, ``(batch,)``.

    Raises:
        InputError: for features that are no maps.

    References:
        Zagoruyko and Komodakis, Paying More Attention to Attention, ICLR 2017, arXiv 1612.03928.
    """
    _beside(student, teacher, 4)
    size = min(student.shape[2], teacher.shape[2]), min(student.shape[3], teacher.shape[3])
    maps = [F.adaptive_avg_pool2d(feature.square().mean(1), size).flatten(1) for feature in _wide(student, teacher)]
    first, second = (F.normalize(each) for each in maps)
    return (first - second).square().mean(1)


def similarity_loss(student: Tensor, teacher: Tensor, weights: Tensor | None = None) -> Tensor:
    """Compute how differently two networks liken the rows of a batch to one another.

    With G = F F^T of features flattened to ``(batch, features)``, each row of it divided by its length, the loss of a
    row is the mean over the others of the squared difference; its mean is the paper's ``|G - G'|^2 / batch^2``.

    Args:
        student: ``(batch, ...)``.
        teacher: likewise, of any shape.
        weights: rows of weight 0 take no part; None is all rows.

    Returns:
        One loss per row, ``(batch,)``.

    Raises:
        InputError: for features of other rows.

    References:
        Tung and Mori, Similarity-Preserving Knowledge Distillation, ICCV 2019, arXiv 1907.09682.
    """
    _beside(student, teacher, 2)
    student, teacher = _wide(student, teacher)
    counts = relative_weights(_present(weights), student.flatten(1))
    kept = (counts > 0).to(counts.dtype)[:, None]
    grams = [F.normalize((kept * flat) @ (kept * flat).T) for flat in (student.flatten(1), teacher.flatten(1))]
    return (counts * (grams[0] - grams[1]).square()).sum(1)


def rkd_loss(
    student: Tensor,
    teacher: Tensor,
    distance: float = 25.0,
    angle: float = 50.0,
    weights: Tensor | None = None,
) -> Tensor:
    """Compute relational distillation: distances between two rows, and angles between three.

    Distances are divided by their mean over the pairs of different rows; differences of distances, and of cosines at
    a row between two others, go through the Huber loss. A row's loss is the mean over what it is compared with. Angles
    cost batch^3.

    Args:
        student: ``(batch, features)``.
        teacher: likewise, of any number of features.
        distance: weight of the distances.
        angle: weight of the angles.
        weights: rows of weight 0 take no part; None is all rows.

    Returns:
        One loss per row, ``(batch,)``.

    Raises:
        InputError: for features of other rows and negative weights.

    References:
        Park et al., Relational Knowledge Distillation, CVPR 2019, arXiv 1904.05068.
    """
    _beside(student, teacher, 2)
    float_matrix("student", student, "features")
    float_matrix("teacher", teacher, "features")
    non_negative("distance", distance)
    non_negative("angle", angle)
    student, teacher = _wide(student, teacher)
    counts = relative_weights(_present(weights), student)
    loss = torch.zeros_like(counts)
    if distance:
        apart = F.smooth_l1_loss(_distances(student, counts), _distances(teacher, counts), reduction="none")
        loss = loss + distance * (counts * apart).sum(1)
    if angle:
        turned = F.smooth_l1_loss(_angles(student), _angles(teacher), reduction="none")
        loss = loss + angle * torch.einsum("ijk,j,k->i", turned, counts, counts)
    return loss


def _present(weights: Tensor | None) -> Tensor | None:
    return None if weights is None else (weights > 0).to(torch.float32)


def _products(features: Tensor) -> tuple[Tensor, Tensor]:
    """Return products of rows less their mean, and squared distances; both ``(batch, batch)``.

    From products, because differences of all pairs are batch^2 rows of features; less their mean, so that little
    cancels. A distance that is rounding is 0.
    """
    centred = features - features.mean(0)
    products = centred @ centred.T
    sizes = products.diagonal()
    sizes = sizes[:, None] + sizes
    squares = sizes - 2 * products
    return products, torch.where(squares > 16 * torch.finfo(squares.dtype).eps * sizes.detach(), squares, 0)


def _distances(features: Tensor, counts: Tensor) -> Tensor:
    squares = _products(features)[1]
    apart = squares > 0
    lengths = torch.where(apart, squares, 1).sqrt() * apart  # the root of 0 has no gradient
    pairs = counts[:, None] * counts * apart
    mean = (pairs * lengths).sum() / pairs.sum().clamp_min(torch.finfo(lengths.dtype).tiny)
    return lengths / mean.clamp_min(torch.finfo(lengths.dtype).eps)


def _angles(features: Tensor) -> Tensor:
    """Return the cosines ``(batch, batch, batch)`` at a row between two others, 0 where a side has no length."""
    products, squares = _products(features)
    inverse = torch.where(squares > 0, torch.where(squares > 0, squares, 1).rsqrt(), 0)
    own = products.diagonal()[:, None] - products  # (a_i - a_j) . a_i
    inner = own[:, :, None] - products[:, None, :] + products[None]
    return inner * inverse[:, :, None] * inverse[:, None, :]
