"""stepagent from Python: the commands as functions, in a script and where an event loop runs already."""

from __future__ import annotations

import asyncio
import logging
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

import stepagent
from stepagent import console
from stepagent.testing import ListedGenerator, RankingJudge

README = Path(__file__).parents[2] / "README.md"

NAMES = """
Backend BackendError BeamSearch BestOfN Candidate Completion Completions Config ConfigError DataError Found Generator
Grader
Judge Level Message ModelError Node OpenAIBackend PairwiseJudge ParityError Problem Prompt Proposal RolloutJudge
SampleGenerator Sampling SearchStrategy Step StepPreference StepSearch StepTree StepagentError TransformersBackend Usage
Verdict Vote evaluate iterate judge judge_trees load_config measure_judge optimize push search
tree_preferences tune_judge
"""


def test_the_names_are_these_and_all_are_there() -> None:
    assert sorted(stepagent.__all__) == sorted(NAMES.split())
    assert all(getattr(stepagent, name) is not None for name in stepagent.__all__)
    with pytest.raises(AttributeError, match="no attribute 'serach'"):
        stepagent.serach  # noqa: B018


def test_importing_it_loads_nothing_heavy() -> None:
    heavy = ("torch", "transformers", "openai", "sympy", "rich", "matplotlib")
    code = f"import sys, stepagent; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is no command."""
    monkeypatch.setattr(console, "_terminal_claimed", False)


@pytest.mark.usefixtures("quiet")
def test_a_search_and_its_judge_are_functions(
    config: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(logging.INFO, logger="stepagent")
    found = stepagent.search(config, tmp_path / "found")
    trees = list(found.trees())
    assert [tree.status for tree in trees] == ["ended"] * 6
    assert {row.chosen for row in found.preferences()} == {"good Step 1: one\nStep 2:"}
    assert capfd.readouterr() == ("", ""), "it speaks to the logger alone"
    assert "preference pairs" in caplog.text

    caplog.clear()
    stepagent.search(stepagent.load_config(config), tmp_path / "found")
    assert "already done" in caplog.text

    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"question": "q", "candidates": ["bad", "good"]}\n')
    keys = yaml.safe_load(config.read_text())
    (verdict,) = stepagent.judge(keys, rows, tmp_path / "verdicts")
    assert verdict.verdict.best == 1

    blind = {**keys, "judge": {"kind": "random"}}
    again = stepagent.judge_trees(blind, tmp_path / "found" / "trees.jsonl", tmp_path / "again")
    assert {tree.judge for tree in again.trees()} == {"random"}
    labelled = tmp_path / "labelled.jsonl"
    labelled.write_text('{"question": "q", "prefix": [], "first": "bad", "second": "good", "winner": "second"}\n')
    assert stepagent.measure_judge(config, str(labelled), tmp_path / "measured")["both positions agree"].startswith(
        "100.0%"
    )


@pytest.mark.usefixtures("quiet")
async def test_a_search_runs_in_a_notebook_whose_loop_runs(config: Path, tmp_path: Path) -> None:
    assert asyncio.get_running_loop()
    assert len(list(stepagent.search(config, tmp_path / "found").trees())) == 6


@pytest.mark.usefixtures("quiet")
def test_a_wrong_config_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(stepagent.ConfigError, match="did you mean 'search'"):
        stepagent.search({"model": "m", "problems": "p.jsonl", "serach": {}}, tmp_path / "found")


@pytest.mark.usefixtures("quiet")
def test_an_error_carries_no_other_errors(tmp_path: Path) -> None:
    """Sentences name the first cause of an error: it must not be the wrapper's own."""
    with pytest.raises(stepagent.DataError) as failure:
        stepagent.search({"model": "m", "problems": f"{tmp_path}/none.jsonl"}, tmp_path / "found")
    chain = [error := failure.value]
    while error := error.__cause__ or error.__context__:  # type: ignore[assignment]
        chain.append(error)
    assert not any("event loop" in str(error) for error in chain)


async def test_a_strategy_takes_any_generator_and_judge() -> None:
    generator = ListedGenerator(["a", "b"], ["c.", "d."])
    strategy = stepagent.StepSearch(generator, RankingJudge(lambda text: ord(text[0])), width=2)
    tree = await strategy.search(stepagent.Problem("1", "q"), seed=0)
    assert [(row.chosen, row.rejected) for row in stepagent.tree_preferences(tree)] == [("b", "a"), ("d.", "c.")]


async def test_the_notebook_of_the_readme_ends_in_a_judged_tree(random_model: Path) -> None:
    """At most 12 lines, as printed there; on a tiny model in the place of the hub's."""
    block = re.search(r"```python\n(import stepagent\n.*?)```", README.read_text(), re.DOTALL)
    assert block
    lines = block[1].strip().splitlines()
    assert len([line for line in lines if line.strip()]) <= 12
    code = re.sub(r'TransformersBackend\("[^"]+"', f'TransformersBackend("{random_model}"', block[1])
    body = "".join(f"    {line}\n" for line in code.splitlines())
    names: dict[str, Any] = {}
    exec(f"async def cell():\n{body}    return tree\n", names)
    tree = await names["cell"]()
    assert tree.levels
