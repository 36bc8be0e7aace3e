"""Random correction problems, and references that solve them in other ways."""

from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from scipy.optimize import isotonic_regression, minimize

from ida_lightning import LabelMix
from ida_lightning.isotonic import Solver

SOLVERS = [solver for solver in get_args(Solver) if solver != "auto"]
# Triton's interpreter takes seconds for what the others do at once; what only the kernel has is in test_triton.py.
QUICK_SOLVERS = [pytest.param(s, marks=pytest.mark.slow) if s == "triton" else s for s in SOLVERS]


def reference_scipy(row, hard):
    """Sort by (rank, then value descending), run SciPy's PAV, undo the sort."""
    sequence = sorted(range(len(row)), key=lambda c: (-hard[c], -row[c]))
    solved = np.empty(len(row))
    solved[sequence] = isotonic_regression(row[sequence], increasing=False).x
    return solved


def reference_optimiser(row, hard):
    """The problem as stated, every ordered pair a constraint, by a general solver that knows nothing of sorting."""
    pairs = [(u, v) for u in range(len(row)) for v in range(len(row)) if hard[u] > hard[v]]
    matrix = np.zeros((len(pairs), len(row)))
    for i, (u, v) in enumerate(pairs):
        matrix[i, u], matrix[i, v] = 1, -1
    constraint = {"type": "ineq", "fun": lambda m: matrix @ m, "jac": lambda m: matrix}
    start = np.full(len(row), row.mean())
    found = minimize(
        lambda m: ((m - row) ** 2).sum(),
        start,
        jac=lambda m: 2 * (m - row),
        constraints=[constraint],
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    assert found.success, found.message
    return found.x


@st.composite
def problems(draw, max_classes=40, max_k=4):
    """Rows of different sharpness with a mix of up to ``max_k`` classes; repeats and exact ties are common."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    classes, k, rows = draw(st.integers(1, max_classes)), draw(st.integers(1, max_k)), draw(st.integers(1, 4))
    values = rng.dirichlet(np.full(classes, draw(st.sampled_from([0.05, 0.3, 1.0, 20.0]))), rows)
    if draw(st.booleans()):  # exact ties among the values too
        values = np.round(values, 2)
    shares = rng.choice([0, 1, 1, 2, 3], (rows, k)).astype(float)
    shares[:, 0] += shares.sum(1) == 0
    mix = LabelMix(
        torch.tensor(rng.integers(0, classes, (rows, k))), torch.tensor(shares / shares.sum(1, keepdims=True))
    )
    return torch.tensor(values), mix


@st.composite
def near_ties(draw, rows=3, classes=7):
    """Mixes whose weights differ by a few eps: chains of near ties, repeats and absent classes among them."""
    dtype, k = (
        draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16])),
        draw(st.integers(1, 4)),
    )
    shape = {"min_size": k, "max_size": k}
    labels = draw(st.lists(st.lists(st.integers(0, classes - 1), **shape), min_size=rows, max_size=rows))
    parts = st.lists(st.sampled_from([0.0, 1.0, 1.0, 1.0, 2.0]), **shape).filter(any)
    steps = st.lists(st.integers(-9, 9), **shape)
    eps = torch.finfo(dtype).eps
    weights = []
    for _ in range(rows):
        share = torch.tensor(draw(parts), dtype=torch.float64)
        share = share / share.sum()
        off = torch.tensor(draw(steps), dtype=torch.float64) * eps
        weights.append((share + off * (share > 0)).clamp_min(0).to(dtype))
    seed = draw(st.integers(0, 2**31))
    logits = torch.randn(rows, classes, generator=torch.Generator().manual_seed(seed))
    return (2 * logits).softmax(1), LabelMix(torch.tensor(labels), torch.stack(weights))


def exact_as(values, solver):
    """In the most exact type that the solver takes."""
    return values.float() if solver == "triton" and values.dtype == torch.float64 else values


def random_rows(rows, classes, generator=0, dtype=torch.float32):
    logits = torch.randn(rows, classes, generator=torch.Generator().manual_seed(generator), dtype=torch.float64)
    rng = np.random.default_rng(generator)
    mix = LabelMix.pair(
        torch.tensor(rng.integers(0, classes, rows)),
        torch.tensor(rng.integers(0, classes, rows)),
        torch.tensor(rng.random(rows)),
    )
    return (3 * logits).softmax(1).to(dtype), mix


def logits_and_mix(batch, classes, seed, scale=3.0, dtype=torch.float32):
    """Rows of logits and the pairs of classes that they are answers to."""
    generator = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(batch, classes, generator=generator, dtype=torch.float64)
    first, second = torch.randint(classes, (2, batch), generator=generator)
    return logits.to(dtype), LabelMix.pair(first, second, torch.rand(batch, generator=generator)).canonical()
