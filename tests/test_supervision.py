import torch

from ida_lightning import LabelMix, Supervision


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
