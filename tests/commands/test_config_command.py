"""`stepagent config new` and `config check`: all faults with their places, and the work and highest cost of a run."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from stepagent.config.loading import load_config
from stepagent.config.yaml_text import read_yaml

Command = Callable[..., subprocess.CompletedProcess[str]]

FIVE = """\
model: m
problems: problems.jsonl
rounds: 0
search:
  kind: step
  widht: 4
judge:
  kind: pairwise
  prompt: no_such_prompt.md
  backend: {kind: opnai}
init:
  ift: none.jsonl
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with the data files that the configs of `config new` name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    problems = [{"id": str(i), "question": f"{i}+1", "answer": str(i + 1)} for i in range(2400)]
    pair = {"question": "q", "prefix": [], "first": "a", "second": "b", "winner": "first"}
    files = {
        "problems": problems,
        "held_out": problems[:50],
        "ift": [{"question": "q", "steps": ["a", "b"]}],
        "eft": [{**pair, "judgement": "A is right. [[A]] Verdict: A"}],
        "pairs": [pair],
    }
    for name, rows in files.items():
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def test_five_faults_are_named_with_their_lines(stepagent: Command, folder: Path) -> None:
    (folder / "c.yaml").write_text(FIVE)
    result = stepagent("config", "check", "c.yaml")
    assert result.returncode == 2
    lines = result.stderr.splitlines()
    assert lines[-1] == "c.yaml: 5 faults"
    for place, words in (
        ("c.yaml:3:", "'rounds' input should be greater than 0"),
        ("c.yaml:6:", "unknown key 'search.widht'; did you mean 'width'?"),
        ("c.yaml:9:", "no prompt 'no_such_prompt.md'"),
        ("c.yaml:10:", "unknown kind 'opnai'; did you mean 'openai'?"),
        ("c.yaml:12:", "there is no file 'none.jsonl'; `stepagent data ift` makes it"),
    ):
        assert [line for line in lines if place in line and words in line], (place, result.stderr)
    assert len(lines) == 6


def test_other_commands_name_the_first_fault(stepagent: Command, folder: Path) -> None:
    (folder / "c.yaml").write_text(FIVE)
    result = stepagent("search", "c.yaml", "--out", "out")
    assert result.returncode == 2
    assert result.stderr == "error: c.yaml: 'rounds' input should be greater than 0\n"


def test_overrides_are_checked_and_named(stepagent: Command, folder: Path) -> None:
    (folder / "c.yaml").write_text("model: m\nproblems: problems.jsonl\n")
    result = stepagent("config", "check", "c.yaml", "--set", "seed", "--set", "judge.votes=2", "--set", "rounds=-1")
    assert result.returncode == 2
    assert "error: --set seed: expected key=value" in result.stderr
    assert "error: --set judge.votes=2: unknown key 'judge.votes'" in result.stderr
    assert "error: --set rounds=-1: 'rounds' input should be greater than 0" in result.stderr
    assert "c.yaml: 3 faults" in result.stderr


def test_a_fault_hides_no_other_in_its_section(stepagent: Command, folder: Path) -> None:
    (folder / "c.yaml").write_text(
        "problems: {path: problems.jsonl, splitt: x}\n"
        "init: {eft: none.jsonl, epochs: -1}\n"
        "eft: {min_margin: 2, labels: {kind: panel, judges: [{kind: pairwise, max_tokens: 0}, 3]}}\n"
        "optimize: {loss: ipo, margin_smoothing: true, lora: {rnak: 3, targets: {a: 1}}}\n"
        "prices: {m: {prompt: 1, per: 2}}\n"
    )
    result = stepagent("config", "check", "c.yaml")
    for words in (
        "'model' field required",
        "'problems.splitt'",
        "'init.ift' field required",
        "'init.epochs'",
        "'none.jsonl'",
        "'eft.min_margin'",
        "give 'problems' and 'labels'",
        "eft.labels.judges.1: 'max_tokens'",
        "eft.labels.judges: item 2",
        "loss: ipo takes no margin_smoothing",
        "'optimize.lora.rnak'; did you mean 'rank'?",
        "'optimize.lora.targets' input should be",
        "'prices.m.per'",
        "'prices.m.completion' field required",
    ):
        assert result.stderr.count(words) == 1, (words, result.stderr)
    assert "c.yaml: 14 faults" in result.stderr


@pytest.mark.parametrize("place", ["vllm", "hosted", "laptop"])
def test_a_new_config_is_faultless_once_its_files_are_there(stepagent: Command, folder: Path, place: str) -> None:
    assert stepagent("config", "new", "--for", place, "--out", "new.yaml").returncode == 0
    assert "THIS_FILE" not in (folder / "new.yaml").read_text()
    result = stepagent("config", "check", "new.yaml")
    assert result.returncode == 0, result.stderr
    assert "no faults" in result.stdout
    assert "at most, all searches" in result.stdout
    assert load_config(folder / "new.yaml").name == place


