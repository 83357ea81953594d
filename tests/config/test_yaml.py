"""YAML's own readings: texts stay texts, no key counts twice, marks and blanks change nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from stepagent import ConfigError
from stepagent.config.loading import load_config
from stepagent.config.prompts import load_judge_prompt, load_prompt, load_rubric_prompt
from stepagent.config.settings import Config
from stepagent.config.yaml_text import read_texts, read_yaml, write_yaml

BODY = "{question} {prefix} {first} {second}"


def labels_of(folder: Path, front: str) -> tuple[str, ...]:
    (folder / "j.md").write_text(f"---\n{front}\n---\n{BODY}")
    return load_judge_prompt(str(folder / "j.md"))[1].all()


@pytest.mark.parametrize(
    ("front", "labels"),
    [
        ("labels: {first: yes, second: no}", ("yes", "no")),
        ("labels: {first: on, second: off, tie: true}", ("on", "off", "true")),
        ("labels:\n  first: True\n  second: FALSE", ("True", "FALSE")),
        ("labels: {first: 1, second: 2.0, tie: 3e3}", ("1", "2.0", "3e3")),
        ("labels: {first: 010, second: 0x1F, tie: 12:30}", ("010", "0x1F", "12:30")),
        ("labels: {first: 2024-01-01, second: 1_000}", ("2024-01-01", "1_000")),
        ("labels: {first: [[A]], second: [[B]], tie: [[C]]}", ("[[A]]", "[[B]]", "[[C]]")),
        ("labels:\n  first: [[A]]  # better\n  second: [ B ]\n  tie: {C}", ("[[A]]", "[ B ]", "{C}")),
        ("labels: {first: 'yes', second: \"[[B]]\"}", ("yes", "[[B]]")),
        ("labels: {first: A, second: B, tie: null}", ("A", "B")),
        ("labels: {first: A, second: B, tie: }", ("A", "B")),
        ("labels: {first: =, second: <<}", ("=", "<<")),
        ("labels: {first: .inf, second: .nan}", (".inf", ".nan")),
    ],
)
def test_labels_are_the_texts_that_were_written(tmp_path: Path, front: str, labels: tuple[str, ...]) -> None:
    assert labels_of(tmp_path, front) == labels


def test_a_scale_and_a_system_text_too(tmp_path: Path) -> None:
    path = tmp_path / "r.md"
    path.write_text("---\nsystem: yes\nscale: {low: 1, high: 1e1, mark: on}\n---\n{question} {prefix} {step}")
    template, scale = load_rubric_prompt(str(path))
    assert (template.system, scale.low, scale.high, scale.mark) == ("yes", 1.0, 10.0, "on")
    path.write_text("---\nsystem: [[be exact]]\n---\n{question}")
    assert load_prompt(str(path), ("question",)).system == "[[be exact]]"


@pytest.mark.parametrize(
    ("front", "message"),
    [
        ("labels: {first: A, first: B, second: C}", r"j\.md:2: the key 'first' is there already, in line 2"),
        (
            "system: a\nlabels: {first: A, second: B}\nsystem: b",
            r"j\.md:4: the key 'system' is there already, in line 2",
        ),
        ("labels: {first: null, second: B}", "a verdict label is empty"),
        ("labels: {first: A, second: B, tie: ' '}", "a verdict label is empty"),
        ("labels:\n  first:\n    - A\n  second: B", r"j\.md:4: the lines between --- are not valid YAML; put texts in"),
        ("labels: {first: *A*, second: B}", r"j\.md:2: the lines between --- are not valid YAML; put texts in quotes"),
        ("labels: {first: [[A]], second: [[A]]}", "one verdict label contains another"),
        ("labels: [[A]]", "'labels' needs 'first' and 'second'"),
        ("[system]", "only 'system', 'labels' and 'scale'"),
    ],
)
def test_front_matter_that_cannot_be_meant_is_one_sentence(tmp_path: Path, front: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        labels_of(tmp_path, front)


@pytest.mark.parametrize(
    "text",
    [
        "---\nsystem: s\n---\nB {question}",
        "\ufeff---\nsystem: s\n---\nB {question}",
        "--- \nsystem: s\n---\t \nB {question}",
        "---\r\nsystem: s\r\n---\r\nB {question}\r\n",
        "\n\n---\nsystem: s\n---\nB {question}\n\n",
        " ---\n\nsystem: s\n\n---  \nB {question}",
        "--- # settings\nsystem: s\n---\nB {question}",
        "---\nsystem: |\n  s\n---\nB {question}",
    ],
)
def test_marks_and_blanks_do_not_put_the_front_matter_into_the_prompt(tmp_path: Path, text: str) -> None:
    path = tmp_path / "p.md"
    path.write_bytes(text.encode())
    template = load_prompt(str(path), ("question",))
    assert (template.system.strip(), template.body) == ("s", "B {question}")


def test_rules_are_no_front_matter(tmp_path: Path) -> None:
    path = tmp_path / "p.md"
    for text in ("---\nWrite: {question}", "A\n---\nlabels: x\n---\n{question}"):
        path.write_text(text)
        assert load_prompt(str(path), ("question",)).body == text
    path.write_text("---\n---\n{question}")
    assert load_prompt(str(path), ("question",)).body == "{question}"
    path.write_text("---\nsystem: be exact\n{question}")
    with pytest.raises(ConfigError, match="are not closed by another line ---"):
        load_prompt(str(path), ("question",))


Load = Callable[..., Config]
MINIMAL = "model: m\nproblems: p.jsonl\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            MINIMAL + "judge: {kind: prm}\noptimize: {beta: 0.3}\njudge: {kind: random}\n",
            r"c\.yaml:5: the key 'judge' is",
        ),
        (MINIMAL + "optimize:\n  beta: 0.3\n  beta: 0.1\n", r"c\.yaml:5: the key 'beta' is there already, in line 4"),
        (MINIMAL + "judge: {kind: prm, kind: random}\n", r"c\.yaml:3: the key 'kind'"),
        (MINIMAL + "judge: {kind: prm, a: 1, params: {a: 2}}\n", "'a' stands beside 'kind' and in 'params'"),
        ("model: 7\nproblems: p\n", "'model' input should be a valid string; YAML reads it as a number"),
        ("model: no\nproblems: p\n", "'model' input should be a valid string; .* put it in quotes"),
        ("model: m\r\n\tproblems: p\n", r"c\.yaml:2: not valid YAML"),
    ],
)
def test_a_config_that_says_something_else_than_it_looks(load: Load, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load(text)


def test_numbers_and_dates_are_what_they_look_like(load: Load) -> None:
    text = (
        "\ufeff"
        + MINIMAL
        + "name: 2024-01-01\nseed: 010\noptimize: {learning_rate: 1e-5}\njudge: {kind: a:b, x: 1e-3, y: 12:30}\n"
    )
    config = load(text.replace("\n", "\r\n"))
    assert (config.name, config.seed, config.optimize.learning_rate) == ("2024-01-01", 10, 1e-5)
    assert config.judge.arguments() == {"x": 1e-3, "y": "12:30"}
    merged = load(MINIMAL + "judge: &j {kind: prm, a: 1}\nsearch: {<<: *j, kind: step}\n")
    assert merged.search.arguments() == {"a": 1}


def test_set_keeps_the_path_of_problems(load: Load) -> None:
    config = load(MINIMAL, "problems.sample=5", "evaluate.problems=gsm8k", "evaluate.problems.split=test")
    assert (config.problems.path, config.problems.sample) == ("p.jsonl", 5)
    assert config.evaluate is not None
    assert (config.evaluate.problems.path, config.evaluate.problems.split) == ("gsm8k", "test")
    assert load(MINIMAL + "judge:\n", "judge.kind=prm").judge.kind == "prm"
    assert load(MINIMAL + "optimize: {lora: null}\n", "optimize.lora.rank=4").optimize.lora is not None


@pytest.mark.parametrize(
    ("text", "override", "message"),
    [
        (MINIMAL, "seed.x=1", None),
        (MINIMAL + "seed: 3\n", "seed.x=1", "--set seed.x=1: the config's 'seed' is 3, not a section"),
        (MINIMAL + "judge: prm\n", "judge.temperature=1", "the config's 'judge' is 'prm', not a section"),
        (MINIMAL + "judge: {judges: [a]}\n", "judge.judges.0=b", r"'judge.judges' is \['a'\], not a section"),
        (MINIMAL, "model.path=x", "the config's 'model' is 'm', not a section"),
        (MINIMAL, "judge={a: 1, a: 2}", "the key 'a' is there twice"),
        (MINIMAL, ".seed=1", "expected key=value"),
    ],
)
def test_set_into_what_is_no_section_is_one_sentence(load: Load, text: str, override: str, message: str | None) -> None:
    with pytest.raises(ConfigError, match=message):
        load(text, override)


SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8)
WORDS = st.sampled_from(
    ["yes", "1e5", "010", "12:30", "2024-01-01", "=", "~", "null", "0x1", ".5", "1_0", "<<", "- a", "on"]
)


@settings(max_examples=150, deadline=None)
@given(
    st.recursive(
        SCALARS | WORDS,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | WORDS, inner, max_size=3),
    )
)
def test_what_is_written_as_yaml_reads_back(data: Any) -> None:
    assert read_yaml(write_yaml(data)) == data


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(st.sampled_from(["first", "second", "tie"]), st.text(max_size=12) | WORDS))
def test_front_matter_reads_back(labels: dict[str, str]) -> None:
    assert read_texts(yaml.safe_dump({"labels": labels}), ("labels",)) == {"labels": labels}


def test_a_config_file_reads_back(load: Load, tmp_path: Path) -> None:
    config = load(MINIMAL + "name: '1e5'\nserve: {env: {A: 'on', B: '010'}}\njudge: {kind: a:b, x: 1.0e-7, y: 'yes'}\n")
    path = tmp_path / "again.yaml"
    path.write_text(write_yaml(config.model_dump(mode="json")), encoding="utf-8")
    assert load_config(path) == config
