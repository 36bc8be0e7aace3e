"""T. stddev over batches and processes equals the deviation computed from all vectors at once."""

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import multiprocessing

from ida_lightning import InputError
from ida_lightning.metrics.running import TeacherStddev
from tests.helpers.devices import DEVICES, never_waiting

CLASSES, SIZES = 6, [7, 1, 12, 5, 3, 9, 2]


def batches(device="cpu"):
    generator = torch.Generator().manual_seed(4)
    return [(2 * torch.randn(size, CLASSES, generator=generator)).softmax(1).to(device) for size in SIZES]


def stddev_of(*shares):
    """The deviation by NumPy; windows of two batches within each process's share."""
    vectors = [
        np.concatenate([share[i].cpu(), share[i + 1].cpu()]).mean(0)
        for share in shares
        for i in range(0, len(share) - 1, 2)
    ]
    return pytest.approx(np.std(vectors, axis=0, ddof=1).mean(), rel=1e-5)


def test_batches_add_up_before_and_after_a_reset():
    metric = TeacherStddev(CLASSES, window=2)
    for _ in range(2):
        for batch in batches():
            metric.update(batch)
        for _ in range(2):  # computing changes nothing
            assert float(metric.compute()) == stddev_of(batches())
        metric.reset()


def test_forward_gives_the_batch_and_keeps_the_sum():
    metric = TeacherStddev(CLASSES, window=2)
    for batch in batches():
        assert metric(batch).isnan(), "one batch has no deviation"
    assert float(metric.compute()) == stddev_of(batches())


def in_process(rank, folder):
    """Rank 0 has five batches, rank 1 two."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    metric = TeacherStddev(CLASSES, window=2)
    for batch in batches()[:5] if rank == 0 else batches()[5:]:
        metric.update(batch)
    first = metric.compute()
    metric._computed = None  # own sums are back after computing
    torch.save([first, metric.compute()], folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.skipif(torch.cuda.is_initialized(), reason="forks")
def test_two_processes_with_uneven_shares_equal_one(tmp_path):
    multiprocessing.start_processes(in_process, (tmp_path,), nprocs=2, start_method="fork")
    for rank in range(2):
        for computed in torch.load(tmp_path / f"{rank}.pt", weights_only=True):
            assert float(computed) == stddev_of(batches()[:5], batches()[5:])


def test_stddev_by_hand():
    metric = TeacherStddev(2, window=2)
    for rows in ([[0.6, 0.4]] * 3, [[0.2, 0.8]], [[0.9, 0.1]], [[0.9, 0.1]], [[0.0, 1.0]]):
        metric.update(torch.tensor(rows))
    # Two vectors, 0.5 (every row the same weight) and 0.9; the last output fills no window.
    assert float(metric.compute()) == pytest.approx(0.4 / np.sqrt(2), rel=1e-6)
    assert TeacherStddev(2, window=2).update(torch.tensor([[0.6, 0.4]])) is None


def test_stddev_in_float32_is_exact_beside_a_large_mean():
    rng = np.random.default_rng(0)
    outputs = 0.9 + 1e-4 * rng.normal(size=(2000, 1))
    metric = TeacherStddev(1, window=1)
    for output in outputs:
        metric.update(torch.tensor(output[None]).float())
    assert float(metric.compute()) == pytest.approx(outputs.astype(np.float32).astype(float).std(ddof=1), rel=1e-3)


@pytest.mark.parametrize("device", DEVICES)
def test_updates_do_not_wait_for_the_device(device):
    first, *others = batches(device)
    metric = TeacherStddev(CLASSES, window=2).to(device)
    metric.update(first)
    with never_waiting(device):
        for batch in others:
            metric.update(batch)
    assert float(metric.compute()) == stddev_of(batches())


def test_what_does_not_fit_is_named():
    with pytest.raises(InputError, match=r"teacher_probs: expected \(batch, 3\), got float32 \(2, 4\)"):
        TeacherStddev(3).update(torch.zeros(2, 4))
    with pytest.raises(InputError, match="window: expected at least 1, got 0"):
        TeacherStddev(3, window=0)
