"""Feature losses against the formulas of their papers, written down once more in NumPy's float64."""

from itertools import product

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from ida_lightning import InputError
from ida_lightning.losses.contrast import Compared, contrastive_loss, move_bank
from ida_lightning.losses.features import attention_loss, hint_loss, rkd_loss, similarity_loss

KEPT = torch.tensor([1.0, 1, 0, 1, 1])


def features(*shape, dtype=torch.float64):
    generator = torch.Generator().manual_seed(len(shape))
    return torch.randn(2, *shape, generator=generator, dtype=dtype)


def huber(a, b):
    gap = abs(a - b)
    return 0.5 * gap**2 if gap < 1 else gap - 0.5


def test_hint_is_the_mean_square():
    student, teacher = features(5, 3, 2, 2)
    expected = np.square((student - teacher).numpy()).mean((1, 2, 3))
    np.testing.assert_allclose(hint_loss(student, teacher), expected)


def test_attention_is_the_published_map_of_any_width():
    (student, _), (_, teacher) = features(5, 3, 4, 4), features(5, 7, 4, 4)
    maps = [np.square(side.numpy()).mean(1).reshape(5, -1) for side in (student, teacher)]
    first, second = (each / np.linalg.norm(each, axis=1, keepdims=True) for each in maps)
    np.testing.assert_allclose(attention_loss(student, teacher), np.square(first - second).mean(1))
    twice = F.interpolate(teacher.sqrt().nan_to_num(0.5), scale_factor=2)
    torch.testing.assert_close(attention_loss(student, twice), attention_loss(student, teacher.sqrt().nan_to_num(0.5)))


def test_similarity_is_the_published_difference_of_likenesses():
    student, teacher = features(5, 3, 2, 2)[0], features(5, 7)[1]
    grams = [flat @ flat.T for flat in (student.reshape(5, -1).numpy(), teacher.numpy())]
    first, second = (gram / np.linalg.norm(gram, axis=1, keepdims=True) for gram in grams)
    loss = similarity_loss(student, teacher)
    assert float(loss.mean()) == pytest.approx(np.square(first - second).sum() / 25)
    there = KEPT > 0
    torch.testing.assert_close(
        similarity_loss(student, teacher, KEPT)[there], similarity_loss(student[there], teacher[there])
    )


def test_relations_are_the_published_distances_and_angles():
    student, teacher = features(5, 4)[0], features(5, 7)[1]
    expected = 0.0
    sides = [side.numpy() for side in (student, teacher)]
    lengths = [np.array([[np.linalg.norm(a - b) for b in side] for a in side]) for side in sides]
    lengths = [each / each[each > 0].mean() for each in lengths]
    expected += 25 * np.mean([huber(a, b) for a, b in zip(*(each.flatten() for each in lengths), strict=True)])

    def cosine(side, i, j, k):
        first, second = side[j] - side[i], side[k] - side[i]
        size = np.linalg.norm(first) * np.linalg.norm(second)
        return first @ second / size if size else 0.0

    triples = list(product(range(5), repeat=3))
    expected += 50 * np.mean([huber(cosine(sides[0], *t), cosine(sides[1], *t)) for t in triples])
    assert float(rkd_loss(student, teacher).mean()) == pytest.approx(expected)
    there = KEPT > 0
    torch.testing.assert_close(
        rkd_loss(student, teacher, weights=KEPT)[there], rkd_loss(student[there], teacher[there])
    )


def compared(rows=3, images=2, negatives=6, width=4):
    generator = torch.Generator().manual_seed(0)

    def unit(*shape):
        return F.normalize(torch.randn(*shape, width, generator=generator, dtype=torch.float64), dim=-1)

    shares = torch.tensor([[1.0, 0.0], [0.7, 0.3], [0.5, 0.5]], dtype=torch.float64)[:rows, :images]
    valid = torch.ones(rows, negatives, dtype=torch.bool)
    return unit(rows), Compared(unit(rows, images), shares, unit(negatives), valid)


