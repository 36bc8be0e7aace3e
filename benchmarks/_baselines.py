"""What the package's solvers are measured against: the same map by outsiders, and floors that no solver replaces.

Each library is given its best case: all rows leave the tensor at once, and the ranked classes are put in front of the
sorted rest by a single sort. Rows are probabilities, and the classes of a mix are of different weight.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy.optimize import isotonic_regression
from sklearn.isotonic import IsotonicRegression
from torch import Tensor

from ida_lightning.label_mix import LabelMix

Row = np.ndarray[tuple[int], np.dtype[np.float64]]


def scipy_rows(soft_labels: Tensor, mix: LabelMix) -> Tensor:
    """SciPy's pool-adjacent-violators, row by row."""
    return _by_chain(soft_labels, mix, lambda chain: isotonic_regression(chain, increasing=False).x)


def sklearn_rows(soft_labels: Tensor, mix: LabelMix) -> Tensor:
    """scikit-learn's ``IsotonicRegression``, row by row."""
    places = np.arange(soft_labels.shape[1], dtype=np.float64)
    return _by_chain(soft_labels, mix, lambda chain: IsotonicRegression(increasing=False).fit_transform(places, chain))


def _by_chain(soft_labels: Tensor, mix: LabelMix, solve: Callable[[Row], Row]) -> Tensor:
    rows = soft_labels.detach().to("cpu", torch.float64).numpy()
    solved = np.empty_like(rows)
    for row, ranked, result in zip(rows, _ranked(mix), solved, strict=True):
        key = row.copy()
        key[ranked] = np.arange(len(ranked) + 1, 1, -1)  # no probability reaches 2
        sequence = np.argsort(-key)
        result[sequence] = solve(row[sequence])
    return torch.from_numpy(solved).to(soft_labels.device, soft_labels.dtype)


def _ranked(mix: LabelMix) -> list[list[int]]:
    """The classes of every row's mix, heaviest first."""
    order = mix.order()
    labels, counts = order.labels.tolist(), order.present.sum(1).tolist()
    return [row[:count] for row, count in zip(labels, counts, strict=True)]


def python_merge(soft_labels: Tensor, mix: LabelMix) -> Tensor:
    """A greedy block merge in plain Python over the elements of the tensor, as the published code goes about it.

    Written from the description in Cui and Yan (arXiv 2107.01412), for one or two ranked classes.
    """
    merged = soft_labels.clone()
    for row, ranked in zip(merged, _ranked(mix), strict=True):
        _merge(row, ranked)
    return merged


def python_merge_lists(soft_labels: Tensor, mix: LabelMix) -> Tensor:
    """The same merge on Python lists, the best that plain Python can do: the tensor is left once for all rows."""
    rows = soft_labels.tolist()
    for row, ranked in zip(rows, _ranked(mix), strict=True):
        _merge(row, ranked)
    return torch.tensor(rows, dtype=soft_labels.dtype, device=soft_labels.device)


def _merge(row: Any, ranked: list[int]) -> None:
    """Pool one row in place.

    Sort the rest in descending order. The lightest ranked class absorbs the next of the rest while that exceeds the
    block's mean; if the mean then exceeds the class above, that joins, and the block goes on absorbing.
    """
    own = set(ranked)
    rest = sorted((label for label in range(len(row)) if label not in own), key=row.__getitem__, reverse=True)
    block = [ranked[-1]]
    total, taken = row[ranked[-1]] + 0.0, 0
    for joining in (*ranked[-2::-1], None):
        while taken < len(rest) and row[rest[taken]] * len(block) > total:
            total += row[rest[taken]]
            block.append(rest[taken])
            taken += 1
        if joining is None or total <= row[joining] * len(block):
            break
        total += row[joining]
        block.append(joining)
    if len(block) > 1:
        for label in block:
            row[label] = total / len(block)


def torchsort_solver(device: torch.device) -> Callable[[Tensor, LabelMix], Tensor] | str:
    """Sort, torchsort's batched solver for chains, and back; or in words why that is not to be had."""
    try:
        chain_solver = importlib.import_module("torchsort.ops").isotonic_l2[device.type]
    except ImportError as error:
        return f"torchsort is not importable: {error}"

    def solve(soft_labels: Tensor, mix: LabelMix) -> Tensor:
        values, labels = soft_labels.float(), mix.order().labels
        marks = torch.arange(labels.shape[1] + 1, 1, -1, dtype=values.dtype, device=device).expand(len(labels), -1)
        # A label that repeats in its row keeps the larger mark, its first.
        sequence = values.scatter_reduce(1, labels, marks, "amax").argsort(dim=1, descending=True)
        solved = chain_solver(values.gather(1, sequence).contiguous())
        return torch.empty_like(values).scatter_(1, sequence, solved).to(soft_labels.dtype)

    return solve


def kl_forward_backward(student_logits: Tensor, target: Tensor, temperature: float) -> Tensor:
    """The distillation loss that the soft labels feed, and its gradient for the student's logits."""
    log_probs = torch.log_softmax(student_logits / temperature, 1)
    loss = torch.nn.functional.kl_div(log_probs, target, reduction="batchmean")
    return torch.autograd.grad(loss, student_logits)[0]
