import pytest
import torch

from ida_lightning import (
    InputError,
    LabelMix,
    Supervision,
    as_mixed_batch,
    distillation_loss,
    mixed_cross_entropy,
    stack_pool,
    weighted_losses,
)


def test_select_keeps_rows_together():
    rows = torch.arange(4.0)
    supervision = Supervision(
        rows[:, None, None, None],
        LabelMix.unmixed(torch.arange(4)),
        torch.arange(4),
        rows[:, None],
        rows[:, None],
        rows,
        rows,
        4.5,
    )
    for chosen in (torch.tensor([3, 1]), torch.tensor([False, True, False, True])):
        part = supervision.select(chosen)
        expected = rows[chosen].tolist()
        assert part.inputs.flatten().tolist() == expected
        assert part.label_mix.labels.flatten().tolist() == expected
        assert part.label_mix.weights.flatten().tolist() == [1, 1]
        assert part.index.tolist() == expected
        assert part.teacher_logits.flatten().tolist() == expected
        assert part.soft_labels.flatten().tolist() == expected
        assert part.soft_weight.tolist() == part.hard_weight.tolist() == expected
        assert part.temperature == 4.5


def test_from_teacher_is_what_the_module_teaches():
    batch = as_mixed_batch((torch.rand(3, 1, 8, 8), torch.tensor([0, 1, 1])))
    logits = torch.tensor([[0.0, 2.0], [1.0, 1.0], [4.0, 0.0]])
    taught = Supervision.from_teacher(batch, logits, temperature=2.0, soft_weight=0.7, hard_weight=0.2)
    torch.testing.assert_close(taught.soft_labels, (logits / 2).softmax(1))
    assert torch.equal(taught.teacher_logits, logits)
    assert taught.soft_weight.tolist() == pytest.approx([0.7] * 3)
    assert taught.hard_weight.tolist() == pytest.approx([0.2] * 3)
    assert not taught.mixed.any()
    assert Supervision.from_teacher(batch, logits.bfloat16()).soft_labels.dtype == torch.float32
    student = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    kd, hard = weighted_losses(student, taught)
    assert float(kd) == pytest.approx(0.7 * float(distillation_loss(student, taught.soft_labels, 2.0).mean()))
    assert float(hard) == pytest.approx(0.2 * float(mixed_cross_entropy(student, batch.label_mix).mean()))


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"temperature": 0.0}, "temperature: expected a number > 0"),
        ({"soft_weight": -1.0}, "soft_weight: expected a number >= 0"),
        ({"hard_weight": -1.0}, "hard_weight: expected a number >= 0"),
        ({"teacher_logits": torch.zeros(3)}, "teacher_logits: expected floating point "),
        ({"batch": (torch.rand(3, 1, 8, 8), torch.zeros(3))}, "batch: expected a"),
    ],
    ids=["temperature", "soft", "hard", "logits", "batch"],
)
def test_what_a_teacher_cannot_have_said_is_refused(options, complaint):
    batch = as_mixed_batch((torch.rand(3, 1, 8, 8), torch.tensor([0, 1, 1])))
    with pytest.raises(InputError, match=complaint):
        Supervision.from_teacher(**{"batch": batch, "teacher_logits": torch.zeros(3, 2), **options})


def test_a_pool_needs_mixes():
    with pytest.raises(InputError, match="mixes: expected a list of one or more MixedBatch, got list"):
        stack_pool(as_mixed_batch((torch.rand(3, 1, 8, 8), torch.tensor([0, 1, 1]))), [])
