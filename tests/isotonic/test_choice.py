"""``auto`` is chosen by trial: stand-ins for machines whose kernel fails, with a CPU taken for an accelerator."""

import subprocess
import warnings

import pytest
import torch

import ida_lightning
from ida_lightning import LabelMix, isotonic_soft_labels, isotonic_softmax, isotonic_with_margin
from ida_lightning.isotonic import choice
from ida_lightning.isotonic.kernel import operators
from tests.helpers.problems import random_rows


@pytest.fixture(autouse=True)
def tried(monkeypatch):
    """The CPU is tried on, as a GPU is, and nothing has been tried yet."""
    monkeypatch.setattr(choice, "_TRIED_ON", {"cpu"})
    monkeypatch.setattr(choice, "_TRIALS", {})


def no_compiler(*args, **kwargs):
    raise RuntimeError("Failed to find C compiler. Please specify via CC environment variable")


def no_headers(*args, **kwargs):
    raise subprocess.CalledProcessError(1, ["gcc", "driver.c", "-I/usr/include/python3.12"])


def no_triton(*args, **kwargs):
    raise ModuleNotFoundError("No module named 'triton'")


def too_many_threads(*args, **kwargs):  # what HIP says to 2,048 of them
    raise OverflowError("out of resource: threads, Required: 2048, Hardware limit: 1024")


def wrong(values, labels, weights, temperature=None, margin=0.0):
    return torch.full(values.shape, 1 / values.shape[1])


def not_a_number(values, *args, **kwargs):
    return torch.full(values.shape, torch.nan)


FAULTS = [
    (no_compiler, "RuntimeError: Failed to find C compiler"),
    (no_headers, "CalledProcessError: Command .*gcc"),
    (no_triton, "ModuleNotFoundError: No module named 'triton'"),
    (too_many_threads, "OverflowError: out of resource: threads"),
    (wrong, "its result is off by"),
    (not_a_number, "its result is not finite"),
]


@pytest.mark.parametrize(("fault", "reason"), FAULTS, ids=lambda value: getattr(value, "__name__", None))
def test_a_kernel_that_fails_is_left_alone(fault, reason, monkeypatch):
    values, mix = random_rows(4, 9)
    expected = isotonic_soft_labels(values, mix, "threshold")
    monkeypatch.setattr(operators, "launch", fault)
    with pytest.warns(UserWarning, match=f"isotonic: the kernel fails on cpu .*: {reason}.*threshold from here on"):
        assert torch.equal(isotonic_soft_labels(values, mix), expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # once is enough
        assert torch.equal(isotonic_soft_labels(values, mix), expected)
    (trial,) = ida_lightning.kernel_trials()
    assert (trial.device, trial.dtype, trial.form, trial.classes, trial.ranked) == ("cpu", "float32", "plain", 9, 2)
    assert reason.split(":")[0] in trial.reason
    assert "the kernel failed 1 of 1 trials" in choice.describe_trials()
    if fault not in (wrong, not_a_number):  # demanded by name it raises
        with pytest.raises(Exception, match=reason.split(": ")[1]):
            isotonic_soft_labels(values, mix, "triton")


def test_a_kernel_that_works_is_taken_and_draws_nothing(monkeypatch):
    state = torch.get_rng_state()
    launched = []
    launch = operators.launch
    monkeypatch.setattr(operators, "launch", lambda *args, **kw: launched.append(len(args[0])) or launch(*args, **kw))
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for ranked in (1, 2, 3, 4):
            labels = torch.arange(ranked).expand(2, -1).contiguous()
            mix = LabelMix(labels, torch.full((2, ranked), 1 / ranked))
            values = torch.full((2, 7), 1 / 7, dtype=dtype)
            for call in (isotonic_soft_labels, isotonic_softmax):
                launched.clear()
                call(values, mix)
                assert launched == [5, 2], "five rows to try, then the batch"
            launched.clear()
            isotonic_with_margin(values, mix, 0.4)
            assert launched == [5, 2]
            call(values, mix)
            assert len(launched) == 3, "tried once"
    assert torch.equal(torch.get_rng_state(), state)
    trials = ida_lightning.kernel_trials()
    assert len(trials) == 36
    assert {trial.reason for trial in trials} == {None}
    assert choice.describe_trials() == "isotonic solver: triton (agreed with threshold in 36 of 36 trials)"


def test_long_rows_and_many_labels_are_not_tried():
    values, mix = random_rows(2, 8193)
    assert choice.choose(values, mix) == "threshold"
    assert choice.choose(values[:, :9].double(), mix) == "threshold"
    assert choice.choose(values[:, :9], LabelMix(mix.labels.repeat(1, 3), mix.weights.repeat(1, 3) / 3)) == "threshold"
    assert ida_lightning.kernel_trials() == []


def test_compiled_code_holds_the_outcome():
    values, mix = random_rows(4, 11)
    isotonic_soft_labels(values, mix)  # on a CPU, threshold cannot be compared with while a graph is traced
    compiled = torch.compile(lambda v, m: isotonic_soft_labels(v, m, validate=False), backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(values, mix), isotonic_soft_labels(values, mix, "threshold"))
    assert [trial.reason for trial in ida_lightning.kernel_trials()] == [None]


def test_a_graph_compiled_first_does_not_trace_the_trial(monkeypatch):
    tried = []
    monkeypatch.setattr(choice, "_cannot_try", lambda device: False)
    monkeypatch.setattr(choice, "try_kernel", lambda *kind: tried.append(kind) or "not here")
    values, mix = random_rows(4, 13)
    compiled = torch.compile(lambda v, m: isotonic_soft_labels(v, m, validate=False), backend="eager", fullgraph=True)
    with pytest.warns(UserWarning, match="not here"):
        torch.testing.assert_close(compiled(values, mix), isotonic_soft_labels(values, mix, "threshold"))
    compiled(values, mix)
    assert tried == [(values.device, values.dtype, "plain", 13, 2)]
