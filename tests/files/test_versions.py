"""Files of earlier versions are read: docs/versions.md promises it."""

from __future__ import annotations

from pathlib import Path

import pytest

from stepagent import StepPreference
from stepagent.files.jsonl import read_rows
from stepagent.preferences import tree_preferences
from stepagent.report.reading import Gaps, trees

FOLDERS = sorted((Path(__file__).parents[1] / "cases" / "versions").iterdir())


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_trees_and_preferences_of_an_earlier_version_are_read_and_agree(folder: Path) -> None:
    gaps = Gaps()
    earlier_trees = [tree for _, tree in trees(folder / "trees.jsonl", gaps)]
    assert not gaps.sentences(folder)
    assert [tree.status for tree in earlier_trees] == ["ended", "no_signal"]
    rows = read_rows(folder / "preferences.jsonl", StepPreference)
    assert rows
    ended = earlier_trees[0]
    assert [row for row in tree_preferences(ended) if row.problem_id == ended.problem.id] == rows
    assert all(row.prompt_ids and row.chosen_ids and row.rejected_ids for row in rows)
