"""Averages of several answers, trust by order, and the plain view, against arithmetic by hand in float64."""

import numpy as np
import pytest
import torch

from ida_lightning import (
    InputError,
    LabelMix,
    Supervision,
    as_mixed_batch,
    blend_answers,
    blend_plain,
    draw_cutmix,
    draw_mixup,
    in_order,
    isotonic_soft_labels,
    mix_batch,
    stack_pool,
    trust_by_order,
    violated_rows,
    with_plain,
)

T = 2.5
MIX = LabelMix.pair(torch.tensor([0, 1, 4, 2]), torch.tensor([3, 0, 4, 1]), torch.tensor([0.7, 0.4, 0.5, 1.0]))


def answers(count=3, rows=4, classes=5):
    generator = torch.Generator().manual_seed(3)
    return [3 * torch.randn(rows, classes, generator=generator, dtype=torch.float64) for _ in range(count)]


def soft(logits):
    return (logits / T).softmax(1)


def test_soft_label_of_a_blend_is_the_average():
    given, weights = answers(), torch.tensor([2.0, 1.0, 1.0], dtype=torch.float64)
    mean = sum(share * soft(z) for share, z in zip((0.5, 0.25, 0.25), given, strict=True))
    torch.testing.assert_close(soft(blend_answers(given, weights, T)), mean)
    torch.testing.assert_close(soft(blend_answers(given, [2, 1, 1], T)), mean)
    logits = sum(share * z for share, z in zip((0.5, 0.25, 0.25), given, strict=True))
    torch.testing.assert_close(blend_answers(given, weights, T, "logits"), logits)
    torch.testing.assert_close(soft(blend_answers(given, None, T)), sum(map(soft, given)) / 3)
    # From there on it is the answer of one teacher.
    taught = Supervision.from_teacher(
        mix_batch(draw_mixup(4, np.random.default_rng(0)), as_mixed_batch((torch.zeros(4, 1, 2, 2), torch.arange(4)))),
        blend_answers(given, weights, T),
        T,
    )
    torch.testing.assert_close(taught.soft_labels, mean)


def test_weights_of_rows_count_row_by_row():
    given, weights = answers(2), torch.tensor([[1.0, 0.0, 3.0, 1.0], [0.0, 2.0, 1.0, 1.0]], dtype=torch.float64)
    shares = torch.tensor([1.0, 0.0, 0.75, 0.5], dtype=torch.float64)[:, None]
    blended = soft(blend_answers(given, weights, T))
    torch.testing.assert_close(blended, shares * soft(given[0]) + (1 - shares) * soft(given[1]))


def test_extreme_answers_stay_finite():
    sure = [torch.tensor([[1e4, 0.0, -1e4]]), torch.tensor([[-1e4, 0.0, 1e4]])]
    blended = blend_answers(sure, None, 0.5)
    assert blended.isfinite().all()
    torch.testing.assert_close((blended / 0.5).softmax(1), torch.tensor([[0.5, 0.0, 0.5]]))


def test_trust_is_what_a_repair_leaves_in_place():
    given = answers()
    trust = trust_by_order(given, MIX, T)
    for answer, row in zip(given, trust, strict=True):
        before = soft(answer)
        moved = (isotonic_soft_labels(before, MIX) - before).abs().sum(1) / 2
        torch.testing.assert_close(row, 1 - moved)
        assert ((row < 1 - 1e-9) == violated_rows(before, MIX)).all()
    assert (trust < 1).any()
    assert (trust == 1).any()


def test_averages_of_answers_in_order_are_in_order():
    given = [in_order(answer, MIX, T) for answer in answers()]
    assert violated_rows(soft(answers()[0]), MIX).any()
    for average in ("probabilities", "logits"):
        blended = soft(blend_answers(given, [3, 1, 2], T, average))
        torch.testing.assert_close(isotonic_soft_labels(blended, MIX), blended)
    torch.testing.assert_close(soft(given[0]), isotonic_soft_labels(soft(answers()[0]), MIX))
    calm = ~violated_rows(soft(answers()[0]), MIX)
    assert torch.equal(given[0][calm], answers()[0][calm]), "rows in order keep every bit"


def test_rows_that_are_nan_stay_nan_and_break_nothing():
    broken = answers(1)[0].index_fill(0, torch.tensor([1]), torch.nan)
    assert torch.equal(in_order(broken, MIX, T).isnan().all(1), torch.arange(4) == 1)
    assert trust_by_order([broken], MIX, T)[0, 1] == 1
    assert blend_answers([broken, answers(1)[0]], None, T)[1].isnan().all()


def batches(draw, pool):
    clean = as_mixed_batch((torch.randn(4, 1, 8, 8, dtype=torch.float64), torch.tensor([0, 1, 1, 2])))
    rng = np.random.default_rng(1)
    plans = [draw(rng) for _ in range(max(1, pool))]
    mixes = [mix_batch(plan, clean) for plan in plans]
    return clean, plans, with_plain(stack_pool(clean, mixes) if pool else mixes[0], clean, plans)


DRAWS = {
    "mixup": lambda rng: draw_mixup(4, rng),
    "mixup of three": lambda rng: draw_mixup(4, rng, images=3),
    "cutmix": lambda rng: draw_cutmix(4, (8, 8), rng),
}


@pytest.mark.parametrize("pool", [0, 2])
@pytest.mark.parametrize("kind", DRAWS)
def test_plain_view_is_the_average_by_the_labels_weights(kind, pool):
    clean, plans, mixed = batches(DRAWS[kind], pool)
    logits = answers(1)[0]
    expected = [soft(logits)] if pool else []
    for plan in plans:
        rows = []
        for row in range(4):
            shown = [row, *plan.partner[row].tolist()]
            rows.append(sum(float(w) * soft(logits)[i] for i, w in zip(shown, plan.weight[row], strict=True)))
        expected.append(torch.stack(rows))
    found = soft(blend_plain(logits, mixed.plain[0], T))
    torch.testing.assert_close(found, torch.cat(expected), rtol=1e-6, atol=1e-8)
    assert len(found) == len(mixed.inputs)
    # The weights are those of the label: a teacher that is right about every image answers with it.
    right = 1e3 * torch.eye(3, dtype=torch.float64)[clean.label_mix.labels[:, 0]]
    hard = mixed.label_mix.dense(3).to(torch.float64)
    torch.testing.assert_close(soft(blend_plain(right, mixed.plain[0], T)), hard, rtol=1e-6, atol=1e-6)
    by_logits = blend_plain(right, mixed.plain[0], T, "logits")
    torch.testing.assert_close(by_logits, 1e3 * hard, rtol=1e-6, atol=1e-3)


def test_a_batch_that_was_not_mixed_is_its_own_plain_view():
    clean = as_mixed_batch((torch.randn(4, 1, 8, 8), torch.tensor([0, 1, 1, 2])))
    logits = answers(1)[0]
    torch.testing.assert_close(soft(blend_plain(logits, with_plain(clean, clean, []).plain[0], T)), soft(logits))
    assert clean.plain == ()


@pytest.mark.parametrize("weights", [[0.0, 0.0], [1.0, -1.0], [1.0], [1.0, float("nan")]])
def test_weights_that_are_none_are_refused(weights):
    with pytest.raises(InputError, match="weights: expected"):
        blend_answers(answers(2), weights, T)
