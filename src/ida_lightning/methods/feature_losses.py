"""Feature losses without a memory: hints, attention, similarity and relations."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn
from torch.nn import functional as F

from ida_lightning.errors import non_negative
from ida_lightning.losses.features import attention_loss, hint_loss, rkd_loss, similarity_loss
from ida_lightning.methods.feature_loss import PENULTIMATE, FeatureLoss, cannot_compare, pooled
from ida_lightning.supervision import Supervision


class HintCallback(FeatureLoss):
    """Adds the mean square between the student's features, projected, and the teacher's.

    Maps are projected by a 1 x 1 convolution, the larger is averaged down to the size of the smaller; tokens and
    vectors by a linear layer. Several layers add up.

    Args:
        student_layers: see :class:`FeatureLoss`.
        teacher_layers: see :class:`FeatureLoss`.
        weight: of the term.
        name: see :class:`~ida_lightning.methods.base.Method`.

    Raises:
        InputError: see :class:`FeatureLoss`.

    Example:
        >>> hint = HintCallback(student_layers="layer3", teacher_layers="layer3")

    References:
        Romero et al., FitNets, ICLR 2015, arXiv 1412.6550; there before the distillation, here beside it.
    """

    term = "hint"

    def build_projector(self, student: list[Tensor], teacher: list[Tensor]) -> Mapping[str, nn.Module]:
        """Build a projector for each pair of layers."""
        projectors: dict[str, nn.Module] = {}
        for number, (mine, theirs) in enumerate(zip(student, teacher, strict=True)):
            if mine.ndim != theirs.ndim or (mine.ndim == 3 and mine.shape[1] != theirs.shape[1]):
                raise cannot_compare(mine, theirs, "layers that both give maps, vectors or as many tokens")
            if mine.ndim == 4:
                projectors[str(number)] = nn.Conv2d(mine.shape[1], theirs.shape[1], 1)
            else:
                projectors[str(number)] = nn.Linear(mine.shape[-1], theirs.shape[-1])
        return projectors

    def compare(self, student: list[Tensor], teacher: list[Tensor], supervision: Supervision) -> Tensor:
        """Compute :func:`hint_loss` of every pair of layers, added up."""
        rows = []
        for number, (mine, theirs) in enumerate(zip(student, teacher, strict=True)):
            if mine.ndim == 4:
                size = min(mine.shape[2], theirs.shape[2]), min(mine.shape[3], theirs.shape[3])
                mine, theirs = (F.adaptive_avg_pool2d(side, size) for side in (mine, theirs))
            rows.append(hint_loss(self.project(str(number), mine), theirs))
        return sum(rows[1:], rows[0])


class AttentionCallback(FeatureLoss):
    """Adds the difference between where the student's maps and where the teacher's are active.

    Args:
        student_layers: that give maps; see :class:`FeatureLoss`.
        teacher_layers: likewise.
        weight: of the term; 1000 is usual.
        name: see :class:`~ida_lightning.methods.base.Method`.

    Raises:
        InputError: see :class:`FeatureLoss`.

    Example:
        >>> attention = AttentionCallback(["layer2", "layer3"], ["layer2", "layer3"], weight=1000.0)

    References:
        Zagoruyko and Komodakis, ICLR 2017, arXiv 1612.03928.
    """

    term = "attention"

    def build_projector(self, student: list[Tensor], teacher: list[Tensor]) -> Mapping[str, nn.Module]:
        """Check that all features are maps; nothing is trained."""
        for mine, theirs in zip(student, teacher, strict=True):
            if mine.ndim != 4 or theirs.ndim != 4:
                raise cannot_compare(mine, theirs, "layers that give maps (channels, height, width)")
        return {}

    def compare(self, student: list[Tensor], teacher: list[Tensor], supervision: Supervision) -> Tensor:
        """Compute :func:`attention_loss` of every pair of layers, added up."""
        rows = [attention_loss(*pair) for pair in zip(student, teacher, strict=True)]
        return sum(rows[1:], rows[0])


class SimilarityCallback(FeatureLoss):
    """Adds the difference between how the student's and how the teacher's features liken the rows of a batch.

    Args:
        student_layers: see :class:`FeatureLoss`.
        teacher_layers: see :class:`FeatureLoss`.
        weight: of the term; 3000 is usual.
        name: see :class:`~ida_lightning.methods.base.Method`.

    Raises:
        InputError: see :class:`FeatureLoss`.

    Example:
        >>> similarity = SimilarityCallback(weight=3000.0)

    References:
        Tung and Mori, ICCV 2019, arXiv 1907.09682.
    """

    term = "similarity"

    def compare(self, student: list[Tensor], teacher: list[Tensor], supervision: Supervision) -> Tensor:
        """Compute :func:`similarity_loss` of every pair of layers, added up."""
        pairs = zip(student, teacher, strict=True)
        rows = [similarity_loss(*pair, supervision.soft_weight) for pair in pairs]
        return sum(rows[1:], rows[0])


class RKDCallback(FeatureLoss):
    """Adds the differences between the distances of two rows, and the angles of three, in the two feature spaces.

    Args:
        student_layers: see :class:`FeatureLoss`; maps and tokens are averaged.
        teacher_layers: see :class:`FeatureLoss`.
        weight: of the term.
        distance: weight of the distances in it.
        angle: weight of the angles in it, which cost batch^3.
        name: see :class:`~ida_lightning.methods.base.Method`.

    Raises:
        InputError: see :class:`FeatureLoss`, and for negative weights.

    Example:
        >>> relations = RKDCallback(angle=0.0)

    References:
        Park et al., CVPR 2019, arXiv 1904.05068.
    """

    term = "rkd"

    def __init__(
        self,
        student_layers: str | list[str] = PENULTIMATE,
        teacher_layers: str | list[str] = PENULTIMATE,
        weight: float = 1.0,
        distance: float = 25.0,
        angle: float = 50.0,
        name: str | None = None,
    ) -> None:
        super().__init__(student_layers, teacher_layers, weight, name)
        self.distance = non_negative("distance", distance)
        self.angle = non_negative("angle", angle)

    def compare(self, student: list[Tensor], teacher: list[Tensor], supervision: Supervision) -> Tensor:
        """Compute :func:`rkd_loss` of every pair of layers, added up."""
        pairs = zip(map(pooled, student), map(pooled, teacher), strict=True)
        rows = [rkd_loss(*pair, self.distance, self.angle, supervision.soft_weight) for pair in pairs]
        return sum(rows[1:], rows[0])
