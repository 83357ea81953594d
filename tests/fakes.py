"""Real interfaces with scripted behaviour, named for what they do."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from stepagent import Candidate, Problem, Proposal, Step, StepPreference, Usage, Verdict, Vote
from stepagent.judges.comparisons import all_pairs_both_seats
from stepagent.preferences import level_outcome, tree_preferences
from stepagent.tree import StepTree


def step(text: str, ends: bool = False) -> Step:
    ids = (*text.encode(), 256) if ends else tuple(text.encode())
    return Step(text, text.strip(), "end" if ends else "stop", ends, ids, -1.0)


class ListedGenerator:
    """Proposes, per depth, listed texts; a text ending in "." ends the solution. Records its calls."""

    def __init__(self, *levels: Sequence[str]) -> None:
        self._levels = levels
        self.asked: list[tuple[str, ...]] = []

    async def propose(self, problem: Problem, prefix: Sequence[Step], width: int, seed: int) -> Proposal:
        assert problem.answer is None, "a search must never see a reference answer"
        self.asked.append(tuple(item.text for item in prefix))
        texts = self._levels[len(prefix)]
        candidates = tuple(
            Candidate(step(text, text.endswith(".")), 1, ("runaway",) if "…" in text else ())
            for text in texts
        )
        return Proposal("Q:", tuple(b"Q:"), candidates, Usage(1, 2, 3), "bytes")


class RankingJudge:
    """Prefers the candidate with the higher rank, in both seats; equal ranks are a tie."""

    def __init__(self, rank: Callable[[str], float]) -> None:
        self._rank = rank
        self.calls = 0

    async def judge(
        self, problem: Problem, prefix: Sequence[Step], candidates: Sequence[Step], seed: int
    ) -> Verdict:
        assert problem.answer is None
        self.calls += 1

        async def compare(first: int, second: int) -> tuple[Vote, Usage]:
            gap = self._rank(candidates[first].content) - self._rank(candidates[second].content)
            return Vote(first, second, "tie" if gap == 0 else "first" if gap > 0 else "second"), Usage(
                1, 1, 1
            )

        return await all_pairs_both_seats(len(candidates), compare, seed)


def collect(trees: Iterable[StepTree]) -> tuple[list[StepPreference], Counter[str]]:
    """All preferences, in the order of problem id and depth, and the outcome of every level."""
    rows: list[StepPreference] = []
    outcomes: Counter[str] = Counter()
    for tree in trees:
        rows += tree_preferences(tree)
        outcomes.update(level_outcome(level) for level in tree.levels)
    rows.sort(key=lambda row: (row.problem_id, row.depth))
    return rows, outcomes
