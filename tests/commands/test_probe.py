"""`stepagent probe`: what the endpoints of a config can do, before a run."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from stepagent.testing.stub_server import Stub, serve

Command = Callable[..., CompletedProcess[str]]


def say(context: str, seed: int) -> str:
    """The stub's reply to everything."""
    return "Yes.\nIt is."


def write_config(folder: Path, backend: str, judge: str = "{kind: pairwise}") -> Path:
    """A config with this backend, and a judge of another endpoint if its section says so."""
    path = folder / "c.yaml"
    prices = "prices: {m: {prompt: 1, completion: 1000}}"
    path.write_text(f"model: m\nproblems: {folder}/p.jsonl\nbackend: {backend}\njudge: {judge}\n{prices}\n")
    return path


def rows(output: str) -> dict[str, str]:
    """The rows of all tables, the last of a name."""
    lines = [line.split("│") for line in output.splitlines() if line.count("│") == 3]
    return {line[1].strip(): line[2].strip() for line in lines}


@pytest.mark.parametrize(
    ("stub", "expected"),
    [
        (Stub(say), {"a half-written solution is": "continued token by token (token ids in and out)", "seed": "taken"}),
        (
            Stub(say, tokenises=False, continues=True),
            {
                "a half-written solution is": "continued as text, as a half-written last turn",
                "samples of a request": "all at once",
            },
        ),
        (
            Stub(say, tokenises=False, refuses=["n", "seed", "logprobs"]),
            {
                "a half-written solution is": "shown to the model again, which is asked for the next step",
                "samples of a request": "one by one: the prompt is paid for each",
                "seed": "not taken: only the store of replies makes a run repeatable",
                "log-probabilities": "not given: no judge of kind logprob",
            },
        ),
    ],
)
def test_it_says_what_an_endpoint_can_do(
    stepagent: Command, tmp_path: Path, stub: Stub, expected: dict[str, str]
) -> None:
    with serve(stub) as url:
        result = stepagent("probe", write_config(tmp_path, f"{{kind: openai, base_url: '{url}'}}"))
    assert result.returncode == 0, result.stderr
    found = rows(result.stdout)
    assert expected.items() <= found.items()
    assert found["a reply"].startswith("'Yes.")
    prompt, sampled = (int(word) for word in found["cost of that request"].split(" tokens")[0].split(" + "))
    assert float(found["cost of that request"].split(", ")[1]) == pytest.approx((prompt + 1000 * sampled) / 1e6)
    assert {path.name for path in tmp_path.iterdir()} == {"c.yaml"}, "nothing is written"


def test_the_judges_own_endpoint_is_asked_and_a_dead_one_does_not_hide_it(stepagent: Command, tmp_path: Path) -> None:
    with serve(Stub(say, tokenises=False)) as url:
        judge = f"{{kind: pairwise, backend: {{kind: openai, model: m, base_url: '{url}'}}}}"
        path = write_config(tmp_path, "{kind: openai, base_url: 'http://127.0.0.1:9/v1'}", judge)
        result = stepagent("probe", path)
    assert result.returncode == 2
    assert "127.0.0.1:9" in result.stderr
    assert "shown to the model again" in result.stdout
    assert f"m at {url}" in result.stdout


def test_a_config_without_endpoints_is_one_sentence(stepagent: Command, config: Path) -> None:
    result = stepagent("probe", config)
    assert result.returncode == 2
    assert "asks no endpoint: its backend is of kind scripted" in result.stderr
    assert json.dumps(str(config)) not in result.stdout
