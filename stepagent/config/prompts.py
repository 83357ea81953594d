"""Prompt files: text with named placeholders, and for judges the verdict grammar they ask for.

A prompt file is the user's turn. It may open with YAML between two `---` lines:

    ---
    system: You are a careful mathematician.
    labels: {first: "[[A]]", second: "[[B]]", tie: "[[C]]"}
    ---
    Question: {question} ...

Between the lines every value is text: a label may be yes, 1 or [[A]], with quotes or without.

Placeholders are filled in one pass over the known names, so braces in LaTeX or JSON, in the file or in
the inserted text, mean nothing. {criteria}, in a judge's prompt, takes the task's own words from `judge.criteria`, as a
paragraph of its own behind the words before it; without them it renders to nothing.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import yaml

from stepagent.config.arguments import PromptFile
from stepagent.config.yaml_text import RepeatedKeyError, read_texts, yaml_fault
from stepagent.errors import ConfigError
from stepagent.types import Message

_FRONT = re.compile(r"\A(\s*---[ \t]*(?:#[^\n]*)?\n)(.*?)^---[ \t]*(?:\n|\Z)", re.DOTALL | re.MULTILINE)
_UNCLOSED = re.compile(r"\s*---[ \t]*\n\s*(?:system|labels|scale)[ \t]*:")
_TAG = re.compile(r"</?\w+>")
_PACKAGE = Path(__file__).parents[1]
_CRITERIA = "criteria"


def prompts_folder() -> Path:
    """Return the folder of the shipped prompts: inside an installed wheel, or beside the package in a checkout."""
    shipped = _PACKAGE / "prompts"
    return shipped if shipped.is_dir() else _PACKAGE.parent / "prompts"


@dataclass(frozen=True, slots=True)
class Labels:
    """The verdict tokens a judge prompt asks for. `tie` is None where the prompt forces a choice."""

    first: str
    second: str
    tie: str | None = None

    def all(self) -> tuple[str, ...]:
        """Return the labels, the tie's last."""
        return tuple(label for label in (self.first, self.second, self.tie) if label)


@dataclass(frozen=True, slots=True)
class Scale:
    """A rubric's grades: from `low` to `high`, written after `mark`."""

    low: float
    high: float
    mark: str = "Score:"


@dataclass(frozen=True, slots=True)
class PromptTemplate:
    """A loaded prompt file. `criteria` is the text that stands for {criteria}."""

    path: Path
    body: str
    names: tuple[str, ...]
    system: str = ""
    labels: Labels | None = None
    scale: Scale | None = None
    criteria: str = ""

    def messages(self, values: Mapping[str, str]) -> tuple[Message, ...]:
        """Return the chat turns with every `{name}` replaced; inserted text is never scanned again, and cannot close a
        part of the prompt or a chat turn: its copies of the file's own <tags> and of <|turn|> marks are broken by an
        invisible mark."""
        foreign, pattern = _patterns(self.body, self.names)
        values = {**values, _CRITERIA: self.criteria}

        def fill(match: re.Match[str]) -> str:
            return foreign.sub(lambda tag: "<\u200b" + tag[0][1:], values[match[1]])

        user = Message("user", pattern.sub(fill, self.body))
        return (Message("system", self.system), user) if self.system else (user,)


@cache
def _patterns(body: str, names: tuple[str, ...]) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Return the patterns of the marks that inserted text may not hold, and of the placeholders."""
    tags = {*_TAG.findall(body), "<|"}
    foreign = re.compile("|".join(re.escape(tag) for tag in tags))
    return foreign, re.compile(r"\{(" + "|".join(map(re.escape, names)) + r")\}")


def prompt_path(name: str) -> Path:
    """Return the file of a shipped prompt, by its name (`judge_pairwise`), or `name` itself as a path."""
    path = prompts_folder() / f"{name}.md"
    return path if os.path.isfile(path) else Path(name)  # a name may be a whole text, too long for a path


def load_prompt(name: str, placeholders: tuple[str, ...], criteria: str | None = None) -> PromptTemplate:
    """Load a shipped prompt by name (`judge_pairwise`) or any file by path. `criteria` are those of a judge's prompt,
    None for a prompt that takes none.

    Raises ConfigError if there is no such prompt, its front matter is broken, a placeholder is missing (that of
    criteria only where there are some), or its labels cannot be told apart.
    """
    path = prompt_path(name)
    if not os.path.isfile(path):
        shipped = ", ".join(sorted(file.stem for file in prompts_folder().glob("*.md")))
        raise ConfigError(f"no prompt '{name}': give a file's path or one of {shipped}")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not valid UTF-8; convert the file") from None
    front, body = _front_matter(path, text)
    for placeholder in placeholders:
        if "{" + placeholder + "}" not in body:
            raise ConfigError(f"{path}: the placeholder {{{placeholder}}} is missing")
    if criteria and "{criteria}" not in body:
        raise ConfigError(
            f"{path}: no place for judge.criteria; write {{criteria}} behind the sentence that they are "
            "to follow (without criteria it renders to nothing), or leave judge.criteria out"
        )
    labels = _labels(path, front["labels"]) if "labels" in front else None
    scale = _scale(path, front["scale"]) if "scale" in front else None
    names = placeholders if criteria is None else (*placeholders, _CRITERIA)
    return PromptTemplate(
        path,
        body.rstrip("\n"),
        names,
        system=front.get("system") or "",
        labels=labels,
        scale=scale,
        criteria=f"\n\nCriteria of this task:\n{criteria.strip()}" if criteria and criteria.strip() else "",
    )


def _front_matter(path: Path, text: str) -> tuple[dict[str, Any], str]:
    """Return the settings between the --- lines, all of them texts, and the text behind. Raises ConfigError."""
    head = _FRONT.match(text)
    if head is None:
        if _UNCLOSED.match(text):
            raise ConfigError(f"{path}: the lines after --- are not closed by another line ---")
        return {}, text
    try:
        front = read_texts(head[2], ("labels", "scale")) or {}
    except RepeatedKeyError as error:
        raise ConfigError(yaml_fault(error, path, head[1].count("\n"))) from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = (mark.line + 1 if mark else 1) + head[1].count("\n")
        raise ConfigError(f"{path}:{line}: the lines between --- are not valid YAML; put texts in quotes") from None
    if not isinstance(front, dict) or not front.keys() <= {"system", "labels", "scale"}:
        raise ConfigError(f"{path}: between the --- lines only 'system', 'labels' and 'scale' may stand")
    return front, text[head.end() :]


def comparison_values(question: str, prefix: str, first: str, *, second: str) -> dict[str, str]:
    """Return the values of a pairwise judge prompt's placeholders; `prefix` is the text of the steps so far."""
    return {"question": question, "prefix": prefix, "first": first, "second": second}


