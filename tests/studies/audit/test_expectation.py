"""What an audit expects of a share of truth: interpolation between set-ups, and intervals from leaving each out."""

import numpy as np
import pytest

from ida_lightning.studies.audit import expectation
from ida_lightning.studies.audit.expectation import expect, known


def test_set_ups_on_a_line_leave_nothing_open(monkeypatch):
    missed = np.array([0.1, 0.3, 0.5, 0.9])
    rows = np.stack((missed, missed / 4, missed / 2, 20 * missed, 10 - 10 * missed), 1)
    monkeypatch.setattr(expectation, "known", lambda: rows)
    found = expect(0.4)
    assert (found.share_low, found.share_high) == pytest.approx((0.1, 0.2))
    assert found.over_answers.points == pytest.approx(8)
    # The first and the last cannot be predicted by the others, beyond which nothing is known.
    assert (found.over_answers.low, found.over_answers.high) == pytest.approx((8 - 8, 8 + 8))
    assert expect(1.0).over_labels.points == pytest.approx(1)


def test_shipped_intervals_hold_for_set_ups_left_out(monkeypatch):
    rows = known()
    assert len(rows) >= 5
    assert (np.diff(rows[:, 0]) >= 0).all()
    assert ((rows[:, :3] >= 0) & (rows[:, :3] <= 1)).all()
    width = expect(0.5).over_answers.high - expect(0.5).over_answers.points
    for number, (missed, _, _, over_answers, _) in enumerate(rows):
        others = np.delete(rows, number, 0)
        monkeypatch.setattr(expectation, "known", lambda others=others: others)
        assert abs(expect(missed).over_answers.points - over_answers) <= width + 1e-9
