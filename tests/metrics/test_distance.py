import pytest
import torch
from scipy.special import rel_entr

from ida_lightning import InputError, kl_divergence, moved_mass, prediction_agreement


def test_moved_mass_is_total_variation():
    before = torch.tensor([[0.5, 0.5, 0.0], [0.2, 0.3, 0.5]])
    after = torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.3, 0.2]])
    torch.testing.assert_close(moved_mass(before, after), torch.tensor([0.0, 0.3]))


def random_logits(scale, seed, dtype=torch.float64):
    return scale * torch.randn(50, 20, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("scale", [0.1, 1.0, 5.0])
def test_kl_is_scipys(scale):
    p, q = random_logits(scale, 1).softmax(1), random_logits(scale, 2).softmax(1)
    expected = torch.from_numpy(rel_entr(p.numpy(), q.numpy())).sum(1)
    torch.testing.assert_close(kl_divergence(p.log(), q.log()), expected)
    single = kl_divergence(p.float().log(), q.float().log())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single, expected.float(), atol=1e-6, rtol=1e-5)


def test_kl_at_the_ends_of_probability():
    never, sure = -torch.inf, 0.0
    p = torch.tensor([[sure, never], [sure, never], [sure, never], [torch.nan, never]])
    q = torch.tensor([[sure, never], [-200.0, sure], [never, sure], [sure, never]])
    found = kl_divergence(p, q)
    # e^-200 is 0 in float32, and counts; the third is impossible; NaN stays.
    assert found[:3].tolist() == [0, 200, torch.inf]
    assert found[3].isnan()


def test_kl_of_the_same_is_zero_and_never_below_it():
    logs = random_logits(3.0, 1, torch.float32).log_softmax(1)
    assert not kl_divergence(logs, logs).any()
    assert (kl_divergence(logs, (logs + 1e-7 * random_logits(1.0, 2, torch.float32)).log_softmax(1)) >= 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_agreement_is_equal_classes_and_divergence(dtype):
    student, teacher = random_logits(2.0, 1).to(dtype), random_logits(4.0, 2).to(dtype)
    found = prediction_agreement(student, teacher)
    assert found.same.tolist() == [bool(s.argmax() == t.argmax()) for s, t in zip(student, teacher, strict=True)]
    expected = rel_entr(teacher.double().softmax(1).numpy(), student.double().softmax(1).numpy()).sum(1)
    torch.testing.assert_close(found.kl.double(), torch.from_numpy(expected), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("function", [kl_divergence, prediction_agreement])
def test_shapes_that_would_broadcast_are_named(function):
    named = r"^(teacher_logits|reference_log_probs): "
    with pytest.raises(InputError, match=named + r".* the shape of \w+, \(4, 3\), got float32 \(1, 3\)"):
        function(torch.zeros(4, 3).log_softmax(1), torch.zeros(1, 3))
