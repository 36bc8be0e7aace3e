"""The kernel: in Triton's interpreter without a GPU, on the GPU with one."""

import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ida_lightning import InputError, LabelMix, isotonic_soft_labels, isotonic_softmax, violated_rows
from ida_lightning.isotonic import triton_kernel
from tests.helpers.devices import DEVICES, never_waiting
from tests.helpers.problems import problems, random_rows

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


@pytest.mark.parametrize("classes", [2, 3, 31, 32, 33, 100, 1000, 4097])
def test_odd_sizes_are_written_completely(classes, poisoned):
    values, mix = on_device(*random_rows(5, classes))
    found = isotonic_soft_labels(values, mix, "triton")
    torch.testing.assert_close(
        found.cpu().double(), isotonic_soft_labels(values.cpu().double(), mix_cpu(mix)), atol=1e-6, rtol=1e-5
    )


def mix_cpu(mix):
    return LabelMix(*(field.cpu() for field in mix))


def test_the_largest_promised_row_is_written_completely(poisoned):
    values, mix = on_device(*random_rows(2, 32_768))
    found = isotonic_soft_labels(values, mix, "triton")
    torch.testing.assert_close(found.cpu(), isotonic_soft_labels(values.cpu(), mix_cpu(mix)), atol=1e-7, rtol=1e-5)


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
    torch.library.opcheck(triton_kernel._isotonic_op, (values, *mix))
    torch.library.opcheck(triton_kernel._isotonic_op, (values.clone().requires_grad_(), *mix))
    torch.library.opcheck(triton_kernel._isotonic_softmax_op, (values, *mix, 4.5))


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
    monkeypatch.setattr(triton_kernel, "_INTERPRETED", False)
    with pytest.raises(InputError, match="solver: triton needs a CUDA device, got values on cpu; use threshold"):
        isotonic_soft_labels(values.float(), mix, "triton")


COMPILE = """
import sys, triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from ida_lightning.isotonic.triton_kernel import _correct_rows

types = {"labels_ptr": "*i64", "weights_ptr": "*fp32", "row_stride": "i32", "classes": "i32"}
types["per_temperature"] = types["tie_tolerance"] = "fp32"
variants = (("fp32", 1024, 2, 0, 4), ("bf16", 1024, 3, 1, 4), ("fp16", 32768, 2, 0, 32))
for dtype, block, ranked, softmax, warps in variants:
    constants = {"RANKED": ranked, "RANKED_BLOCK": 4 if ranked == 3 else 2, "BLOCK": block, "SOFTMAX": bool(softmax)}
    signature = {"values_ptr": f"*{dtype}", "corrected_ptr": "*fp32" if softmax else f"*{dtype}", **types}
    signature = {name: signature.get(name, "constexpr") for name in _correct_rows.arg_names}
    source = ASTSource(_correct_rows, signature, constexprs=constants)
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": warps})
    print(dtype, len(compiled.asm["cubin"]) > 1000)
"""


def test_kernel_compiles_for_a_gpu_that_is_not_there(tmp_path):
    environment = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(tmp_path),
        "TRITON_CACHE_DIR": str(tmp_path),
        "TRITON_INTERPRET": "0",
    }
    done = subprocess.run([sys.executable, "-c", COMPILE], capture_output=True, text=True, env=environment, timeout=250)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.split() == ["fp32", "True", "bf16", "True", "fp16", "True"]
