"""Problems of reasoning-gym: searched, evaluated, and marked as the library's own scorer does."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

import stepagent
from stepagent import ConfigError
from stepagent.environments import open_environment
from stepagent.files.problems import ProblemFile
from stepagent.stages.check_config import check_config
from stepagent.stages.describe_config import describe

SETS = ("leg_counting", "basic_arithmetic", "spell_backward", "propositional_logic", "simple_equations")
TASKS = "{env: reasoning_gym, name: leg_counting, size: 10, seed: 3, config: {max_animals: 4}}"


def test_their_scorer_and_ours_agree_on_right_and_wrong_answers() -> None:
    import reasoning_gym

    for name in SETS:
        theirs: Any = reasoning_gym.create_dataset(name, size=20, seed=5)
        ours = open_environment("reasoning_gym", name, size=20, seed=5, config={})
        entries = [theirs[index] for index in range(20)]
        assert [(entry["question"], entry["answer"]) for entry in entries] == list(ours.problems())
        for index, entry in enumerate(entries):
            for answer in (entry["answer"], entries[index - 1]["answer"], "17x"):
                score = theirs.score_answer(answer, entry)
                assert ours.is_right(index, f"Step 1: so \\boxed{{{answer}}}") is (score == 1), (name, answer)
                assert ours.is_right(index, f"Step 1: so\n<answer>{answer}</answer>") is (score == 1), (name, answer)


def test_ten_tasks_are_searched_and_evaluated_by_their_own_scoring(tmp_path: Path) -> None:
    solutions = {
        question: f"Step 1: count. Step 2: so \\boxed{{{answer if place % 2 else 'none'}}}"
        for place, (question, answer) in enumerate(
            open_environment("reasoning_gym", "leg_counting", size=10, seed=3, config={"max_animals": 4}).problems()
        )
    }
    rules = [{"pattern": _phrase(question), "say": [say]} for question, say in solutions.items()]
    config = tmp_path / "c.yaml"
    config.write_text(
        f"model: none\nproblems: {TASKS}\nbackend: {json.dumps({'kind': 'scripted', 'rules': rules})}\n"
        f"search: {{kind: best_of_n, n: 2}}\nevaluate: {{problems: {TASKS}, search_problems: 0}}\n"
    )
    trees = list(stepagent.search(config, tmp_path / "found").trees())
    assert [tree.status for tree in trees] == ["ended"] * 10
    hidden = json.dumps([tree.problem.metadata for tree in trees])
    assert "total_legs" not in hidden, "the library's metadata hold the answer, which no search may see"
    evaluation = stepagent.evaluate(config, tmp_path / "evaluated")
    assert evaluation.solved == (False, True) * 5
    assert evaluation.failed_grades == 0
    assert "kind: environment" in (tmp_path / "evaluated" / "config.yaml").read_text()


def _phrase(question: str) -> str:
    """Return the part of a question that no other one has, as a pattern."""
    return question.rpartition("if you have ")[2].strip().rstrip("?")


def test_the_problems_are_the_same_again(tmp_path: Path) -> None:
    source = stepagent.Config.model_validate({"model": "m", "problems": json_of(TASKS)}).problems
    first, second = (list(ProblemFile.of(source, tmp_path / name).with_answers()) for name in "ab")
    assert first == second
    assert len({problem.id for problem in first}) == 10


def json_of(text: str) -> Any:
    from stepagent.config.yaml_text import read_yaml

    return read_yaml(text)


@pytest.mark.parametrize(
    ("problems", "words"),
    [
        ("{env: reasoning_gym, name: leg_countin}", "did you mean 'leg_counting'"),
        ("{env: reasoning_gym, name: leg_counting, config: {animals: 3}}", "refuses it"),
        ("{env: reasoning_gym, name: leg_counting, config: {min_animals: 0}}", "min_animals must be positive"),
        ("{env: reasoning_gym}", "name the environment"),
        ("{env: reasoning_gym, name: leg_counting, sample: 3}", "leave 'sample' out"),
        ("{path: p.jsonl, size: 3}", "'size' needs an 'env'"),
        ("{seed: 3}", "name a 'path' or an 'env'"),
    ],
)
def test_settings_that_cannot_be_are_one_sentence(tmp_path: Path, problems: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words.replace("(", "\\(")):
        stepagent.search({"model": "none", "problems": json_of(problems), "backend": {"kind": "scripted"}}, tmp_path)


@pytest.mark.skipif(importlib.util.find_spec("verifiers") is not None, reason="verifiers is installed")
def test_a_missing_library_is_named_with_its_command() -> None:
    with pytest.raises(ConfigError, match=r"verifiers cannot be imported .* pip install 'verifiers<0.4'"):
        open_environment("verifiers", "gsm8k", size=3, seed=0, config={})


ENVIRONMENT = """
import verifiers
from datasets import Dataset


def reaches(completion, answer, **rest):
    return float(completion[-1]["content"].endswith(answer))


def load_environment(many=False):
    rows = [{"question": f"{i} + {i}?", "answer": str(2 * i)} for i in range(1, 6)]
    kind = verifiers.SingleTurnEnv if not many else verifiers.ToolEnv
    return kind(dataset=Dataset.from_list(rows), system_prompt="Be brief.", rubric=verifiers.Rubric(funcs=[reaches]))
"""


def test_single_turn_environments_of_verifiers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("verifiers", reason="a heavy library, in no extra")
    (tmp_path / "doubling_environment.py").write_text(ENVIRONMENT)
    monkeypatch.syspath_prepend(str(tmp_path))
    environment = open_environment("verifiers", "doubling-environment", size=4, seed=1, config={})
    problems = list(environment.problems())
    assert len(problems) == 4
    for index, (question, answer) in enumerate(problems):
        assert question.startswith("Be brief.\n\n")
        assert environment.is_right(index, f"Step 1: so {answer}")
        assert not environment.is_right(index, "Step 1: so 17")
    with pytest.raises(ConfigError, match="no single-turn environment"):
        open_environment("verifiers", "doubling-environment", size=4, seed=1, config={"many": True})


def test_a_config_is_checked_with_its_environment(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    text = f"model: m\nproblems: {TASKS}\nrounds: 1\nbackend: {{kind: scripted}}\nproblems_per_round: [8]\n"
    path.write_text(text)
    checked, faults = check_config(path)
    assert faults == []
    assert (describe(checked)["grader"], describe(checked)["problems"]) == (
        "environment",
        "reasoning_gym leg_counting, 10",
    )
    assert "verify" not in describe(checked)
    path.write_text(text.replace("[8]", "[12]"))
    assert "10 problems, but problems_per_round asks for 12" in check_config(path)[1][0]
