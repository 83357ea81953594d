"""Prompt files: placeholders, labels, and the sentence for a bad one."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from stepagent import ConfigError
from stepagent.assembly.components import Binder
from stepagent.config.component import Component
from stepagent.config.prompts import (
    PromptTemplate,
    load_judge_prompt,
    load_prompt,
    load_ranking_prompt,
    load_rubric_prompt,
    prompt_path,
)
from stepagent.config.settings import Config
from stepagent.stages.train import eft_rows


def test_placeholders_are_filled_once_and_braces_mean_nothing(tmp_path: Path) -> None:
    path = tmp_path / "p.md"
    path.write_text("---\nsystem: Be {exact}.\n---\n\\boxed{} {x} {question} {other}\n")
    system, user = load_prompt(str(path), ("question",)).messages({"question": "{question} {x}"})
    assert system.content == "Be {exact}."
    assert user.content == "\\boxed{} {x} {question} {x} {other}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Solve {qestion}", r"placeholder \{question\} is missing"),
        ("---\nlabels: {first: A}\n---\n{question}", "'labels' needs 'first' and 'second'"),
        ("---\nlabels: {first: A, second: AB}\n---\n{question}", "one verdict label contains another"),
        ('---\nlabels: {first: "", second: B}\n---\n{question}', "a verdict label is empty"),
        ("---\nlable: x\n---\n{question}", "only 'system', 'labels' and 'scale'"),
    ],
)
def test_bad_prompts_are_refused_at_load(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "p.md"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_prompt(str(path), ("question",))


def test_an_unknown_prompt_lists_the_known() -> None:
    with pytest.raises(ConfigError, match=r"no prompt 'slove'.*solve"):
        load_prompt("slove", ())


SHIPPED: dict[str, Callable[..., object]] = {
    "judge_pairwise": load_judge_prompt,
    "judge_logprob": load_judge_prompt,
    "short_judge": load_judge_prompt,
    "demo_judge": load_judge_prompt,
    "demo_logprob": load_judge_prompt,
    "judge_pointwise": load_rubric_prompt,
    "demo_pointwise": load_rubric_prompt,
    "judge_listwise": load_ranking_prompt,
}


@pytest.mark.parametrize(("name", "loader"), SHIPPED.items())
def test_criteria_stand_in_every_shipped_judge_prompt_and_leave_no_trace_without(
    name: str, loader: Callable[..., object]
) -> None:
    def words(criteria: str) -> str:
        loaded = loader(name, criteria)
        template = loaded[0] if isinstance(loaded, tuple) else loaded
        assert isinstance(template, PromptTemplate)
        values = dict.fromkeys(("question", "prefix", "first", "second", "step", "candidates"), "-")
        return template.messages(values)[-1].content

    body = re.sub(r"\A---\n.*?\n---\n", "", prompt_path(name).read_text(), flags=re.DOTALL)
    plain = re.sub(r"\{\w+\}", "-", body.replace("{criteria}", "")).rstrip("\n")
    assert words("") == words("  \n") == plain, "byte for byte the prompt without the place"
    place = "\n\nCriteria of this task:\nUnits count: {question} is no place."
    assert words("Units count: {question} is no place.\n").replace(place, "", 1) == plain
    assert place in words("Units count: {question} is no place.\n")


def test_criteria_without_a_place_in_the_prompt_are_one_error_before_anything_is_made(
    load: Callable[..., Config], tmp_path: Path
) -> None:
    path = tmp_path / "own.md"
    path.write_text('---\nlabels: {first: "[[A]]", second: "[[B]]"}\n---\n{question} {prefix} {first} {second}\n')
    config = load(f"model: none\nproblems: p.jsonl\njudge: {{prompt: {path}, criteria: Units count.}}")
    with pytest.raises(ConfigError, match=r"own\.md: no place for judge\.criteria; write \{criteria\} behind"):
        Binder(config).judge()
    assert Binder(config.model_copy(update={"judge": Component(kind="pairwise", params={"prompt": str(path)})})).judge()


def test_training_rows_are_rendered_with_the_criteria_that_the_judge_will_read(
    load: Callable[..., Config], tmp_path: Path
) -> None:
    row = {"question": "1+1", "prefix": [], "first": "2", "second": "3", "winner": "first", "judgement": "[[A]]"}
    (tmp_path / "eft.jsonl").write_text(json.dumps(row) + "\n")
    text = "model: none\nproblems: p.jsonl\njudge: {prompt: short_judge, criteria: Units count.}"
    (sft_row,) = eft_rows(load(text), tmp_path / "eft.jsonl")
    assert sft_row.messages[-1].content.endswith("A or B?\n\nCriteria of this task:\nUnits count.")
