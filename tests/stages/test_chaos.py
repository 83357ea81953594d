"""Ten schedules of the chaos (benchmarks/chaos.py): kills, torn files, a full disk, servers that die, a wild clock."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

_CHAOS = Path(__file__).parents[2] / "benchmarks" / "chaos.py"


@pytest.mark.slow
def test_ten_schedules_of_faults_end_with_the_same_preferences_and_models(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    command = [sys.executable, str(_CHAOS), "--schedules", "10", "--seed", "0", "--json", str(figures)]
    run = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "TMPDIR": str(tmp_path)})
    assert run.returncode == 0, run.stdout + run.stderr[-3000:]
    outcomes = json.loads(figures.read_text())
    assert [outcome["schedule"] for outcome in outcomes] == list(range(10))
    assert all(outcome["starts"][-1] == "no fault: 0" for outcome in outcomes)
