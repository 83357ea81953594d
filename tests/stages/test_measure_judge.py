"""Figures of a judge that is measured on labelled data."""

from __future__ import annotations

import pytest

from stepagent.report.shares import share
from stepagent.stages.measure_judge import calibration_error


def test_shares_and_calibration_by_hand() -> None:
    """Wilson for 8 of 10. One bin: margins 0.9 and 0.9, one of two right: |1.8 - 1| / 2."""
    assert share(8, 10) == "80.0% (49.0 to 94.3)"
    assert share(0, 0) == "–"
    assert calibration_error([(0.9, True), (0.9, False)]) == pytest.approx(0.4)
    assert calibration_error([(1.0, True), (0.5, True), (0.5, False)]) == pytest.approx(0.0)
