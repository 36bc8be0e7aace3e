import pytest
import torch
from torch.nn import functional as F

from ida_lightning import InputError, LabelMix, distillation_loss, mixed_cross_entropy, probability_loss


def test_distillation_loss_is_kl_times_temperature_squared():
    student_logits, teacher_logits = torch.randn(2, 6, 10, dtype=torch.float64)
    soft_labels = (teacher_logits / 3).softmax(1)
    expected = F.kl_div((student_logits / 3).log_softmax(1), soft_labels, reduction="batchmean") * 9
    torch.testing.assert_close(distillation_loss(student_logits, soft_labels, 3.0).mean(), expected)


def test_distillation_loss_is_zero_at_the_target():
    logits = torch.randn(4, 5)
    torch.testing.assert_close(
        distillation_loss(logits, (logits / 2).softmax(1), 2.0), torch.zeros(4), atol=1e-6, rtol=0
    )
    one_hot = torch.eye(5)[:4]
    torch.testing.assert_close(
        distillation_loss(logits, one_hot, 1.0), F.cross_entropy(logits, torch.arange(4), reduction="none")
    )


def test_two_terms_are_one_blended_target():
    # design.md fact 6: a KL(p||q) + b KL(m||q) has the gradient of (a+b) KL((a p + b m)/(a+b) || q).
    logits = torch.randn(3, 7, dtype=torch.float64, requires_grad=True)
    p, m = torch.rand(2, 3, 7, dtype=torch.float64).softmax(2)
    both = 0.3 * distillation_loss(logits, p, 2.0).sum() + 0.7 * distillation_loss(logits, m, 2.0).sum()
    blended = distillation_loss(logits, 0.3 * p + 0.7 * m, 2.0).sum()
    torch.testing.assert_close(torch.autograd.grad(both, logits), torch.autograd.grad(blended, logits))


def test_mixed_cross_entropy_is_the_one_with_the_dense_label():
    logits = torch.randn(5, 6)
    mix = LabelMix.pair(torch.tensor([0, 1, 2, 3, 3]), torch.tensor([5, 4, 3, 2, 3]), torch.rand(5))
    torch.testing.assert_close(
        mixed_cross_entropy(logits, mix), F.cross_entropy(logits, mix.dense(6), reduction="none")
    )


def test_hard_labels_at_a_temperature_are_a_teacher_that_knows():
    logits = torch.randn(5, 6, dtype=torch.float64, requires_grad=True)
    mix = LabelMix.pair(torch.tensor([0, 1, 2, 3, 3]), torch.tensor([5, 4, 3, 2, 3]), torch.rand(5).double())
    hard = mixed_cross_entropy(logits, mix, 4.5)
    torch.testing.assert_close(hard, 4.5**2 * F.cross_entropy(logits / 4.5, mix.dense(6), reduction="none"))
    (gradient,) = torch.autograd.grad(hard.sum(), logits)
    (taught,) = torch.autograd.grad(distillation_loss(logits, mix.dense(6), 4.5).sum(), logits)
    torch.testing.assert_close(gradient, taught)
    torch.testing.assert_close(gradient, 4.5 * ((logits / 4.5).softmax(1) - mix.dense(6)), msg="T^2 of 1 / T")
    with pytest.raises(InputError, match="temperature: expected a number > 0, got 0"):
        mixed_cross_entropy(logits, mix, 0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_logits_are_computed_in_float32(dtype):
    logits = torch.tensor([[60.0, -60.0, 0.0]], dtype=dtype, requires_grad=True)
    soft = distillation_loss(logits, torch.tensor([[0.0, 1.0, 0.0]]), 0.5)
    hard = mixed_cross_entropy(logits, LabelMix.unmixed(torch.tensor([1])))
    assert soft.dtype == hard.dtype == torch.float32
    (gradient,) = torch.autograd.grad((soft + hard).sum(), logits)
    assert torch.isfinite(gradient).all()
    assert gradient.abs().sum() > 0


@pytest.mark.parametrize("shape", [(6, 1), (10,), (1, 10), (6, 9)])
def test_soft_labels_of_another_shape_do_not_broadcast(shape):
    with pytest.raises(InputError, match=r"soft_labels: .* the shape of student_logits, \(6, 10\), got"):
        distillation_loss(torch.zeros(6, 10), torch.zeros(shape), 2.0)


def test_label_mix_of_another_batch_is_named():
    with pytest.raises(InputError, match=r"student_logits: .*the batch of 3 of label_mix, got float32 \(6, 10\)"):
        mixed_cross_entropy(torch.zeros(6, 10), LabelMix.unmixed(torch.arange(3)))


@pytest.mark.parametrize("temperature", [1.0, 4.5, 20.0, 100.0, 1000.0, 10_000.0])
@pytest.mark.parametrize("classes", [10, 100])
def test_float32_loss_is_right_at_every_temperature(classes, temperature):
    student_logits, teacher_logits = torch.randn(2, 32, classes, dtype=torch.float64)
    exact_logits = student_logits.clone().requires_grad_()
    exact = distillation_loss(exact_logits, (teacher_logits / temperature).softmax(1), temperature)
    # At a high temperature the loss is half the squared distance of the centred logits, over the classes.
    if temperature >= 1000:
        gap = student_logits - teacher_logits
        limit = (gap - gap.mean(1, keepdim=True)).square().mean(1) / 2
        torch.testing.assert_close(exact, limit, rtol=5e-3, atol=0)
    logits = student_logits.float().requires_grad_()
    loss = distillation_loss(logits, (teacher_logits.float() / temperature).softmax(1), temperature)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), exact, rtol=1e-3, atol=0)
    (gradient,), (expected,) = (torch.autograd.grad(x.sum(), y) for x, y in ((loss, logits), (exact, exact_logits)))
    assert float((gradient.double() - expected).norm() / expected.norm()) < 1e-3


@pytest.mark.parametrize("loss", [distillation_loss, probability_loss])
def test_logits_in_place_of_soft_labels_are_named(loss):
    with pytest.raises(InputError, match="soft_labels: expected numbers >= 0, got -1"):
        loss(torch.zeros(1, 2), torch.tensor([[-1.0, 2.0]]), 2.0)
    with pytest.raises(InputError, match="soft_labels: expected rows that sum to 1, got a row sum of 3"):
        loss(torch.zeros(1, 2), torch.tensor([[1.0, 2.0]]), 2.0)


def test_losses_of_single_rows_under_vmap():
    logits, soft_labels = torch.randn(5, 4), torch.rand(5, 4).softmax(1)
    one_by_one = torch.func.vmap(lambda z, p: probability_loss(z[None], p[None], 3.0)[0])
    torch.testing.assert_close(one_by_one(logits, soft_labels), probability_loss(logits, soft_labels, 3.0))