def published(feature, positive, negatives, images, temperature, constant):
    """Noise-contrastive estimation with one positive, as in the paper's code: Pn = 1 / images, m = negatives."""
    noise = len(negatives) / images
    p = np.exp(feature @ positive / temperature) / constant
    others = np.exp(negatives @ feature / temperature) / constant
    return -np.log(p / (p + noise)) - np.log(noise / (others + noise)).sum()


def test_contrast_of_one_image_is_the_published_formula():
    features_, given = compared()
    loss = contrastive_loss(features_, given, 50, 0.1, 30.0)
    for row in range(3):
        parts = [
            published(features_[row].numpy(), positive, given.negatives.numpy(), 50, 0.1, 30.0)
            for positive in given.positives[row].numpy()
        ]
        # One image: its own. A mix: the same for each image in it, by its share.
        assert float(loss[row]) == pytest.approx(float(given.shares[row].numpy() @ parts))


def test_negatives_of_a_shown_class_are_left_out():
    features_, given = compared()
    valid = torch.tensor([True, True, False, True, False, False]).expand(3, -1)
    some = contrastive_loss(features_, given._replace(valid=valid), 50, 0.1, 30.0)
    half = given._replace(negatives=given.negatives[valid[0]].repeat(2, 1))
    torch.testing.assert_close(some, contrastive_loss(features_, half, 50, 0.1, 30.0))


def test_a_bank_moves_by_shares():
    bank = F.normalize(torch.randn(5, 4), dim=1)
    seen = F.normalize(torch.randn(2, 4), dim=1)
    positions, shares = torch.tensor([[0, 1], [3, 3]]), torch.tensor([[0.75, 0.25], [0.5, 0.5]])
    moved = bank.clone()
    move_bank(moved, positions, shares, seen, 0.5)
    torch.testing.assert_close(moved[[2, 4]], bank[[2, 4]])
    torch.testing.assert_close(moved[3], F.normalize(0.5 * bank[3] + 0.5 * seen[1], dim=0))  # as published
    torch.testing.assert_close(moved[0], F.normalize(0.625 * bank[0] + 0.375 * seen[0], dim=0))
    torch.testing.assert_close(moved[1], F.normalize(0.875 * bank[1] + 0.125 * seen[0], dim=0))


def rows_of_contrast(student, teacher):
    shares, valid = torch.tensor([[0.7, 0.3]]).expand(5, 2), torch.ones(5, 5, dtype=torch.bool)
    return contrastive_loss(student, Compared(teacher[:, None].expand(5, 2, -1), shares, teacher, valid), 9, 0.5, 4.0)


@pytest.mark.parametrize("loss", [hint_loss, similarity_loss, rkd_loss, rows_of_contrast])
def test_gradients_of_feature_losses_are_right(loss):
    student, teacher = features(5, 4)
    assert torch.autograd.gradcheck(lambda values: loss(values, teacher), student.clone().requires_grad_())
    half = student.bfloat16().requires_grad_()
    if loss is not rows_of_contrast:
        (gradient,) = torch.autograd.grad(loss(half, teacher.bfloat16()).sum(), half)
        assert torch.isfinite(gradient).all()


@pytest.mark.parametrize("loss", [similarity_loss, rkd_loss])
def test_equal_rows_have_a_gradient(loss):
    student = torch.zeros(4, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(loss(student, torch.randn(4, 3)).sum(), student)
    assert torch.isfinite(gradient).all()


def test_features_that_do_not_go_together_are_named():
    with pytest.raises(InputError, match=r"teacher: expected 5 rows, as the student has, got float64 \(3, 7\)"):
        similarity_loss(features(5, 4)[0], features(3, 7)[0])
    with pytest.raises(InputError, match=r"teacher: expected the shape of student, \(5, 4\), got"):
        hint_loss(features(5, 4)[0], features(5, 7)[0])
    with pytest.raises(InputError, match="student: expected floating point features of 4 dimensions, got"):
        attention_loss(features(5, 4)[0], features(5, 7)[0])
    with pytest.raises(InputError, match="angle: expected a number >= 0, got -1"):
        rkd_loss(*features(5, 4), angle=-1)
