"""Means over rows: right, quiet, and unbroken by an interruption."""

import pytest
import torch

from ida_lightning.modules.row_means import RowMeans
from tests.helpers.devices import DEVICES, never_waiting
from tests.helpers.trainers import OneProcess


@pytest.mark.parametrize("device", DEVICES)
def test_means_are_over_rows_not_over_batches_and_nothing_waits(device):
    means = RowMeans()
    with never_waiting(device):
        for rows in (3, 5, 0, 1):
            means.add({"share": torch.ones(rows, device=device) / rows, "hit": torch.ones(rows, device=device) > 0})
    assert means.pop(OneProcess) == pytest.approx({"share": 3 / 9, "hit": 1})
    assert means.pop(OneProcess) == {}, "begun anew"


def test_a_state_goes_on_in_the_first_process_only():
    class First(OneProcess):
        is_global_zero = True

    class Second(OneProcess):
        is_global_zero = False

    begun = RowMeans()
    begun.add({"hit": torch.tensor([True, False])})
    state = begun.state(OneProcess)
    halves = []
    for process in (First, Second):
        going_on = RowMeans()
        going_on.restore(state, process, torch.device("cpu"))
        going_on.add({"hit": torch.tensor([True])})
        halves.append(going_on.total(process))
    assert torch.tensor(halves).sum(0).tolist() == [3, 4]


def test_no_rows_have_no_mean():
    means = RowMeans()
    means.restore(means.state(OneProcess), OneProcess, torch.device("cpu"))
    assert means.pop(OneProcess) == {}
    means.add({"hit": torch.zeros(0)})
    assert means.pop(OneProcess) == {}