def load_solve_prompt(name: str) -> PromptTemplate:
    """Return a generator's prompt. Raises ConfigError as `load_prompt` does."""
    return load_prompt(name, ("question",))


def load_ranking_prompt(name: str, criteria: str = "") -> PromptTemplate:
    """Return a listwise judge's prompt. Raises ConfigError as `load_prompt` does."""
    return load_prompt(name, ("question", "prefix", "candidates"), criteria)


def load_judge_prompt(name: str, criteria: str = "") -> tuple[PromptTemplate, Labels]:
    """Return a pairwise judge's prompt and its verdict labels. Raises ConfigError if it names none."""
    template = load_prompt(name, ("question", "prefix", "first", "second"), criteria)
    if template.labels is None:
        raise ConfigError(
            f"{template.path}: a judge prompt names its verdict labels between --- lines, "
            'such as labels: {first: "[[A]]", second: "[[B]]"}'
        )
    return template, template.labels


def load_rubric_prompt(name: str, criteria: str = "") -> tuple[PromptTemplate, Scale]:
    """Return a pointwise judge's prompt and its scale. Raises ConfigError if it names none."""
    template = load_prompt(name, ("question", "prefix", "step"), criteria)
    if template.scale is None:
        raise ConfigError(
            f"{template.path}: a rubric names its scale between --- lines, such as "
            'scale: {low: 1, high: 10, mark: "Score:"}'
        )
    return template, template.scale


def _scale(path: Path, raw: object) -> Scale:
    if not isinstance(raw, dict) or not {"low", "high"} <= raw.keys() <= {"low", "high", "mark"}:
        raise ConfigError(f"{path}: 'scale' needs 'low' and 'high', and may have 'mark'")
    try:
        scale = Scale(float(raw["low"]), float(raw["high"]), raw.get("mark", "Score:") or "")
    except (TypeError, ValueError):
        raise ConfigError(f"{path}: the scale's 'low' and 'high' must be numbers") from None
    if not math.isfinite(scale.high - scale.low):
        raise ConfigError(f"{path}: the scale's 'low' and 'high' must be numbers")
    if scale.low >= scale.high or not scale.mark.strip():
        raise ConfigError(f"{path}: the scale needs low < high and a mark that is not empty")
    return scale


def _labels(path: Path, raw: object) -> Labels:
    if not isinstance(raw, dict) or not {"first", "second"} <= raw.keys() <= {
        "first",
        "second",
        "tie",
    }:
        raise ConfigError(f"{path}: 'labels' needs 'first' and 'second', and may have 'tie'")
    labels = Labels(raw["first"] or "", raw["second"] or "", raw.get("tie"))
    texts = labels.all()
    if not all(text.strip() for text in (labels.first, labels.second, *texts)):
        raise ConfigError(f"{path}: a verdict label is empty; YAML reads null and ~ without quotes as nothing")
    if any(a in b for i, a in enumerate(texts) for j, b in enumerate(texts) if i != j):
        raise ConfigError(f"{path}: one verdict label contains another; make them distinct")
    return labels


SolvePrompt = Annotated[str, PromptFile(load_solve_prompt)]
JudgePrompt = Annotated[str, PromptFile(load_judge_prompt, takes_criteria=True)]
RubricPrompt = Annotated[str, PromptFile(load_rubric_prompt, takes_criteria=True)]
RankingPrompt = Annotated[str, PromptFile(load_ranking_prompt, takes_criteria=True)]
"""Constructor arguments that name a prompt file of each form."""
