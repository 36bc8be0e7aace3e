"""T. stddev, a metric that adds up over batches and processes. Only this module loads torchmetrics."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from ida_lightning.errors import InputError, kind_of


class TeacherStddev(Metric):
    """T. stddev: tells good data augmentation for distillation from bad without training a student; lower is better.

    The more diverse the images, the less does the mean of the teacher's probabilities over a few hundred of them vary.
    As the authors' code defines it: collect ``window`` outputs of the teacher, at temperature 1, and average them to
    one vector u; over all u, the unbiased standard deviation of each class; the mean over classes. They update twice a
    step, with the clean and with the augmented batch of 64 images, take ``window=10``, so 640 images for each u, and
    run 10 epochs: 1564 vectors on CIFAR-100.

    The value falls with one over the root of the images behind each u: compare only where ``window`` and the batch size
    *per process* are the same. Every process fills windows of its own, and the result is exactly that of all their
    vectors together.

    What the definition leaves open, and what is done here:

    * A batch that is smaller than the others, such as the last of an epoch: every image weighs the same in its u,
      rather than every batch.
    * Windows run on over the end of an epoch: 10 epochs of 782 steps, 5 steps a window, give just those 1564.
    * A window that is not full at the end is left out; in that setting there is none.

    Args:
        num_classes: width of the teacher's output.
        window: outputs per vector u.
        **kwargs: for ``torchmetrics.Metric``.

    Raises:
        InputError: for numbers below 1, and in ``update`` for another number of classes.

    Example:
        >>> metric = TeacherStddev(num_classes=2, window=2)
        >>> for first in (0.6, 0.4, 0.9, 0.5):  # two vectors u: 0.5 and 0.7
        ...     metric.update(torch.tensor([[first, 1 - first]]))
        >>> metric.compute()
        tensor(0.1414)

    References:
        Wang et al., What Makes a "Good" Data Augmentation in Knowledge Distillation, NeurIPS 2022, arXiv 2012.02909.
    """

    # Windows do not add up: forward must not merge the state of a batch into that of the epoch.
    full_state_update = True
    window_sum: Tensor
    window_rows: Tensor
    outputs: Tensor
    vectors: Tensor
    mean: Tensor
    squares: Tensor

    def __init__(self, num_classes: int, window: int = 10, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        for name, number in (("num_classes", num_classes), ("window", window)):
            if number < 1:
                raise InputError(f"{name}: expected at least 1, got {number}")
        self.num_classes, self.window = num_classes, window
        # The window being filled, and the moments of those that are full. Not reduced but stacked, one per process.
        for name in ("window_sum", "mean", "squares"):
            self.add_state(name, torch.zeros(num_classes), None)
        for name in ("window_rows", "outputs", "vectors"):
            self.add_state(name, torch.tensor(0), None)

    def update(self, teacher_probs: Tensor) -> None:
        """Take in one output of the teacher: probabilities ``(batch, num_classes)`` at temperature 1."""
        if teacher_probs.ndim != 2 or teacher_probs.shape[1] != self.num_classes:
            raise InputError(f"teacher_probs: expected (batch, {self.num_classes}), got {kind_of(teacher_probs)}")
        total = self.window_sum + teacher_probs.float().sum(0)
        rows, outputs = self.window_rows + len(teacher_probs), self.outputs + 1
        full = outputs == self.window
        # Welford's moments, so that float32 is enough; the host does not look whether the window is full.
        vectors = self.vectors + full
        off = torch.where(full, total / rows.clamp(min=1) - self.mean, 0)
        mean = self.mean + off / vectors.clamp(min=1)
        self.squares = self.squares + off * (off - (mean - self.mean))
        self.mean, self.vectors = mean, vectors
        self.window_sum, self.window_rows, self.outputs = total * ~full, rows * ~full, outputs * ~full

    def compute(self) -> Tensor:
        """Compute the mean over classes of the standard deviation, ``()``; NaN for fewer than two full windows."""
        # One line per process.
        vectors = self.vectors.reshape(-1, 1).float()
        mean, squares = self.mean.reshape(-1, self.num_classes), self.squares.reshape(-1, self.num_classes)
        whole = vectors.sum()
        between = vectors * (mean - (vectors * mean).sum(0) / whole).square()
        return ((squares + between).sum(0) / (whole - 1).clamp(min=0)).sqrt().mean()
