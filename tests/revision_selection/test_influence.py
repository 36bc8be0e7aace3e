"""Influence on a softmax head, held against automatic derivatives, explicit inversion, and training again without."""

import pytest
import torch
from scipy.stats import spearmanr
from torch.func import grad, jacrev, vmap

from ida_lightning import InputError, distillation_loss
from ida_lightning.revision_selection.influence import (
    curvature,
    gauss_newton_product,
    influence,
    label_residuals,
    solve_gauss_newton,
    teaching_residuals,
)

ROWS, FEATURES, CLASSES = 90, 4, 3


@pytest.fixture
def problem():
    """Features with a column of ones, noisy labels, and a teacher that is neither right nor the head itself."""
    torch.manual_seed(2)
    centres = 1.2 * torch.randn(CLASSES, FEATURES).double()

    def part(rows, noise):
        truth = torch.arange(rows) % CLASSES
        features = centres[truth] + torch.randn(rows, FEATURES).double()
        wrong = torch.rand(rows) < noise
        labels = torch.where(wrong, torch.randint(CLASSES, (rows,)), truth)
        teacher = 2.0 * features @ centres.T + 1.5 * torch.randn(rows, CLASSES).double()
        return torch.cat((features, torch.ones(rows, 1).double()), 1), labels, teacher

    return part(ROWS, 0.3), part(60, 0.0)


def cross_entropy(weight, features, labels):
    return torch.nn.functional.cross_entropy(features @ weight.T, labels)


def hessian(function):
    return jacrev(grad(function))


def test_gradients_are_those_of_automatic_differentiation(problem):
    (features, labels, teacher), _ = problem
    weight, temperature = torch.randn(CLASSES, FEATURES + 1).double(), 2.5

    def difference(weight, feature, label, teacher_logits):
        logits = (feature @ weight.T)[None]
        target = (teacher_logits / temperature).softmax(0)[None]
        taught = distillation_loss(logits, target, temperature)[0]
        return taught + logits.log_softmax(1)[0].gather(0, label[None])[0]

    expected = vmap(grad(difference), (None, 0, 0, 0))(weight, features, labels, teacher)
    residuals = teaching_residuals(features @ weight.T, teacher, labels, temperature)
    torch.testing.assert_close(residuals[:, :, None] * features[:, None, :], expected)
    direction = torch.randn_like(weight)
    torch.testing.assert_close(influence(direction, features, residuals), (expected * direction).sum((1, 2)))
    total = label_residuals((features @ weight.T).softmax(1), labels).T @ features / ROWS
    torch.testing.assert_close(total, grad(cross_entropy)(weight, features, labels))


def test_the_solution_is_that_of_the_inverted_hessian(problem):
    (features, labels, _), _ = problem
    weight, gradient = torch.randn(2, CLASSES, FEATURES + 1).double()
    explicit = hessian(cross_entropy)(weight, features, labels).reshape(2 * (weight.numel(),))
    probs = (features @ weight.T).softmax(1)
    direction = torch.randn_like(weight)
    product = (explicit @ direction.flatten()).reshape(weight.shape)
    torch.testing.assert_close(gauss_newton_product(features, probs, direction), product)
    torch.testing.assert_close(curvature(features, probs).flatten(), explicit.diagonal())
    for damping in (1e-3, 1.0):
        inverted = torch.linalg.inv(explicit + damping * torch.eye(len(explicit))) @ gradient.flatten()
        found = solve_gauss_newton(features, probs, gradient, damping, tolerance=1e-10)
        torch.testing.assert_close(found.direction.flatten(), inverted, atol=1e-6, rtol=1e-6)
        assert found.residual < 1e-9
        assert 0 < found.steps <= 3 * len(explicit)
    short = solve_gauss_newton(features, probs, gradient, 1e-3, max_steps=2)
    assert short.steps == 2
    assert short.residual > 1e-8


def minimum(weight, loss):
    """Newton's method; the loss is strictly convex."""
    for _ in range(50):
        slope = grad(loss)(weight)
        if slope.norm() < 1e-12:
            break
        curved = hessian(loss)(weight).reshape(2 * (weight.numel(),))
        weight = weight - torch.linalg.solve(curved, slope.flatten()).reshape(weight.shape)
    assert slope.norm() < 1e-10
    return weight


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_scores_predict_what_training_again_finds(problem, temperature):
    """Every row in turn is taught by the teacher instead of its label, and the head trained to its minimum again."""
    (features, labels, teacher), (val_features, val_labels, _) = problem
    damping = 0.05

    def loss(weight, row=0, eps=0.0):
        logits = features @ weight.T
        hard = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
        soft = distillation_loss(logits, (teacher / temperature).softmax(1), temperature)
        return hard.mean() + eps * (soft - hard)[row] + damping / 2 * weight.square().sum()

    trained = minimum(torch.zeros(CLASSES, FEATURES + 1).double(), loss)
    before = cross_entropy(trained, val_features, val_labels)

    def fall(row, eps):
        again = minimum(trained, lambda weight: loss(weight, row, eps))
        return float(before - cross_entropy(again, val_features, val_labels))

    falls = [fall(row, 1 / ROWS) for row in range(ROWS)]  # taught by the teacher instead of the label
    logits = features @ trained.T
    gradient = grad(cross_entropy)(trained, val_features, val_labels)
    direction = solve_gauss_newton(features, logits.softmax(1), gradient, damping).direction
    scores = influence(direction, features, teaching_residuals(logits, teacher, labels, temperature))
    slopes = [(fall(row, 1e-5) - fall(row, -1e-5)) / 2e-5 for row in range(0, ROWS, 9)]
    assert scores[::9].tolist() == pytest.approx(slopes, rel=1e-4, abs=1e-6)
    rank = spearmanr(scores, falls).statistic
    print(f"T = {temperature:g}: rank correlation with retraining {rank:.4f} over {ROWS} rows")  # noqa: T201
    assert rank > 0.97
    falls = torch.tensor(falls).double()
    assert (falls > 0).any()
    assert (falls < 0).any()
    clear = falls.abs() > falls.abs().median()
    assert torch.equal(scores[clear] > 0, falls[clear] > 0), "positive where the teacher helps"
    slope = float((scores / ROWS * falls).sum() / (scores / ROWS).square().sum())
    assert 0.7 < slope < 1.3


def test_no_gradient_is_no_direction_and_damping_is_checked():
    features, probs = torch.ones(2, 1).double(), torch.full((2, 2), 0.5).double()
    found = solve_gauss_newton(features, probs, torch.zeros(2, 1).double(), 1.0)
    assert (found.steps, found.residual, float(found.direction.abs().sum())) == (0, 0, 0)
    with pytest.raises(InputError, match="damping: expected a number > 0, got 0"):
        solve_gauss_newton(features, probs, torch.zeros(2, 1).double(), 0)
