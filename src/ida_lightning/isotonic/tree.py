"""Isotonic regression on any rooted tree by IRT-BIN: an exact reference, and the door to class taxonomies."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ida_lightning.errors import InputError, is_tensor, kind_of, same_device
from ida_lightning.label_mix import LabelOrder


def isotonic_regression_tree(values: Tensor, parent: Tensor, weights: Tensor | None = None) -> Tensor:
    r"""Nearest numbers, in weighted least squares, that never increase on the way from a root to a leaf.

    Solves ``min sum_i w_i (m_i - v_i)^2`` subject to ``m[parent[i]] >= m[i]`` for every node i that has a parent.

    The solution splits the tree into connected blocks, each of which takes the weighted mean of its members,
    ``m_i = sum_{j in B} w_j v_j / sum_{j in B} w_j`` for i in block B. IRT-BIN finds them from the leaves up: a
    block absorbs its largest child block while that child's mean exceeds its own. The child blocks of every block
    are kept in a binomial heap, because absorbing a block also means taking over its child blocks, and binomial
    heaps merge in O(log n). O(n log n) time and O(n) memory in all, for every shape of tree.

    Args:
        values: floating point ``(nodes,)``, finite; computed in float64 whatever the type.
        parent: int64 ``(nodes,)``: the parent of every node, -1 for a root. Any number of roots, nodes in any order.
        weights: floating point ``(nodes,)``, all > 0; None weighs every node alike.

    Returns:
        float64 ``(nodes,)`` on the device of ``values``, without a gradient. The order holds exactly, not only up to
        rounding, and block members share one number. Values that respect the order come back bit for bit, so
        solving twice changes nothing.

    Raises:
        InputError: for shapes and dtypes that do not fit, values that are not finite, parents out of range or in a
            cycle, and weights that are not finite numbers > 0 with a finite sum.

    Example:
        >>> values = torch.tensor([3.0, 5.0, 1.0, 2.0])
        >>> parent = torch.tensor([-1, 0, 0, 2])  # 0 above 1 and 2, 2 above 3
        >>> isotonic_regression_tree(values, parent)
        tensor([4.0000, 4.0000, 1.5000, 1.5000], dtype=torch.float64)

    References:
        Pardalos and Xue, Algorithms for a class of isotonic regression problems, Algorithmica 23 (1999).
        The heap: Vuillemin, A data structure for manipulating priority queues, Communications of the ACM 21 (1978).
    """
    _check(values, parent, weights)
    above: list[int] = parent.tolist()
    # Lists, because one element of a tensor costs more than the arithmetic on it.
    mean: list[float] = values.double().tolist()
    weight: list[float] = [1.0] * len(mean) if weights is None else weights.double().tolist()

    # A block goes by the number of its topmost node, which is the only one whose entries are kept up to date.
    leaves_first = _leaves_first(above)
    child_blocks = [_Heap() for _ in mean]
    absorbed = [False] * len(mean)
    for block in leaves_first:
        while (top := child_blocks[block].largest()) is not None and top.key > mean[block]:
            child_blocks[block].remove(top)
            child = top.item
            total = weight[block] + weight[child]
            pooled = weight[block] / total * mean[block] + weight[child] / total * mean[child]
            # Rounding must not carry a mean out of the interval that it averages over.
            mean[block] = min(max(pooled, mean[block]), mean[child])
            weight[block] = total
            absorbed[child] = True
            child_blocks[block].merge(child_blocks[child])
        if above[block] >= 0:
            child_blocks[above[block]].add(mean[block], block)

    for node in reversed(leaves_first):
        if absorbed[node]:
            mean[node] = mean[above[node]]
    return torch.tensor(mean, dtype=torch.float64, device=values.device)


def tree_solver(values: Tensor, order: LabelOrder) -> Tensor:
    """Nearest row, in least squares, that respects the order of a mixed label: the independent reference.

    Solves the problem of :func:`~ida_lightning.isotonic.threshold.threshold_solver` as the tree that it is, with
    :func:`isotonic_regression_tree`: the ranked classes are a chain, every other class is a leaf below its end.
    One row after the other on the CPU, so it is for checking, not for training.

    Args:
        values: floating point ``(batch, classes)``, finite; computed in float64.
        order: the canonical order of the rows, ``(batch, k)``.

    Returns:
        The corrected rows, ``(batch, classes)``, in the dtype and on the device of ``values``, without a gradient.

    Raises:
        InputError: for values that are not finite.

    Example:
        >>> from ida_lightning.label_mix import LabelMix
        >>> mix = LabelMix.pair(torch.tensor([0]), torch.tensor([1]), 0.7)
        >>> tree_solver(torch.tensor([[0.30, 0.15, 0.45, 0.10]]), mix.order())
        tensor([[0.3000, 0.3000, 0.3000, 0.1000]])
    """
    corrected = torch.empty_like(values)
    order = LabelOrder(*(field.cpu() for field in order))
    rank = order.rank()
    for row, row_values in enumerate(values.detach().cpu()):
        present = order.present[row]
        parent = _label_tree(row_values, order.labels[row][present].tolist(), rank[row][present].tolist())
        corrected[row] = isotonic_regression_tree(row_values, parent)
    return corrected


def _label_tree(values: Tensor, labels: list[int], ranks: list[int]) -> Tensor:
    """Build the parents ``(classes,)`` of one row: ranked classes as a chain, every other class below the last one."""
    ranked = [(rank, -float(values[label]), label) for rank, label in zip(ranks, labels, strict=True)]
    # A tie leaves its classes unordered; that the larger value goes first is what the solution would say anyway.
    chain = [label for _, _, label in sorted(ranked)]
    above = [-1, *chain]
    parent = [above[-1]] * len(values)
    for position, label in enumerate(chain):
        parent[label] = above[position]
    return torch.tensor(parent, dtype=torch.int64)


class _Tree:
    """A binomial tree: of rank r it has children of ranks 0 ... r - 1, 2^r entries, and no key above its own."""

    __slots__ = ("children", "item", "key")

    def __init__(self, key: float, item: int) -> None:
        self.key = key
        self.item = item
        self.children: list[_Tree] = []


class _Heap:
    """A mergeable heap, largest key first: at most one binomial tree of every rank, like the digits of its size."""

    __slots__ = ("by_rank",)

    def __init__(self) -> None:
        self.by_rank: list[_Tree | None] = []

    def largest(self) -> _Tree | None:
        """Return the tree whose root has the largest key, None in an empty heap."""
        return max(filter(None, self.by_rank), key=lambda tree: tree.key, default=None)

    def add(self, key: float, item: int) -> None:
        self._add_tree(_Tree(key, item))

    def remove(self, tree: _Tree) -> None:
        """Take out the root of ``tree``, which :meth:`largest` returned; its children stay."""
        self.by_rank[len(tree.children)] = None
        while self.by_rank and self.by_rank[-1] is None:
            self.by_rank.pop()
        self._take_over(tree.children)

    def merge(self, other: _Heap) -> None:
        """Take over all entries of ``other``, which must not be used afterwards."""
        self._take_over(other.by_rank)

    def _take_over(self, by_rank: Sequence[_Tree | None]) -> None:
        smaller, self.by_rank = sorted((self.by_rank, list(by_rank)), key=len)
        # Every link leaves one tree less, and there are only O(log n): so many links at most, carries included.
        for tree in smaller:
            if tree is not None:
                self._add_tree(tree)

    def _add_tree(self, tree: _Tree) -> None:
        """Add as in binary counting: two trees of one rank are linked and carried to the next."""
        while len(tree.children) < len(self.by_rank):
            rank = len(tree.children)
            resident, self.by_rank[rank] = self.by_rank[rank], None
            if resident is None:
                self.by_rank[rank] = tree
                return
            tree = _link(resident, tree)
        self.by_rank.append(tree)


def _link(first: _Tree, second: _Tree) -> _Tree:
    """Two trees of one rank as one tree of the next: the smaller root becomes a child of the larger."""
    if first.key < second.key:
        first, second = second, first
    first.children.append(second)
    return first


def _leaves_first(above: list[int]) -> list[int]:
    """Return all nodes, children before their parents."""
    waiting_for = [0] * len(above)
    for node in above:
        if node >= 0:
            waiting_for[node] += 1
    ready = [node for node, children in enumerate(waiting_for) if children == 0]
    for node in ready:  # grows while it is walked
        if above[node] >= 0:
            waiting_for[above[node]] -= 1
            if waiting_for[above[node]] == 0:
                ready.append(above[node])
    if len(ready) < len(above):
        on_cycle = next(node for node, children in enumerate(waiting_for) if children > 0)
        raise InputError(f"parent: expected a tree or forest, got a cycle through node {on_cycle}")
    return ready


def _check(values: Tensor, parent: Tensor, weights: Tensor | None) -> None:
    expected = "floating point (nodes,)"
    if not is_tensor("values", values, expected).is_floating_point() or values.ndim != 1:
        raise InputError(f"values: expected {expected}, got {kind_of(values)}")
    _check_all(values.isfinite(), values, "values: expected finite numbers")
    expected = f"int64 of the values' shape {tuple(values.shape)}"
    if is_tensor("parent", parent, expected).dtype != torch.int64 or parent.shape != values.shape:
        raise InputError(f"parent: expected {expected}, got {kind_of(parent)}")
    same_device("parent", parent, "values", values)
    in_range = (parent >= -1) & (parent < len(values))
    _check_all(in_range, parent, f"parent: expected nodes 0 ... {len(values) - 1}, or -1 for a root")
    if weights is None:
        return
    expected = f"floating point of the values' shape {tuple(values.shape)}"
    if not is_tensor("weights", weights, expected).is_floating_point() or weights.shape != values.shape:
        raise InputError(f"weights: expected {expected}, got {kind_of(weights)}")
    same_device("weights", weights, "values", values)
    _check_all(weights.isfinite() & (weights > 0), weights, "weights: expected finite numbers > 0")
    if not bool(weights.double().sum().isfinite()):
        raise InputError("weights: expected a finite sum, got one beyond float64")


def _check_all(fine: Tensor, given: Tensor, expected: str) -> None:
    if not bool(fine.all()):
        node = int((~fine).nonzero()[0])
        raise InputError(f"{expected}, got {given[node].item()} at node {node}")
