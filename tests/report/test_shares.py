"""Shares and their intervals."""

from __future__ import annotations

import pytest

from stepagent.report.shares import share, wilson


def test_intervals() -> None:
    assert wilson(50, 100) == pytest.approx((0.4038, 0.5962), abs=1e-4)
    for whole in range(1, 1000):
        assert wilson(0, whole)[0] == 0
        assert wilson(whole, whole)[1] == 1
    assert share(0, 0) == "–"
    assert share(10, 10) == "100.0% (72.2 to 100.0)"
