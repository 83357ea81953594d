"""A config whose scripted model knows good steps from bad ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

CONFIG = """
model: none
problems: {folder}/problems.jsonl
backend: {{kind: scripted, rules: [
  {{pattern: "impartial judge[\\\\s\\\\S]*proposal_A>\\\\ngood", say: ["A is right. [[A]]"]}},
  {{pattern: "impartial judge", say: ["B is right. [[B]]"]}},
  {{pattern: "Step 2:$", say: [" so \\\\boxed{{2}}"]}},
  {{pattern: "", say: ["good Step 1: one\\nStep 2: x", "bad Step 1: one\\nStep 2: x"]}}]}}
search: {{width: 4}}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A config file with six problems beside it."""
    path = tmp_path / "c.yaml"
    path.write_text(CONFIG.format(folder=tmp_path))
    rows = [{"id": f"p{i}", "question": f"1+1 ({i})", "answer": "2"} for i in range(6)]
    (tmp_path / "problems.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
