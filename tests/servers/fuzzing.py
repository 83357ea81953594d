"""Cases of the fuzz: a command, the replies of its server that are mutated, and what must be true of its end."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imitation import Reply, Request, Twist
from mutations import Mutation, draw
from protocols import Protocol, Vllm, hosted
from rows import Command, Row, Run, check_calm

HASTEN = 40.0
ITEMS = 3
_COMMANDS: tuple[Command, ...] = ("search", "judge", "measure", "iterate")
_WEIGHTS = (46, 24, 24, 6)
_JUDGES: tuple[dict[str, Any], ...] = (
    {"kind": "pairwise"},
    {"kind": "pairwise"},
    {"kind": "pointwise"},
    {"kind": "listwise"},
    {"kind": "logprob", "max_tokens": None},
)
_MOST_WORDS = 1500  # of an error's sentence


class Sums(Protocol):
    """A hosted API that judges the lines of the arithmetic world: the larger text is the better one."""

    def choice(self, text: str, body: dict[str, Any], index: int) -> dict[str, Any]:
        """See Protocol."""
        choice = super().choice(text, body, index)
        if "|A " in text:
            first, second = (text.rpartition(mark)[2].partition("\n")[0] for mark in ("|A ", "|B "))
            letter = "C" if first == second else "A" if first > second else "B"
            choice["message"]["content"] = f"[[{letter}]]"
        return choice


def _is_probe(request: Request) -> bool:
    return request.samples and "Is 7 < 11?" in request.text


_SCOPES: dict[str, Callable[[Request, int], bool]] = {
    "every reply": lambda request, number: True,
    "every sample": lambda request, number: request.samples,
    "every reply about a problem": lambda request, number: request.samples and not _is_probe(request),
    "every reply to a judge": lambda request, number: request.judges,
    "every reply to a probe": lambda request, number: _is_probe(request),
    "all but samples": lambda request, number: not request.samples,
    "one sample in three": lambda request, number: request.samples and request.number % 3 == number % 3,
    "one sample": lambda request, number: request.samples and request.number == number % 12,
    "the later samples": lambda request, number: request.number > number % 12,
}


@dataclass(frozen=True)
class Case:
    """A case: its number, its words, and the row of the table that it is."""

    number: int
    words: str
    row: Row

    def examine(self, run: Run) -> None:
        """Raise AssertionError unless the command ended well, or with one sentence, and left only whole files."""
        check_calm(run)
        assert run.code in (0, 2), f"exit code {run.code}: {run.words[-1500:]}"
        errors = [line for line in run.stderr.splitlines() if line.startswith("error: ")]
        assert len(errors) == (run.code == 2), f"exit code {run.code}, {len(errors)} sentences: {run.stderr[-1500:]}"
        if errors:
            sentence = run.stderr[run.stderr.index("error: ") :].rstrip("\n")
            assert len(sentence) < _MOST_WORDS, f"{len(sentence)} letters: {sentence[:300]}"
            assert sentence.count("\n") == 0, f"several lines: {sentence[-1500:]}"
            assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", sentence), f"control characters: {sentence!r}"
        check_files(run, whole=run.code == 0)

    def examine_healed(self, run: Run) -> None:
        """Raise AssertionError unless the same command, before a server that does all right, ends well and whole."""
        check_calm(run)
        assert run.code == 0, f"exit code {run.code} with a healed server: {run.words[-1500:]}"
        check_files(run, whole=True)
        if self.row.command == "search":
            assert len(run.rows("trees")) == ITEMS
            assert not run.trees("failed"), [tree["error"] for tree in run.trees("failed")]
        elif self.row.command == "judge":
            assert len(run.rows("verdicts")) == ITEMS
            assert "error" not in run.verdicts(), run.verdicts()


def check_files(run: Run, whole: bool) -> None:
    """Raise AssertionError for a file that is no JSON, or for a part of a file that nobody will finish."""
    if not run.out.exists():
        return
    for path in run.out.rglob("*"):
        if path.suffix == ".jsonl":
            for line in path.read_bytes().splitlines():
                json.loads(line)
        elif path.suffix == ".json":
            json.loads(path.read_bytes())
        assert not (whole and path.suffix == ".part"), f"{path} is left"


def cases(count: int, seed: int) -> list[Case]:
    """Return as many cases, the same ones for a seed."""
    return [_case(number, random.Random(f"{seed} {number}")) for number in range(count)]


def _case(number: int, rng: random.Random) -> Case:
    (command,) = rng.choices(_COMMANDS, _WEIGHTS)
    scope, mutation = rng.choice(list(_SCOPES)), draw(rng)
    judge = dict(rng.choice(_JUDGES))
    protocol = rng.choice((hosted, hosted, Vllm))
    words = f"{number}: {command} ({judge['kind']}, {protocol.__name__}), {scope}: {mutation.words}"
    settings: dict[str, Any] = {"judge": judge, "backend": {"timeout": 60}}
    if command == "iterate":
        settings, protocol = _circle(), Sums
    row = Row(
        words,
        3,
        _twist(mutation, scope, number),
        command=command,
        settings=settings,
        protocol=protocol,
        items=ITEMS,
        hasten=HASTEN,
    )
    return Case(number, words, row)


def _circle() -> dict[str, Any]:
    """Return the settings of a round of the shipped M_0, which solves in this process and is judged by the server."""
    import stepagent.demo

    return {
        "name": "out",
        "model": str(Path(stepagent.demo.__file__).parent / "base"),
        "rounds": 1,
        "backend": {"kind": "transformers", "base_url": None, "model": None},
        "generator": {"prompt": "demo_solve", "boundary": "line", "temperature": 1.0, "max_tokens": 12},
        "judge": {
            "prompt": "demo_judge",
            "backend": {"kind": "openai", "base_url": "{url}", "model": "m", "timeout": 60},
        },
        "optimize": {"epochs": 1, "batch_size": 8, "lora": {"rank": 2, "alpha": 4}},
    }


def _twist(mutation: Mutation, scope: str, number: int) -> Twist:
    reaches = _SCOPES[scope]

    def twist(request: Request, reply: Reply) -> Reply:
        return mutation.apply(reply) if reaches(request, number) else reply

    return twist


def report(failures: Sequence[str], count: int) -> str:
    """Return the words of a failed fuzz."""
    return f"{len(failures)} of {count} cases:\n" + "\n".join(failures)
