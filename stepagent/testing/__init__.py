"""Parts with known behaviour, for the tests of own judges, generators and strategies.

`ListedGenerator` and `RankingJudge` stand in for a generator and a judge, `ScriptedBackend` with its `Rule`s for
a model, and `stepagent.testing.stub_server` for a whole server.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from stepagent.backends.scripted import END_ID, Rule, ScriptedBackend
from stepagent.judges.comparisons import all_pairs
from stepagent.types import Candidate, Problem, Proposal, Step, StepPreference, Usage, Verdict, Vote

__all__ = ["ListedGenerator", "RankingJudge", "Rule", "ScriptedBackend", "step", "text_preference"]


def step(text: str, ends: bool = False) -> Step:
    """Return a step of this text whose token ids are its UTF-8 bytes; END_ID follows where it `ends` the
    solution. Its content is the text without white space around it, its log-probability is -1."""
    ids = (*text.encode(), END_ID) if ends else tuple(text.encode())
    return Step(text, text.strip(), "end" if ends else "stop", ends=ends, token_ids=ids, logprob=-1.0)


def text_preference(prompt: str, chosen: str, rejected: str, **fields: Any) -> StepPreference:
    """Return a preference between two steps that are known only as text, without token ids; `fields` are further
    fields of the row, or other values for them."""
    defaults: dict[str, Any] = {
        "question": "Q",
        "prefix": (),
        "prompt_ids": None,
        "chosen_ids": None,
        "rejected_ids": None,
        "chosen_ends": False,
        "rejected_ends": False,
        "margin": 0.9,
        "problem_id": "p",
        "depth": 1,
        "round": 1,
        "generator": "sample",
        "judge": "pairwise",
        "tokenizer_sha256": None,
    }
    return StepPreference(prompt=prompt, chosen=chosen, rejected=rejected, **{**defaults, **fields})


class ListedGenerator:
    """Generator of listed texts: `levels[d]` are its candidates after d steps, whatever the steps were.

    A text that ends in "." ends the solution; one that holds "…" is flawed as a runaway. `prefixes` are the texts
    of the steps that each call was to continue, in the order of the calls. A problem with a reference answer is
    an AssertionError: no search may show one to a generator.
    """

    def __init__(self, *levels: Sequence[str]) -> None:
        self._levels = levels
        self.prefixes: list[tuple[str, ...]] = []

    async def propose(self, problem: Problem, prefix: Sequence[Step], width: int, seed: int) -> Proposal:
        """Return all texts of the level as candidates; `width` and `seed` change nothing. See Generator."""
        assert problem.answer is None, "a search must never see a reference answer"
        self.prefixes.append(tuple(parent.text for parent in prefix))
        candidates = tuple(
            Candidate(step(text, ends=text.endswith(".")), ("runaway",) if "…" in text else ())
            for text in self._levels[len(prefix)]
        )
        return Proposal("Q:", tuple(b"Q:"), candidates, usage=Usage(1, 2, 3), tokenizer_sha256="bytes")


class RankingJudge:
    """Judge that prefers the candidate whose content `rank` gives the larger number, in both positions; equal
    ranks are a tie. `calls` counts its verdicts. A problem with a reference answer is an AssertionError."""

    def __init__(self, rank: Callable[[str], float]) -> None:
        self._rank = rank
        self.calls = 0

    async def judge(self, problem: Problem, prefix: Sequence[Step], candidates: Sequence[Step], seed: int) -> Verdict:
        """Return the verdict of all pairs in both positions, one request a comparison. See Judge."""
        assert problem.answer is None, "a search must never see a reference answer"
        self.calls += 1

        async def compare(first: int, second: int) -> tuple[Vote, Usage]:
            gap = self._rank(candidates[first].content) - self._rank(candidates[second].content)
            outcome = Vote(first, second, "tie" if gap == 0 else "first" if gap > 0 else "second")
            return outcome, Usage(1, 1, 1)

        return await all_pairs(len(candidates), compare, seed)
