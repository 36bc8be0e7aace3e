"""The kernel: in Triton's interpreter without a GPU, on the GPU with one."""

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ida_lightning import (
    InputError,
    LabelMix,
    isotonic_soft_labels,
    isotonic_softmax,
    isotonic_with_margin,
    violated_rows,
)
from ida_lightning.isotonic.kernel import operators
from ida_lightning.isotonic.kernel import plan as sizes
from tests.helpers.devices import DEVICES, never_waiting
from tests.helpers.problems import near_ties, problems, random_rows

DEVICE = DEVICES[-1]


def on_device(values, mix):
    return values.to(DEVICE), LabelMix(*(field.to(DEVICE) for field in mix))


@pytest.fixture
def poisoned():
    """Memory that nobody wrote is NaN."""
    torch.use_deterministic_algorithms(True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(False)


# Rows that share a program, one row in registers, a row in chunks: as small as tests like them.
PATHS = {"short": {}, "one": {"_SHORT": 1}, "chunks": {"IN_REGISTERS": 2, "_CHUNK": 4}}


@pytest.fixture(params=PATHS)
def path(request, monkeypatch):
    for name, value in PATHS[request.param].items():
        monkeypatch.setattr(sizes, name, value)
    return request.param


@pytest.mark.parametrize("classes", [2, 3, 31, 33, 100, 1000, 4097, 8193, 21_841])
def test_odd_sizes_are_written_completely(classes, poisoned):
    values, mix = on_device(*random_rows(5 if classes < 5000 else 2, classes))
    found = isotonic_soft_labels(values, mix, "triton")
    torch.testing.assert_close(
        found.cpu().double(), isotonic_soft_labels(values.cpu().double(), mix_cpu(mix)), atol=1e-6, rtol=1e-5
    )


@given(problem=problems(max_classes=11), margin=st.sampled_from([0.0, 0.0, 0.3, 0.9, 1.0]))
@settings(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_path_equals_threshold(path, poisoned, problem, margin):
    probs, mix = problem
    values, there = on_device((probs / probs.sum(1, keepdim=True)).float(), mix)
    found = isotonic_with_margin(values, there, margin, "triton").cpu()
    expected = isotonic_with_margin(values.cpu().double(), mix, margin, "threshold")
    torch.testing.assert_close(found.double(), expected, atol=2e-6, rtol=1e-5)
    kept = (expected == values.cpu()).all(1)
    assert margin or torch.equal(found[kept], values.cpu()[kept]), "rows in order: bit for bit"
    if margin == 0:
        assert not violated_rows(found, mix).any()
        assert torch.equal(isotonic_soft_labels(found.to(DEVICE), there, "triton").cpu(), found), "twice is once"
    logits = (values + 1e-3).log()
    softened = isotonic_softmax(logits, there, 4.5, "triton").cpu()
    expected = isotonic_soft_labels((logits.cpu().double() / 4.5).softmax(1), mix)
    torch.testing.assert_close(softened.double(), expected, atol=1e-6, rtol=1e-5)
    assert not violated_rows(softened, mix).any()


@given(problem=near_ties())
@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_every_path_knows_the_rule_of_ties(path, problem):
    values, mix = problem
    expected = isotonic_soft_labels(values.double(), mix, "tree", validate=False)
    found = isotonic_soft_labels(*on_device(values, mix), "triton", validate=False).cpu()
    torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=0)


# NumPy, which interprets, about inf - inf and rows of NaN.
@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning", "ignore:All-NaN:RuntimeWarning")
@pytest.mark.parametrize("form", ["plain", "softmax", "margin"])
def test_what_is_no_number_makes_its_row_nan(path, form):
    values = torch.full((8, 6), 1 / 6, device=DEVICE)
    values[1, 4] = values[2, 0] = torch.nan  # of the rest, of a ranked class
    values[3, 5] = torch.inf
    labels = torch.tensor([[0, 1]] * 8, device=DEVICE)
    labels[4, 0], labels[5, 1], labels[6, 1] = 6, -1, 2**32 + 1
    mix = LabelMix(labels, torch.tensor([[0.7, 0.3]] * 8, device=DEVICE))
    temperature, margin = (2.0 if form == "softmax" else None), (0.2 if form == "margin" else 0.0)
    found = operators.launch(values, *mix, temperature, margin)
    assert found.isnan().all(1).tolist() == [False, True, True, True, True, True, True, False]
    assert not found[[0, 7]].isnan().any()
    with pytest.raises(InputError, match="label_mix.labels: expected"):
        isotonic_soft_labels(values, mix, "triton", validate=True)


def test_rows_near_the_end_of_the_numbers_are_right(path):
    values = torch.tensor([[1e38, 3e38, 3.3e38, 3.2e38, -3e38], [-3e38, 3e38, -3e38, -3e38, -3e38]])
    mix = LabelMix.pair(torch.tensor([0, 0]), torch.tensor([1, 1]), 0.7)
    found = isotonic_soft_labels(*on_device(values, mix), "triton", validate=False).cpu().double()
    expected = isotonic_soft_labels(values.double(), mix)
    torch.testing.assert_close(found / 1e38, expected / 1e38, atol=1e-6, rtol=1e-6)


def test_rows_may_lie_anywhere(path):
    wide, mix = random_rows(6, 26)
    values, there = on_device(wide, mix)
    for rows in (values[:, 1:14], values[:, ::2], values.T.contiguous().T[:, :13], values[:1].expand(6, -1)[:, :13]):
        there = LabelMix(there.labels % 13, there.weights)
        found = isotonic_soft_labels(rows, there, "triton").cpu()
        torch.testing.assert_close(found, isotonic_soft_labels(rows.cpu(), mix_cpu(there)), atol=1e-6, rtol=1e-5)


def test_no_launch_asks_for_more_than_a_program_may_have():
    for classes in (*range(1, 600), 1000, 1024, 1025, 4096, 8192, 8193, 21_841, 65_536, 2_000_000):
        for warp_size in (32, 64):
            fixed = sizes.plan(classes, warp_size=warp_size)
            assert 1 <= fixed.warps * warp_size <= 512, "the registers of an SM hold 512 threads of 128"
            assert fixed.rows == 1 or fixed.warps == 1
            assert fixed.block >= classes or fixed.chunked
            assert classes % fixed.vector == 0
    assert sizes.plan(1000, row_stride=1001).vector == 1
    assert "maxnreg" not in operators.compile_options(1, hip=True)


def mix_cpu(mix):
    return LabelMix(*(field.cpu() for field in mix))


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 4e-3), (torch.float16, 5e-4)])
def test_half_types_are_accumulated_in_float32(dtype, tolerance):
    exact, mix = random_rows(16, 60, dtype=torch.float64)
    values, there = on_device(exact.to(dtype), mix)
    found = isotonic_soft_labels(values, there, "triton")
    assert found.dtype == dtype
    assert not violated_rows(found, there).any()
    rounded = isotonic_soft_labels(values.cpu().float(), mix).to(dtype)
    torch.testing.assert_close(found.cpu(), rounded, atol=tolerance / 10, rtol=1e-2)
    torch.testing.assert_close(found.cpu().double(), isotonic_soft_labels(exact, mix), atol=tolerance, rtol=1e-2)


