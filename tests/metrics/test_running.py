"""Metrics over batches and processes equal the same numbers of all rows at once."""

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import multiprocessing

from ida_lightning import InputError, LabelMix, isotonic_soft_labels, kl_divergence, moved_mass, order_statistics
from ida_lightning.metrics import expected_calibration_error, prediction_agreement
from ida_lightning.metrics.running import AgreementMetrics, CalibrationError, OrderMetrics, TeacherStddev
from tests.helpers.devices import DEVICES, never_waiting

CLASSES, EDGES = 6, (0.5, 0.6, 0.8, 1)
SIZES = [7, 1, 12, 5, 3, 9, 2]


def batches(device="cpu", sizes=SIZES):
    """Soft labels, label mix, corrected, student logits, labels."""
    generator = torch.Generator().manual_seed(4)
    rng = np.random.default_rng(4)
    for size in sizes:
        soft_labels = (2 * torch.randn(size, CLASSES, generator=generator)).softmax(1)
        labels, partners = torch.from_numpy(rng.integers(0, CLASSES, (2, size)))
        mix = LabelMix.pair(labels, partners, torch.from_numpy(rng.random(size)).float())
        student = torch.randn(size, CLASSES, generator=generator)
        yield tuple(
            LabelMix(*(field.to(device) for field in part)) if isinstance(part, LabelMix) else part.to(device)
            for part in (soft_labels, mix, isotonic_soft_labels(soft_labels, mix), student, labels)
        )


def metrics():
    return {
        "order": OrderMetrics(EDGES),
        "agreement": AgreementMetrics(),
        "calibration": CalibrationError(),
        "stddev": TeacherStddev(CLASSES, window=2),
    }


def update(metrics, batch):
    soft_labels, mix, corrected, student, labels = batch
    metrics["order"].update(soft_labels, mix, corrected)
    metrics["agreement"].update(student, soft_labels.log())
    metrics["calibration"].update(student.softmax(1), labels)
    metrics["stddev"].update(soft_labels)


def at_once(shares):
    """Everything by the functions, over all rows; windows within each share."""
    every = [batch for share in shares for batch in share]
    soft_labels, _, corrected, student, labels = (
        None if isinstance(parts[0], LabelMix) else torch.cat(parts) for parts in zip(*every, strict=True)
    )
    mix = LabelMix(*(torch.cat(fields) for fields in zip(*(batch[1] for batch in every), strict=True)))
    rows = order_statistics(soft_labels, mix)._asdict()
    rows |= {
        "moved_mass": moved_mass(soft_labels, corrected),
        "correction_kl": kl_divergence(corrected.log(), soft_labels.log()),
    }
    first, order = mix.order().weights[:, 0], {}
    for name, values in rows.items():
        order[name] = values.float().nanmean()
        for low, high in [(0.5, 0.6), (0.6, 0.8), (0.8, 1)]:
            inside = (first >= low) & ((first < high) | (high == 1))
            assert inside.any()
            order[f"{name}/{low}-{high}"] = values[inside].float().nanmean()
    agreement = prediction_agreement(student, soft_labels.log())
    vectors = [
        np.concatenate([share[i][0], share[i + 1][0]]).mean(0) for share in shares for i in range(0, len(share) - 1, 2)
    ]
    return {
        "order": order,
        "agreement": {"agreement": agreement.same.float().mean(), "teacher_kl": agreement.kl.mean()},
        "calibration": expected_calibration_error(student.softmax(1), labels),
        "stddev": torch.tensor(np.std(vectors, axis=0, ddof=1).mean()),
    }


def check(computed, expected):
    for name, value in expected.items():
        if isinstance(value, dict):
            assert computed[name].keys() == value.keys()
            check(computed[name], value)
        else:
            assert float(computed[name]) == pytest.approx(float(value), rel=1e-5, abs=1e-6), name


def test_batches_add_up():
    found = metrics()
    for batch in batches():
        update(found, batch)
    expected = at_once([list(batches())])
    for _ in range(2):  # computing changes nothing
        check({name: metric.compute() for name, metric in found.items()}, expected)
    for metric in found.values():
        metric.reset()
    for batch in batches():
        update(found, batch)
    check({name: metric.compute() for name, metric in found.items()}, expected)


def test_forward_gives_the_batch_and_keeps_the_sum():
    every = list(batches())
    found = {name: metric for name, metric in metrics().items() if name != "stddev"}
    for soft_labels, mix, corrected, student, labels in every:
        own = found["order"](soft_labels, mix, corrected)
        assert float(own["violated"]) == pytest.approx(
            float(order_statistics(soft_labels, mix).violated.float().mean())
        )
        found["agreement"](student, soft_labels.log())
        found["calibration"](student.softmax(1), labels)
    expected = at_once([every])
    del expected["stddev"]
    check({name: metric.compute() for name, metric in found.items()}, expected)
    stddev = TeacherStddev(CLASSES, window=2)
    for soft_labels, *_ in every:
        assert stddev(soft_labels).isnan(), "one batch has no deviation"
    check({"stddev": stddev.compute()}, {"stddev": at_once([every])["stddev"]})