def test_the_files_that_are_not_made_yet_are_named_with_the_command_that_makes_them(
    stepagent: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    stepagent("config", "new", "--for", "laptop", "--out", "new.yaml")
    result = stepagent("config", "check", "new.yaml")
    assert result.returncode == 2
    assert "new.yaml: 5 faults" in result.stderr
    assert result.stderr.count("there is no file") == 5
    assert "`stepagent data eft` makes it" in result.stderr


def test_new_overwrites_nothing_and_names_a_schema_that_is_there(stepagent: Command, folder: Path) -> None:
    (folder / "mine.yaml").write_text("mine")
    result = stepagent("config", "new", "--for", "hosted", "--out", "mine.yaml")
    assert result.returncode == 2
    assert "mine.yaml: exists already" in result.stderr
    assert (folder / "mine.yaml").read_text() == "mine"
    printed = stepagent("config", "new", "--for", "hosted").stdout
    assert read_yaml(printed)["name"] == "hosted"
    assert "yaml-language-server" not in printed
    (folder / "stepagent.schema.json").write_text(stepagent("schema").stdout)
    stepagent("config", "new", "--for", "hosted", "--out", "new.yaml")
    first = (folder / "new.yaml").read_text().splitlines()[0]
    assert first == "# yaml-language-server: $schema=stepagent.schema.json"


def test_the_bound_is_that_of_the_strategy_with_the_prices(stepagent: Command, folder: Path) -> None:
    (folder / "c.yaml").write_text(
        "model: small\nproblems: problems.jsonl\nproblems_per_round: [10]\nrounds: 1\nwatch: {problems: 0}\n"
        "backend: {kind: openai, base_url: 'http://127.0.0.1:9/v1', model: small}\n"
        "generator: {max_tokens: 100}\nsearch: {width: 2, max_iterations: 5}\n"
        "judge: {max_tokens: 50, backend: {kind: openai, base_url: 'http://127.0.0.1:9/v1', model: large}}\n"
        "prices: {small: {prompt: 0, completion: 1}, large: {prompt: 0, completion: 1000}}\n"
    )
    result = stepagent("config", "check", "c.yaml")
    assert result.returncode == 0, result.stderr
    # a level: one request for 2 x 100 tokens, and 2 comparisons, each asked at most twice, of 50 tokens
    assert "25 requests, 2,000 tokens sampled, cost 1.001" in result.stdout
    assert "250 requests, 20,000 tokens sampled, cost 10.01" in result.stdout


def test_a_model_without_a_price_is_named_where_money_is_limited(stepagent: Command, folder: Path) -> None:
    (folder / "c.yaml").write_text("model: m\nproblems: problems.jsonl\nbudget: {money: 5}\n")
    result = stepagent("config", "check", "c.yaml")
    assert result.returncode == 2
    assert "'m' has no price" in result.stderr


def test_bad_rows_and_too_few_problems_are_named(stepagent: Command, folder: Path) -> None:
    (folder / "ift.jsonl").write_text('{"question": "q", "steps": ["a"]}\n{"question": 3}\n')
    (folder / "held_out.jsonl").write_text('{"question": "q"}\n')
    (folder / "c.yaml").write_text(
        "model: m\nproblems: problems.jsonl\nproblems_per_round: [2000, 2000, 2000]\n"
        "init: {ift: ift.jsonl}\nevaluate: {problems: held_out.jsonl}\n"
    )
    result = stepagent("config", "check", "c.yaml")
    assert "ift.jsonl:2:" in result.stderr
    assert "2400 problems, but problems_per_round asks for 6000" in result.stderr
    assert "has no 'answer' to evaluate against" in result.stderr
    assert "c.yaml: 3 faults" in result.stderr


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [*a]",
        "judge: &a {kind: pairwise, backend: *a}",
        "[" * 3000,
        "- a",
        "model: !!int x",
        "? [a]\n: b",
        "!!python/object:os.system x",
        'problems: {path: "a\\0b"}',
        "model: m\nproblems: p\nsearch: {kind: 'this:d'}",
        "model: m\nproblems: p\njudge: {kind: 'sys:exit'}\nbackend: 3",
        "prices: {m: {nope: 1}}",
        "judge: {backend: {kind: 3}}",
        "seed: 1e999",
        "a: b\n---\nc: d",
    ],
)
def test_no_yaml_gives_a_traceback(stepagent: Command, folder: Path, text: str) -> None:
    (folder / "c.yaml").write_text(text)
    result = stepagent("config", "check", "c.yaml")
    assert result.returncode == 2
    assert result.stderr.startswith("error: c.yaml")


def test_a_check_loads_no_torch_and_writes_nothing(folder: Path) -> None:
    (folder / "c.yaml").write_text("model: m\nproblems: problems.jsonl\nevaluate: {problems: held_out.jsonl}\n")
    before = sorted(folder.iterdir())
    script = (
        "import sys; from stepagent.commands.main import run\nsys.argv = ['stepagent', 'config', 'check', 'c.yaml']\n"
    )
    script += "try: run()\nexcept SystemExit: pass\nassert not {'torch', 'openai', 'transformers'} & sys.modules.keys()"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "no faults" in result.stdout
    assert sorted(folder.iterdir()) == before