@given(problems(max_classes=20), st.sampled_from([1.0, 4.5]))
@settings(max_examples=20)
def test_fused_softmax_equals_softmax_then_correction(problem, temperature):
    probs, mix = problem
    logits, there = on_device((probs + 1e-3).log().float(), mix)
    found = isotonic_softmax(logits, there, temperature, "triton")
    expected = isotonic_soft_labels((logits.cpu().double() / temperature).softmax(1), mix)
    torch.testing.assert_close(found.cpu().double(), expected, atol=1e-6, rtol=1e-5)
    assert not violated_rows(found, there).any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_fused_softmax_gives_float32_and_takes_saturated_logits(dtype, poisoned):
    logits = torch.tensor([[3e4, -3e4, 0.0, 5.0, -1.0]], dtype=dtype, device=DEVICE)
    mix = LabelMix.pair(torch.tensor([1], device=DEVICE), torch.tensor([2], device=DEVICE), 0.7)
    found = isotonic_softmax(logits, mix, 1.0, "triton")
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.cpu(), torch.tensor([[1 / 3, 1 / 3, 1 / 3, 0.0, 0.0]]), atol=1e-6, rtol=0)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # opcheck's own doing
def test_operators_are_well_behaved():
    values, mix = on_device(*random_rows(3, 12))
    torch.library.opcheck(operators._isotonic_op, (values, *mix))
    torch.library.opcheck(operators._isotonic_op, (values.clone().requires_grad_(), *mix))
    torch.library.opcheck(operators._isotonic_softmax_op, (values, *mix, 4.5))
    torch.library.opcheck(operators._isotonic_margin_op, (values, *mix, 0.3))