def in_process(rank, folder):
    """Rank 0 has five batches, rank 1 two."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    found = metrics()
    every = list(batches())
    for batch in every[:5] if rank == 0 else every[5:]:
        update(found, batch)
    computed = {name: metric.compute() for name, metric in found.items()}
    # Own sums are back after computing.
    for metric in found.values():
        metric._computed = None
    torch.save([computed, {name: metric.compute() for name, metric in found.items()}], folder / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.skipif(torch.cuda.is_initialized(), reason="forks")
def test_two_processes_with_uneven_shares_equal_one(tmp_path):
    multiprocessing.start_processes(in_process, (tmp_path,), nprocs=2, start_method="fork")
    every = list(batches())
    expected = at_once([every[:5], every[5:]])
    for rank in range(2):
        for computed in torch.load(tmp_path / f"{rank}.pt", weights_only=True):
            check(computed, expected)


def test_order_metrics_leave_out_what_was_not_given():
    metric = OrderMetrics((0.5, 0.6, 1))
    soft_labels = torch.tensor([[0.6, 0.4]])
    # One pair that is a tie of all classes, and three of one class; never a correction.
    metric.update(soft_labels, LabelMix.pair(torch.tensor([0]), torch.tensor([1]), 0.5))
    metric.update(soft_labels.expand(3, 2), LabelMix.unmixed(torch.tensor([0, 0, 1])))
    means = {name: float(value) for name, value in metric.compute().items()}
    assert means["tau"] == pytest.approx(1 / 3)
    assert means["violated"] == 1 / 4
    assert (means["violated/0.5-0.6"], means["violated/0.6-1"]) == (0, pytest.approx(1 / 3))
    assert all(np.isnan(means[name]) for name in ("tau/0.5-0.6", "moved_mass", "correction_kl", "moved_mass/0.6-1"))


def test_rows_outside_the_bins_count_in_the_mean_of_all():
    metric = OrderMetrics((0.5, 1))
    mix = LabelMix(torch.tensor([[0, 1, 2]]), torch.tensor([[0.4, 0.3, 0.3]]))
    metric.update(torch.tensor([[0.1, 0.5, 0.3, 0.1]]), mix)
    means = metric.compute()
    assert float(means["violated"]) == 1
    assert means["violated/0.5-1"].isnan()


def test_correction_of_a_class_without_probability_stays_finite():
    metric = OrderMetrics()
    soft_labels, mix = torch.tensor([[1.0, 0.0, 0.0]]), LabelMix.pair(torch.tensor([1]), torch.tensor([2]), 0.7)
    metric.update(soft_labels, mix, isotonic_soft_labels(soft_labels, mix))
    means = metric.compute()
    assert float(means["moved_mass"]) == pytest.approx(2 / 3)
    # From (1, 0, 0) to thirds: 2/3 log(1/tiny) - log 3.
    tiny = torch.finfo(torch.float32).tiny
    assert float(means["correction_kl"]) == pytest.approx(-2 / 3 * np.log(tiny) - np.log(3), rel=1e-5)


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
    every = list(batches(device))
    found = {name: metric.to(device) for name, metric in metrics().items()}
    update(found, every[0])
    with never_waiting(device):
        for batch in every[1:]:
            update(found, batch)
    check({name: metric.compute() for name, metric in found.items()}, at_once([list(batches())]))


def test_what_does_not_fit_is_named():
    mix = LabelMix.unmixed(torch.tensor([0, 1]))
    with pytest.raises(InputError, match=r"corrected: expected the soft labels' shape \(2, 3\), got \(1, 3\)"):
        OrderMetrics().update(torch.zeros(2, 3), mix, torch.zeros(1, 3))
    for edges in ((0.5,), (0.5, 0.5), (1, 0.5)):
        with pytest.raises(InputError, match="lambda_edges: expected none or at least two ascending numbers"):
            OrderMetrics(edges)
    with pytest.raises(InputError, match=r"teacher_probs: expected \(batch, 3\), got float32 \(2, 4\)"):
        TeacherStddev(3).update(torch.zeros(2, 4))
    with pytest.raises(InputError, match="window: expected at least 1, got 0"):
        TeacherStddev(3, window=0)
    with pytest.raises(InputError, match="bins: expected at least 1, got 0"):
        CalibrationError(bins=0)
