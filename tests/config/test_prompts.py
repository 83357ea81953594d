"""Prompt files: placeholders, labels, and the sentence for a bad one."""

from __future__ import annotations

from pathlib import Path

import pytest

from stepagent import ConfigError
from stepagent.config.prompts import load_prompt


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