def test_compiled_it_stays_one_graph():
    values, mix = on_device(*random_rows(4, 40))
    graphs = []

    def count(graph, inputs):
        graphs.append(graph)
        return graph.forward

    compiled = torch.compile(lambda v, m: 2 * isotonic_soft_labels(v, m, "triton") + 1, backend=count, fullgraph=True)
    torch.testing.assert_close(compiled(values, mix), 2 * isotonic_soft_labels(values, mix, "triton") + 1)
    assert len(graphs) == 1


@pytest.mark.parametrize("classes", [50, 1000])
def test_never_makes_the_host_wait(classes):
    values, mix = on_device(*random_rows(4, classes))
    isotonic_soft_labels(values, mix, "triton", validate=False)  # compiles
    with never_waiting(DEVICE):
        isotonic_soft_labels(values, mix, "triton", validate=False)
        isotonic_softmax(values, mix, 4.5, "triton", validate=False)


def test_what_it_cannot_do_is_named(monkeypatch):
    values, mix = random_rows(2, 5, dtype=torch.float64)
    with pytest.raises(InputError, match="solver: triton computes in float32, got float64 values"):
        isotonic_soft_labels(values, mix, "triton")
    monkeypatch.setattr(operators, "INTERPRETED", False)
    with pytest.raises(InputError, match="solver: triton needs a CUDA device, got values on cpu; use threshold"):
        isotonic_soft_labels(values.float(), mix, "triton")


def compiled_ahead(tmp_path, *options):
    """Run the script of the ahead-of-time report; it fails where a budget does not hold."""
    script = Path(__file__).parents[2] / "benchmarks" / "ahead_of_time.py"
    environment = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path), "TRITON_INTERPRET": "0"}
    command = [sys.executable, str(script), *options, "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=3000)
    assert done.returncode == 0, done.stderr[-2000:]
    return list(csv.DictReader((tmp_path / "ahead_of_time.csv").read_text().splitlines()))


def test_kernel_compiles_for_gpus_that_are_not_there(tmp_path):
    found = compiled_ahead(tmp_path, "--quick")
    assert {line["target"] for line in found} == {"sm_80", "sm_90", "gfx942"}
    assert {line["stack"] for line in found} == {"0"}
    text = (tmp_path / "ahead_of_time.md").read_text()
    assert "| 21,841 | float32 | softmax | in order | 174,760 | 87,372 | 87,364 | 1.0 | 1.5 |" in text
    kept = (Path(__file__).parents[2] / "benchmarks" / "results" / "ahead_of_time.csv").read_text()
    assert {line["stack"] for line in csv.DictReader(kept.splitlines())} == {"0"}


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_whole_report_can_be_made(tmp_path):
    assert len(compiled_ahead(tmp_path)) > 200
